"""What the store holds of a study and its trials, read leniently; and what is added to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from optuna.study import Study, StudyDirection
from pydantic import TypeAdapter, ValidationError

from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import StudyError
from spec_opt.results.pareto import fastest_for_their_mse, pareto_mask, without_rounding
from spec_opt.study.constraints import is_feasible
from spec_opt.study.reading import StoredTrial
from spec_opt.study.space import asks_for, asks_for_variant, setting_of
from spec_opt.study.store import Store
from spec_opt.study.study import DIRECTIONS, config_of, update_attribute
from spec_opt.study.trials import IMPORTED, VARIANT_KEY, WITHDRAWN, Trial

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)

Stored = TypeVar("Stored")


Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Completed:
    """The completed trials of a study whose parameters are a setting, and of each:"""

    trials: Sequence[StoredTrial]
    values: Floats
    """`[n, objectives]`, as stored, save for differences by rounding: see `without_rounding`."""
    asked: Flags
    """Whether the search asks for its setting."""
    feasible: Flags
    on_front: Flags
    """Whether no other of those that are asked for and feasible beats it."""

    @classmethod
    def of(
        cls,
        pairs: Iterable[tuple[StoredTrial, Setting | None]],
        signs: Sequence[float],
        search: SearchConfig | None,
        config: StudyConfig | None,
    ) -> Self:
        """Those among the trials of a study, given with their settings."""
        done = [(t, s) for t, s in pairs if s and t.is_complete and is_finite(t)]
        trials = [trial for trial, _ in done]
        stored = [trial.values for trial in trials]
        values = np.asarray(stored, dtype=np.float64).reshape(-1, len(signs))
        values = np.apply_along_axis(without_rounding, 0, values)
        asked = np.asarray([is_asked(*pair, search, config) for pair in done], dtype=np.bool_)
        feasible = np.asarray([is_feasible(t.system_attributes) for t in trials], dtype=np.bool_)
        on_front, fit = np.zeros_like(asked), asked & feasible
        on_front[fit] = pareto_mask(values[fit] * signs)
        return cls(trials, values, asked, feasible, on_front)

    @property
    def all_fit(self) -> bool:
        return bool((self.asked & self.feasible).all())

    def numbers(self, of: Flags) -> frozenset[int]:
        """The numbers of some of them."""
        return frozenset(trial.number for trial in compress(self.trials, of))

    def fastest(self, predicted: Mapping[int | None, float | None]) -> Flags:
        """Which of them no other one beats in both predicted speedup and MSE.

        Args:
            predicted: by number, of trials that do not hold it themselves.
        """
        speeds = [
            t.user_attributes.get("predicted_speedup", predicted.get(t.number)) for t in self.trials
        ]
        return fastest_for_their_mse(speeds, self.values, self.asked & self.feasible)

    def results(self, of: Flags) -> dict[int, dict[str, Any]]:
        """What some of them measured, by number, besides their attributes."""
        flags = (self.on_front.tolist(), self.feasible.tolist(), of.tolist())
        found = zip(self.trials, self.values.tolist(), *flags, strict=True)
        return {
            trial.number: {
                "acceptance_rate": values[0], "mse": values[1], "pareto": flag, "feasible": keeps,
            }
            for trial, values, flag, keeps, is_wanted in found
            if is_wanted
        }  # fmt: skip


def is_finite(trial: StoredTrial) -> bool:
    if trial.values is not None and all(map(math.isfinite, trial.values)):
        return True
    log.warning("trial %d left out: its values %s are not finite", trial.number, trial.values)
    return False


def read_leniently(kind: TypeAdapter[Stored], stored: Mapping[str, Any]) -> Stored:
    """Validate stored attributes, leaving out those that do not fit their fields."""
    try:
        return kind.validate_python(stored)
    except ValidationError as error:
        unfit = {problem["loc"][0] for problem in error.errors()}
        return kind.validate_python({k: v for k, v in stored.items() if k not in unfit})


def signs_of(study: Study) -> list[float]:
    """Of each objective: -1 where it is maximized, so that less is better.

    Raises:
        StudyError: it is not a study of acceptance rate and MSE.
    """
    directions = list(study.directions)
    if directions not in (list(DIRECTIONS.values())[:2], list(DIRECTIONS.values())):
        raise StudyError(
            f"study {study.study_name}: not one of spec-opt: its objectives are not "
            "acceptance_rate (maximize) and mse (minimize), with or without speedup (maximize)"
        )
    return [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]


def read_setting(trial: StoredTrial, study: Study) -> Setting | None:
    """None while a trial has none, and for one that another program put into a study of ours."""
    try:
        return setting_of(trial.params)
    except (KeyError, ValueError, TypeError) as error:
        if not trial.is_complete or "config" in study.user_attrs:
            return None
        raise StudyError(
            f"study {study.study_name}: not one of spec-opt: trial {trial.number} has parameters "
            f"{trial.params} that are no setting of sigma, bias and k"
        ) from error


def is_asked(
    trial: StoredTrial, setting: Setting, search: SearchConfig | None, config: StudyConfig | None
) -> bool:
    """Whether a search asks for a trial's setting and variant."""
    if search is None or trial.row.source == IMPORTED:
        return True
    if not asks_for(search, setting):
        return False
    if config is None or not (search.varied or VARIANT_KEY in trial.user_attributes):
        return True
    held = {VARIANT_KEY: trial.user_attributes.get(VARIANT_KEY, {})}
    variant = read_leniently(_VARIANTS, held).get(VARIANT_KEY, AS_WRITTEN)
    return asks_for_variant(config.model_copy(update={"search": search}), variant)


_VARIANTS = TypeAdapter(dict[str, Variant])


def read_config(name: str, stored: Any) -> StudyConfig | None:
    if stored is None:
        return None
    try:
        return config_of(name, stored)
    except (ValidationError, TypeError, AttributeError):
        log.warning("the study's stored configuration is not readable: defaults are used")
        return None


def state_of(trial: Trial) -> str:
    """A trial's state as a word; one that the study file stopped asking for did not fail."""
    return WITHDRAWN if trial.failure == WITHDRAWN else trial.state.name.lower()


def keep_records(
    store: Store, name: str, key: str, new: Sequence[DataclassInstance], identity: Sequence[str]
) -> None:
    """Add records to a study's list; each replaces that which equals it in all of `identity`.

    Another process may do so at the same time: none of them is lost.

    Raises:
        StudyError: there is no study of that name.
    """

    def identified(stored: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(stored[name] for name in identity)

    added = [asdict(one) for one in new]
    replaced = {identified(one) for one in added}

    def change(old: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        return [*(one for one in old or [] if identified(one) not in replaced), *added]

    update_attribute(store, name, key, change)
