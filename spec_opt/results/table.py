"""A study's trials as typed records, with the Pareto front marked, and as a pandas frame.

Everything else in `spec_opt.results` works from a `StudyTable`, so a study is read once. User
attributes are read leniently: one that is absent, or is not of its field's type, is None.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, TypeVar

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spec_opt.config.study_file import RecommendConfig, SearchConfig, Setting, StudyConfig
from spec_opt.errors import StudyError
from spec_opt.measure.cost_model import BatchCosts, LearntCosts
from spec_opt.measure.measurement import Baseline, Blocks, Fingerprints
from spec_opt.results.judgement import Judgement
from spec_opt.results.pareto import pareto_mask, without_rounding
from spec_opt.study.constraints import is_feasible
from spec_opt.study.ending import Ending
from spec_opt.study.space import asks_for, setting_of
from spec_opt.study.store import Store, look_at_store
from spec_opt.study.study import DIRECTIONS
from spec_opt.study.times import utc_times
from spec_opt.study.trials import IMPORTED, all_attributes

log = logging.getLogger(__name__)

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Stored = TypeVar("Stored", bound=BaseModel)


class Result(BaseModel):
    """What a completed trial measured, in the order of the frame's columns.

    `Measurement` says what each field means. None is what the trial does not hold; imported trials
    lack most of it.
    """

    model_config = ConfigDict(frozen=True)

    acceptance_rate: float
    """As stored, save for differences by rounding: see `without_rounding`."""
    mse: float
    pareto: bool
    """Whether no other feasible trial is at least as good in all objectives and better in one."""
    feasible: bool = True
    """Whether it keeps the constraints of the search."""
    mae: Number | None = None
    acceptance_se: Number | None = None
    acceptance_ci95: Number | None = None
    mse_se: Number | None = None
    mse_ci95: Number | None = None
    mse_baseline: Number | None = None
    """The target's own MSE on the same windows."""
    mse_ratio: Number | None = None
    """mse / mse_baseline."""
    predicted_speedup: Number | None = None
    patches_per_round: Number | None = None
    windows: Count | None = None
    patches: Count | None = None
    rounds: Count | None = None
    accepted: Count | None = None
    tested: Count | None = None
    proposed: Count | None = None
    bonus: Count | None = None
    accepted_by_position: tuple[Count, ...] | None = None
    tested_by_position: tuple[Count, ...] | None = None
    target_evaluations: Count | None = None
    draft_evaluations: Count | None = None
    thinning_exhausted: Count | None = None
    evaluation_seconds: Number | None = None
    total_time_s: Number | None = None
    """Imported trials only: seconds of the whole process in the old table."""
    source: str | None = None
    """measured, imported, or repeated (copied from an earlier trial of the same setting)."""
    blocks: Blocks | None = None
    """The windows in runs, from which the noise of differences between trials follows."""

    @property
    def imported(self) -> bool:
        return self.source == IMPORTED


class TrialRow(BaseModel):
    """One trial in any state, in the order of the frame's columns."""

    model_config = ConfigDict(frozen=True)

    number: int
    state: str
    setting: Setting | None
    """None for a trial that has not drawn its setting yet."""
    result: Result | None
    """None unless the trial is complete."""
    grid_point: Count | None = None
    device: str | None = None
    worker: str | None = None
    commit: str | None = None
    target_fingerprint: str | None = None
    draft_fingerprint: str | None = None
    data_fingerprint: str | None = None
    decoding_fingerprint: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    error: str | None = None
    attributes: Mapping[str, Any]
    """All user attributes as stored, and the long ones that are stored apart from them."""


class Point(TrialRow):
    """A completed trial."""

    setting: Setting
    result: Result


CHEAPER = 1.1
"""A draft must be this much faster than its target to be worth using alone."""
FEWEST_RUNS = 3
"""With fewer runs, "in every run" says too little."""


