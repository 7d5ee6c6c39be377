"""A study's trials as typed rows and as a documented pandas frame, with the Pareto front marked.

Everything else in `spec_opt.results` works from a `StudyTable`, so a study is read once. Trials
that were imported lack most attributes: what is not known is None, in every field that may be.

Reading user attributes of studies and trials by type: absent or of another type is None.

A `StudyTable` as a pandas frame. Kept apart so that only who needs pandas loads it.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache, cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, TypeAdapter, ValidationError

from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig
from spec_opt.errors import StudyError
from spec_opt.measure.measurement import Baseline, Blocks, Fingerprints

if TYPE_CHECKING:
    pass

RecordType = TypeVar("RecordType")
TableType = TypeVar("TableType", bound=BaseModel)


class Attributes:
    """A typed view on a mapping of user attributes, as JSON gives them back."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self._stored = stored

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._stored.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) else None

    def count(self, name: str) -> int | None:
        """A whole number that is not negative."""
        value = self._stored.get(name)
        return value if _is_count(value) else None

    def counts(self, name: str) -> tuple[int, ...] | None:
        """A list of counts."""
        value = self._stored.get(name)
        if not isinstance(value, (list, tuple)) or not all(map(_is_count, value)):
            return None
        return tuple(value)

    def text(self, name: str) -> str | None:
        value = self._stored.get(name)
        return value if isinstance(value, str) else None

    def texts(self, name: str) -> dict[str, str]:
        """A table of texts; empty if absent."""
        value = self._stored.get(name)
        if not isinstance(value, dict):
            return {}
        return {str(key): str(entry) for key, entry in value.items()}

    def record(self, name: str, kind: type[RecordType]) -> RecordType | None:
        """A frozen dataclass stored as a table of its fields; keys that it does not have pass."""
        value = self._stored.get(name)
        if not isinstance(value, dict):
            return None
        try:
            found: RecordType = _adapter(kind).validate_python(value)
        except ValidationError:
            return None
        return found

    def records(self, name: str, kind: type[RecordType]) -> tuple[RecordType, ...]:
        """A list of frozen dataclasses, each stored as a table of its fields; empty if absent."""
        value = self._stored.get(name)
        if not isinstance(value, list):
            return ()
        try:
            return tuple(TypeAdapter(list[kind]).validate_python(value))  # type: ignore[valid-type]
        except ValidationError:
            return ()

    def validated(self, name: str, kind: type[TableType]) -> TableType | None:
        """A pydantic model stored in its JSON form.

        Raises:
            pydantic.ValidationError: it is there and does not fit.
        """
        value = self._stored.get(name)
        return None if value is None else kind.model_validate_json(json.dumps(value))

    def trial_fingerprints(self) -> Fingerprints | None:
        """The four fingerprints that a measured trial carries."""
        found = {f.name: self.text(f"{f.name}_fingerprint") for f in fields(Fingerprints)}
        complete = {name: value for name, value in found.items() if value is not None}
        return Fingerprints(**complete) if len(complete) == len(found) else None


_adapter: Callable[[type], TypeAdapter[Any]] = cache(TypeAdapter)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


log = logging.getLogger(__name__)

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Of the objectives acceptance_rate and mse."""
SPEEDUP_DIRECTION = StudyDirection.MAXIMIZE
"""Of the third, where a study has it."""


@dataclass(frozen=True)
class Result:
    """What a completed trial measured; None where the trial does not tell."""

    acceptance_rate: float
    mse: float
    pareto: bool
    """Whether no other result is at least as good in all objectives and better in one."""
    mae: float | None
    acceptance_se: float | None
    mse_se: float | None
    mse_baseline: float | None
    """The target's own MSE on the same windows."""
    windows: int | None
    accepted: int | None
    tested: int | None
    proposed: int | None
    rounds: int | None
    bonus: int | None
    patches: int | None
    patches_per_round: float | None
    accepted_by_position: tuple[int, ...] | None
    tested_by_position: tuple[int, ...] | None
    target_evaluations: int | None
    draft_evaluations: int | None
    thinning_exhausted: int | None
    evaluation_seconds: float | None
    total_time_s: float | None
    """Only of imported trials: the seconds of the whole process in the old table."""
    predicted_speedup: float | None
    source: str | None
    """measured, imported, or repeated (a setting met again, its result copied)."""
    blocks: Blocks | None
    """What differences to other trials are judged by."""

    @property
    def imported(self) -> bool:
        return self.source == "imported"


