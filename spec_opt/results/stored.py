"""What the store holds of a study and its trials, read leniently."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter, ValidationError

from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import StudyError
from spec_opt.study.space import asks_for, asks_for_variant, setting_of
from spec_opt.study.study import DIRECTIONS, config_of
from spec_opt.study.trials import FAILURE_KEY, IMPORTED, VARIANT_KEY, WITHDRAWN

log = logging.getLogger(__name__)

Stored = TypeVar("Stored")


def is_finite(trial: FrozenTrial) -> bool:
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


def read_setting(trial: FrozenTrial, study: Study) -> Setting | None:
    """None while a trial has none, and for one that another program put into a study of ours."""
    try:
        return setting_of(trial.params)
    except (KeyError, ValueError, TypeError) as error:
        if trial.state != TrialState.COMPLETE or "config" in study.user_attrs:
            return None
        raise StudyError(
            f"study {study.study_name}: not one of spec-opt: trial {trial.number} has parameters "
            f"{trial.params} that are no setting of sigma, bias and k"
        ) from error


def is_asked(
    trial: FrozenTrial, setting: Setting, search: SearchConfig | None, config: StudyConfig | None
) -> bool:
    """Whether a search asks for a trial's setting and variant."""
    if search is None or trial.user_attrs.get("source") == IMPORTED:
        return True
    if not asks_for(search, setting):
        return False
    if config is None or not (search.varied or VARIANT_KEY in trial.user_attrs):
        return True
    held = {VARIANT_KEY: trial.user_attrs.get(VARIANT_KEY, {})}
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


def state_of(trial: FrozenTrial) -> str:
    """A trial's state as a word; one that the study file stopped asking for did not fail."""
    is_withdrawn = trial.user_attrs.get(FAILURE_KEY) == WITHDRAWN
    return WITHDRAWN if is_withdrawn else trial.state.name.lower()