@dataclass(frozen=True)
class Speedup:
    """Time of the target alone over that of a setting or of the draft alone, on one device."""

    trial: int | None
    """None for the draft alone."""
    device: str
    batch_size: int
    predicted_speedup: float | None
    speedup: float | None
    """As measured, by medians over runs; None if it was only predicted."""
    speedup_low: float | None = None
    """In the slowest run."""
    speedup_high: float | None = None
    """In the fastest run."""
    runs: int = 0
    """How often it was measured; not known (0) of results of older versions."""

    @property
    def value(self) -> float:
        """Measured, else predicted, else 0."""
        return self.speedup or self.predicted_speedup or 0.0

    @property
    def measured(self) -> bool:
        return self.speedup is not None

    @property
    def is_reliable(self) -> bool:
        """Whether it was measured often enough to speak of every run."""
        return self.runs >= FEWEST_RUNS

    @property
    def is_faster(self) -> bool:
        """Whether every run was faster than the target alone."""
        return self.is_reliable and self.speedup_low is not None and self.speedup_low > 1.0

    @property
    def is_slower(self) -> bool:
        """Whether every run was slower than the target alone, or the median is so by far."""
        if not self.is_reliable or self.speedup is None or self.speedup_high is None:
            return False
        return self.speedup_high < 1.0 or self.speedup * CHEAPER < 1.0

    @property
    def at_least(self) -> float:
        """The lowest measured speedup that is known; 0 where nothing was measured."""
        return (self.speedup if self.speedup_low is None else self.speedup_low) or 0.0


class StudyTable(BaseModel):
    """All trials of a study, and what the study holds about itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    trials: tuple[TrialRow, ...]
    """By number; the completed ones are `Point`s."""
    config: StudyConfig | None
    baseline: Baseline | None = None
    fingerprints: Fingerprints | None = None
    versions: dict[str, str] = {}
    costs: dict[str, LearntCosts] = {}
    """By device, precision, context, batch size and threads: what `predicted_speedup` rests on."""
    batch_costs: tuple[BatchCosts, ...] = ()
    """What benches learnt at single batch sizes."""
    series: dict[str, Any] = {}
    """What was read, as `SeriesSummary` says it."""
    models: dict[str, Any] = {}
    """What is known of target and draft."""
    speedups: tuple[Speedup, ...] = ()
    """What `spec-opt bench` stored."""
    ended: Ending | None = None
    """Why the last workers left, as they stored it."""
    not_asked: frozenset[int] = frozenset()
    """Completed trials whose settings the study file no longer asks for; not among `points`."""
    judgements: tuple[Judgement, ...] = ()
    """What `spec-opt confirm` stored: one a scenario and split."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the study optimises, in the order of its trials' values."""
        return SearchConfig().objectives if self.config is None else self.config.search.objectives

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The completed trials by number, with settings that the study asks for."""
        return tuple(p for p in self.completed if p.number not in self.not_asked)

    @property
    def completed(self) -> tuple[Point, ...]:
        """The completed trials by number."""
        return tuple(row for row in self.trials if isinstance(row, Point))

    @property
    def of_others(self) -> int:
        """Completed trials of another program, whose parameters are no setting."""
        return sum(row.state == "complete" and row.setting is None for row in self.trials)

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front from the highest acceptance down; among equals the mildest first."""
        return tuple(sorted((p for p in self.points if p.result.pareto), key=by_acceptance))

    @cached_property
    def distinct_front(self) -> tuple[tuple[Point, ...], ...]:
        """The front grouped by equal results, in its order."""
        return tuple(tuple(block) for _, block in groupby(self.front, key=outcome_of))

    @cached_property
    def states(self) -> Mapping[str, int]:
        """The number of trials in each state."""
        return Counter(row.state for row in self.trials)

    @cached_property
    def target_mse(self) -> float | None:
        """The target's own MSE, from the study or else from its trials; None if not known."""
        if self.baseline is not None:
            return self.baseline.target_mse
        known = {p.result.mse_baseline for p in self.points} - {None}
        return known.pop() if len(known) == 1 else None

    @property
    def equivalence_margin(self) -> float:
        """By what share of the target's MSE an MSE may exceed it and count as accurate as it."""
        config = RecommendConfig() if self.config is None else self.config.recommend
        return config.equivalence_margin

    @property
    def levels(self) -> dict[str, float]:
        """The MSE of target, draft and a linear model alone, where known."""
        if self.baseline is not None:
            return self.baseline.levels
        return {} if self.target_mse is None else {"target alone": self.target_mse}

    @cached_property
    def imported(self) -> int:
        """The number of completed trials that were imported."""
        return sum(point.result.imported for point in self.points)

    def point(self, number: int) -> Point:
        """A completed trial by its number.

        Raises:
            StudyError: there is no such trial.
        """
        for point in self.completed:
            if point.number == number:
                return point
        raise StudyError(
            f"study {self.name}: it has no completed trial {number}; `spec-opt export --all` "
            "lists them"
        )

    def check_fingerprints(self, found: Fingerprints) -> None:
        """Raise unless the study was measured with these models, data and decoding.

        Raises:
            StudyError: it was measured with others.
        """
        if self.fingerprints not in (None, found):
            raise StudyError(
                f"study {self.name}: was measured with other models, data or decoding than the "
                "study file gives now"
            )

    @property
    def bench_device(self) -> str | None:
        """The device that was benched last; speedups on others are not compared with it."""
        return self.speedups[-1].device if self.speedups else None

    def measured_speedups(self, number: int | None) -> tuple[Speedup, ...]:
        """Those of a trial, or of the draft alone (None), on the device benched last."""
        return tuple(
            s
            for s in self.speedups
            if s.trial == number and s.device == self.bench_device and s.measured
        )

    def measured_speedup(self, number: int) -> Speedup | None:
        """The best measured speedup of a trial; one above 1 in every run goes first."""
        return max(
            self.measured_speedups(number), key=lambda s: (s.at_least > 1.0, s.value), default=None
        )

    def speedup_of(self, point: Point) -> float | None:
        """The best measured speedup of a trial, else the predicted one."""
        measured = self.measured_speedup(point.number)
        return point.result.predicted_speedup if measured is None else measured.value