@dataclass(frozen=True)
class TrialRow:
    """One trial in any state; `result` is there when it is complete."""

    number: int
    state: str
    setting: Setting | None
    """None for a trial that has not drawn its setting yet."""
    result: Result | None
    error: str | None
    worker: str | None
    device: str | None
    commit: str | None
    fingerprints: Fingerprints | None
    grid_point: int | None
    started: datetime | None
    finished: datetime | None
    attributes: Mapping[str, Any]
    """All user attributes as stored."""


@dataclass(frozen=True)
class Speedup:
    """One setting's decoding speed over target-only decoding, at one batch size."""

    trial: int
    device: str
    batch_size: int
    predicted_speedup: float | None
    speedup: float | None
    """As measured; None where only the cost model has spoken."""
    speedup_low: float | None = None
    """In the slowest run."""

    @property
    def at_least(self) -> float:
        """What was seen in every run, as far as is known; 0 where nothing was measured."""
        return (self.speedup if self.speedup_low is None else self.speedup_low) or 0.0


@dataclass(frozen=True)
class Point:
    """A completed trial, its number and setting beside its result."""

    number: int
    setting: Setting
    result: Result


@dataclass(frozen=True)
class StudyTable:
    """All trials of a study, with what the study says about itself."""

    name: str
    trials: tuple[TrialRow, ...]
    """In the order of their numbers."""
    config: StudyConfig | None
    baseline: Baseline | None
    fingerprints: Fingerprints | None
    versions: Mapping[str, str]
    speedups: tuple[Speedup, ...]
    """What `spec-opt bench` left in the study's user attribute `speedups`."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the study optimises, in the order of its trials' values."""
        return SearchConfig().objectives if self.config is None else self.config.search.objectives

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The completed trials, in the order of their numbers."""
        return tuple(
            Point(row.number, row.setting, row.result)
            for row in self.trials
            if row.result is not None and row.setting is not None
        )

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front from the highest acceptance down; of equals the mildest first."""
        return tuple(sorted((p for p in self.points if p.result.pareto), key=by_acceptance))

    @cached_property
    def distinct_front(self) -> tuple[tuple[Point, ...], ...]:
        """The front in blocks of equal results, in its order: the mildest leads each block."""
        return tuple(tuple(block) for _, block in groupby(self.front, key=outcome_of))

    @cached_property
    def states(self) -> Mapping[str, int]:
        """How many trials are in each state."""
        return Counter(row.state for row in self.trials)

    @cached_property
    def target_mse(self) -> float | None:
        """The target's own MSE: from the study, else from the trials; None if neither knows it."""
        if self.baseline is not None:
            return self.baseline.target_mse
        known = {p.result.mse_baseline for p in self.points} - {None}
        return known.pop() if len(known) == 1 else None

    @property
    def levels(self) -> dict[str, float]:
        """The MSE of the target alone and of the draft alone, as far as they are known."""
        draft = None if self.baseline is None else self.baseline.draft_mse
        known = {"target alone": self.target_mse, "draft alone": draft}
        return {name: mse for name, mse in known.items() if mse is not None}

    @cached_property
    def imported(self) -> int:
        """How many of the completed trials were imported."""
        return sum(point.result.imported for point in self.points)

    def point(self, number: int) -> Point:
        """A completed trial by its number.

        Raises:
            StudyError: there is none.
        """
        for point in self.points:
            if point.number == number:
                return point
        raise StudyError(
            f"study {self.name}: it has no completed trial {number}; `spec-opt export --all` "
            "lists them"
        )

    def measured_speedup(self, number: int) -> Speedup | None:
        """The best measured speedup of a trial over batch sizes and devices: a clear one first."""
        measured = [s for s in self.speedups if s.trial == number and s.speedup is not None]
        return max(measured, key=lambda s: (s.at_least > 1.0, s.speedup or 0.0), default=None)