def outcome_of(point: Point) -> tuple[float, float]:
    """Equal for trials with equal results; on a front of three objectives the third agrees too."""
    return point.result.acceptance_rate, point.result.mse


def by_acceptance(point: Point) -> tuple[float, ...]:
    """Sort key: highest acceptance, then lowest MSE, then the mildest setting."""
    return (-point.result.acceptance_rate, point.result.mse, *mildness(point))


def by_mse(point: Point) -> tuple[float, ...]:
    """Sort key: lowest MSE, then highest acceptance, then the mildest setting."""
    return (point.result.mse, -point.result.acceptance_rate, *mildness(point))


def mildness(point: Point) -> tuple[float, ...]:
    """Sort key among equal results: lowest bias, lowest sigma, smallest k, oldest trial.

    At 100 % acceptance whole blocks of a grid give the same forecasts; the mildest setting is the
    one that changes the target's distribution least.
    """
    setting = point.setting
    return (setting.bias, setting.sigma, setting.k, point.number)


def load_table(url: str, config: StudyConfig) -> StudyTable:
    """The trials of a study in a store, measured or imported.

    Raises:
        StudyError: there is no such store or study; neither is made.
    """
    with look_at_store(url) as store:
        return table_of(store, config)


def table_of(store: Store, config: StudyConfig) -> StudyTable:
    """The trials of a study in an opened store, of whose settings `config` asks for some.

    Raises:
        StudyError: the store does not hold the study.
        StoreError: the store was out of reach for long.
    """
    study = store.optuna_study(config.name)
    return store.patiently(lambda: read_table(study, config.search))