def outcome_of(point: Point) -> tuple[float, float]:
    """What makes two results equal. On a front of three objectives the third is equal then too."""
    return point.result.acceptance_rate, point.result.mse


def by_acceptance(point: Point) -> tuple[float, ...]:
    """Sort key: highest acceptance, then lowest MSE, then the mildest setting."""
    return (-point.result.acceptance_rate, point.result.mse, *mildness(point))


def by_mse(point: Point) -> tuple[float, ...]:
    """Sort key: lowest MSE, then highest acceptance, then the mildest setting."""
    return (point.result.mse, -point.result.acceptance_rate, *mildness(point))


def mildness(point: Point) -> tuple[float, ...]:
    """Sort key among equal results: the setting that bends the target least, then the older trial.

    With 100 % acceptance whole blocks of a grid give the same forecasts. The order within such a
    block is lowest bias, lowest sigma, fewest proposals, lowest number.
    """
    setting = point.setting
    return (setting.bias, setting.sigma, setting.k, point.number)


def read_table(study: Study) -> StudyTable:
    """Read all of a study, once.

    Raises:
        StudyError: it is not a study of acceptance rate and MSE over sigma, bias and k.
    """
    if tuple(study.directions) not in (DIRECTIONS, (*DIRECTIONS, SPEEDUP_DIRECTION)):
        raise StudyError(
            f"study {study.study_name}: not one of spec-opt: its objectives are not "
            "acceptance_rate (maximize) and mse (minimize), with or without speedup (maximize)"
        )
    frozen = study.get_trials(deepcopy=False)
    complete = [t for t in frozen if t.state == TrialState.COMPLETE and _is_finite(t)]
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
    values = np.asarray([t.values for t in complete], dtype=np.float64)
    on_front = pareto_mask(values.reshape(-1, len(signs)) * signs)
    about = Attributes(study.user_attrs)
    speedups = about.records("speedups", Speedup)
    predicted = {s.trial: s.predicted_speedup for s in reversed(speedups)}
    results = {
        trial.number: _read_result(trial, bool(flag), predicted.get(trial.number))
        for trial, flag in zip(complete, on_front, strict=True)
    }
    return StudyTable(
        name=study.study_name,
        trials=tuple(_read_row(t, results.get(t.number), study.study_name) for t in frozen),
        config=_read_config(about),
        baseline=about.record("baseline", Baseline),
        fingerprints=about.record("fingerprints", Fingerprints),
        versions=about.texts("versions"),
        speedups=speedups,
    )


def pareto_mask(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points, `[n, objectives]` to be minimised, are on the Pareto front: `[n]`.

    Equal points are all on it, or all off it. The same front as Optuna's `best_trials`, without
    copying every trial of the study.
    """
    if len(losses) == 0:
        return np.zeros(0, dtype=np.bool_)
    unique, inverse = np.unique(losses, axis=0, return_inverse=True)
    on_front = np.ones(len(unique), dtype=np.bool_)
    if unique.shape[1] == 2:
        # In the order of the first, a point is on the front when it is below all before it.
        lowest = np.minimum.accumulate(unique[:, 1])
        on_front[1:] = lowest[1:] < lowest[:-1]
    else:
        for index, point in enumerate(unique):
            # What dominates a point stands before it in this order.
            on_front[index] = not (unique[:index] <= point).all(axis=1).any()
    return on_front[inverse.reshape(-1)]


def _is_finite(trial: FrozenTrial) -> bool:
    values: Sequence[float] = trial.values
    if all(math.isfinite(value) for value in values):
        return True
    log.warning("trial %d left out: its values %s are not finite", trial.number, values)
    return False


READERS: Mapping[object, Callable[[Attributes, str], Any]] = {
    "float | None": Attributes.number,
    "int | None": Attributes.count,
    "tuple[int, ...] | None": Attributes.counts,
    "str | None": Attributes.text,
    "Blocks | None": partial(Attributes.record, kind=Blocks),
}
"""How an attribute is read, by the type of its field in `Result`."""


def _read_result(trial: FrozenTrial, pareto: bool, predicted: float | None) -> Result:
    stored = Attributes(trial.user_attrs)
    known = {f.name: READERS[f.type](stored, f.name) for f in fields(Result) if f.type in READERS}
    if known["predicted_speedup"] is None:
        known["predicted_speedup"] = predicted
    return Result(acceptance_rate=trial.values[0], mse=trial.values[1], pareto=pareto, **known)


def _read_row(trial: FrozenTrial, result: Result | None, study_name: str) -> TrialRow:
    attributes = Attributes(trial.user_attrs)
    return TrialRow(
        number=trial.number,
        state=trial.state.name.lower(),
        setting=_read_setting(trial, study_name),
        result=result,
        error=attributes.text("error"),
        worker=attributes.text("worker"),
        device=attributes.text("device"),
        commit=attributes.text("commit"),
        fingerprints=attributes.trial_fingerprints(),
        grid_point=attributes.count("grid_point"),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
        attributes=trial.user_attrs,
    )


def _read_setting(trial: FrozenTrial, study_name: str) -> Setting | None:
    params = trial.params
    if {"sigma", "bias", "k"} <= params.keys():
        try:
            return Setting(
                sigma=float(params["sigma"]), bias=float(params["bias"]), k=int(params["k"])
            )
        except (ValueError, TypeError, ValidationError) as error:
            raise StudyError(
                f"study {study_name}: trial {trial.number} has parameters {params} "
                "that are no setting of sigma, bias and k"
            ) from error
    if trial.state == TrialState.COMPLETE:
        raise StudyError(
            f"study {study_name}: not one of spec-opt: trial {trial.number} has parameters "
            f"{sorted(params)} instead of sigma, bias and k"
        )
    return None


def _read_config(about: Attributes) -> StudyConfig | None:
    try:
        return about.validated("config", StudyConfig)
    except ValidationError:
        log.warning("the study's stored configuration is not readable: defaults are used")
        return None


DTYPES = {
    "number": "int64",
    "state": "string",
    "sigma": "float64",
    "bias": "float64",
    "k": "Int64",
    "acceptance_rate": "float64",
    "mse": "float64",
    "pareto": "bool",
    "mae": "float64",
    "acceptance_se": "float64",
    "mse_se": "float64",
    "mse_baseline": "float64",
    "mse_ratio": "float64",
    "predicted_speedup": "float64",
    "patches_per_round": "float64",
    "windows": "Int64",
    "patches": "Int64",
    "rounds": "Int64",
    "accepted": "Int64",
    "tested": "Int64",
    "proposed": "Int64",
    "bonus": "Int64",
    "accepted_by_position": "object",
    "tested_by_position": "object",
    "target_evaluations": "Int64",
    "draft_evaluations": "Int64",
    "thinning_exhausted": "Int64",
    "evaluation_seconds": "float64",
    "total_time_s": "float64",
    "source": "string",
    "grid_point": "Int64",
    "device": "string",
    "worker": "string",
    "commit": "string",
    "target_fingerprint": "string",
    "draft_fingerprint": "string",
    "data_fingerprint": "string",
    "decoding_fingerprint": "string",
    "started": "datetime64[ns]",
    "finished": "datetime64[ns]",
    "error": "string",
}
"""All columns with their types, in their order; docs/export.md describes each."""

COLUMNS = tuple(DTYPES)
LISTS = tuple(name for name, dtype in DTYPES.items() if dtype == "object")


def frame_of(table: StudyTable) -> pd.DataFrame:
    """One row a trial, columns as `COLUMNS`, indexed 0, 1, …"""
    frame = pd.DataFrame([_record(row) for row in table.trials], columns=list(COLUMNS))
    return frame.astype(DTYPES)


def _record(row: TrialRow) -> dict[str, Any]:
    setting = {} if row.setting is None else row.setting.model_dump()
    result = {} if row.result is None else _of_result(row.result)
    hashes = {} if row.fingerprints is None else vars(row.fingerprints)
    fingerprints = {f"{name}_fingerprint": text for name, text in hashes.items()}
    return {"pareto": False} | vars(row) | setting | result | fingerprints


def _of_result(result: Result) -> dict[str, Any]:
    record = dict(vars(result))
    for name in LISTS:
        record[name] = None if record[name] is None else list(record[name])
    base = result.mse_baseline
    record["mse_ratio"] = result.mse / base if base else None
    return record