def read_table(study: Study, search: SearchConfig | None = None) -> StudyTable:
    """Read a study and all its trials.

    Args:
        study: As Optuna has it.
        search: The settings that are asked for now. Trials measured in another space are kept
            apart; imported ones stay. By default all are asked for.

    Raises:
        StudyError: it is not a study of acceptance rate and MSE over sigma, bias and k.
    """
    directions = list(study.directions)
    if directions not in (list(DIRECTIONS.values())[:2], list(DIRECTIONS.values())):
        raise StudyError(
            f"study {study.study_name}: not one of spec-opt: its objectives are not "
            "acceptance_rate (maximize) and mse (minimize), with or without speedup (maximize)"
        )
    frozen = study.get_trials(deepcopy=False)
    settings = [_read_setting(trial, study) for trial in frozen]
    pairs = zip(frozen, settings, strict=True)
    done = [(t, s) for t, s in pairs if s and t.state == TrialState.COMPLETE and _is_finite(t)]
    complete = [trial for trial, _ in done]
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    values = np.asarray([t.values for t in complete], dtype=np.float64).reshape(-1, len(signs))
    values = np.apply_along_axis(without_rounding, 0, values)
    config = _read_config(study.study_name, study.user_attrs.get("config"))
    asked = np.asarray([_is_asked(*pair, search) for pair in done], dtype=np.bool_)
    on_front = np.zeros(len(done), dtype=np.bool_)
    fit = asked & np.asarray([is_feasible(trial) for trial in complete], dtype=np.bool_)
    on_front[fit] = pareto_mask(values[fit] * signs)
    not_asked = frozenset(done[index][0].number for index in np.flatnonzero(~asked))
    own = {"name": study.study_name, "trials": (), "config": config, "not_asked": not_asked}
    table = _read(StudyTable, study.user_attrs | own)
    predicted = {s.trial: s.predicted_speedup for s in reversed(table.speedups)}
    results = {
        trial.number: _read_result(trial, row[0], row[1], bool(flag), predicted.get(trial.number))
        for trial, row, flag in zip(complete, values.tolist(), on_front, strict=True)
    }
    rows = zip(frozen, settings, strict=True)
    trials = tuple(_read_row(t, setting, results.get(t.number)) for t, setting in rows)
    return table.model_copy(update={"trials": trials})


def _is_finite(trial: FrozenTrial) -> bool:
    if trial.values is not None and all(map(math.isfinite, trial.values)):
        return True
    log.warning("trial %d left out: its values %s are not finite", trial.number, trial.values)
    return False


def _read(model: type[Stored], stored: Mapping[str, Any]) -> Stored:
    """Validate stored attributes, leaving out those that do not fit their fields."""
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        unfit = {problem["loc"][0] for problem in error.errors()}
        return model.model_validate({k: v for k, v in stored.items() if k not in unfit})


def _read_result(
    trial: FrozenTrial, acceptance_rate: float, mse: float, pareto: bool, predicted: float | None
) -> Result:
    values = {"acceptance_rate": acceptance_rate, "mse": mse, "pareto": pareto}
    values["feasible"] = is_feasible(trial)
    read = _read(Result, all_attributes(trial.user_attrs, trial.system_attrs) | values)
    base, own = read.mse_baseline, read.predicted_speedup
    return read.model_copy(
        update={
            "mse_ratio": read.mse / base if base else None,
            "predicted_speedup": predicted if own is None else own,
        }
    )


def _read_row(trial: FrozenTrial, setting: Setting | None, result: Result | None) -> TrialRow:
    own = {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "setting": setting,
        "result": result,
        **utc_times(trial),
        "attributes": all_attributes(trial.user_attrs, trial.system_attrs),
    }
    return _read(TrialRow if result is None else Point, trial.user_attrs | own)


def _read_setting(trial: FrozenTrial, study: Study) -> Setting | None:
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


def _is_asked(trial: FrozenTrial, setting: Setting, search: SearchConfig | None) -> bool:
    imported = trial.user_attrs.get("source") == IMPORTED
    return search is None or imported or asks_for(search, setting)


def _read_config(name: str, stored: Any) -> StudyConfig | None:
    if stored is None:
        return None
    try:  # a copy of a study under another name holds the file of the original
        return StudyConfig.model_validate_json(json.dumps({**stored, "name": name}))
    except (ValidationError, TypeError):
        log.warning("the study's stored configuration is not readable: defaults are used")
        return None
