"""Old sweep tables become complete trials of a study of their own, each once.

Result tables of the old sweep scripts: CSV rows become checked results, or reasons why not.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, insert, select, update

from spec_opt.config.study_file import Setting
from spec_opt.config.values import ObjectiveName
from spec_opt.errors import DataError, StudyError
from spec_opt.results.statistics import quiet_optuna
from spec_opt.results.wording import plural
from spec_opt.study.space import params_of
from spec_opt.study.store import FINITE, Store, trial_params, trial_values, trials
from spec_opt.study.study import DIRECTIONS
from spec_opt.study.trials import IMPORTED, NewTrial, add_trials, history, lock_study

NEEDED = ("sigma", "bias", "k", "mse", "acceptance_pct")

ROUNDING = 0.0051
"""Percent that acceptance_pct, written with two decimals, may differ from its counts."""


@dataclass(frozen=True)
class OldResult:
    """One row that can be believed."""

    setting: Setting
    acceptance_rate: float
    mse: float
    mae: float | None
    accepted: int | None
    attempted: int | None
    total_time_s: float | None

    @property
    def identity(self) -> tuple[float, ...]:
        """Equal for rows that are the same measurement."""
        s = self.setting
        return (s.sigma, s.bias, s.k, self.acceptance_rate, self.mse)


@dataclass(frozen=True)
class Rejected:
    """A row that was left out."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class _RowError(Exception):
    """Why a row cannot be believed."""


def read_tables(paths: Sequence[Path]) -> tuple[tuple[OldResult, ...], tuple[Rejected, ...]]:
    """All rows of some CSV files: the results, and what was left out.

    Headers repeated in the middle, as when halves of a sweep were concatenated, are passed over.

    Raises:
        DataError: a file cannot be read, or lacks a column that is needed, or no row at all can be
            believed: most likely the acceptance was never counted.
    """
    results: list[OldResult] = []
    rejected: list[Rejected] = []
    for path in paths:
        for line, row in _rows(path):
            try:
                results.append(_result(row))
            except _RowError as reason:
                rejected.append(Rejected(path.name, line, str(reason)))
    if not results:
        named = ", ".join(map(str, paths))
        why = f"the first of {plural(len(rejected), 'row')}: {rejected[0]}" if rejected else "empty"
        raise DataError(f"{named}: no row can be believed; {why}")
    return tuple(results), tuple(rejected)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file, by column name."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in NEEDED if name not in header]
            if missing:
                raise DataError(
                    f"{path}: lacks the column {missing[0]}; needed are {', '.join(NEEDED)}"
                )
            for cells in reader:
                stripped = [cell.strip() for cell in cells]
                if any(stripped) and stripped != header:
                    yield reader.line_num, dict(zip(header, stripped, strict=False))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from error


def _result(row: dict[str, str]) -> OldResult:
    k = _number(row, "k")
    if k != int(k):
        raise _RowError(f"k = {row['k']} is not a whole number")
    try:
        setting = Setting(sigma=_number(row, "sigma"), bias=_number(row, "bias"), k=int(k))
    except ValidationError as error:
        first = error.errors()[0]
        allowed = first["msg"].removeprefix("Value error, ").lower()
        raise _RowError(f"{first['loc'][0]} = {first['input']}: {allowed}") from error
    mse, mae = _number(row, "mse"), _optional(row, "mae")
    if mse < 0 or (mae is not None and mae < 0):
        raise _RowError("an error below 0 is impossible")
    accepted, attempted = _count(row, "accepted"), _count(row, "attempted")
    return OldResult(
        setting=setting,
        acceptance_rate=_acceptance(_number(row, "acceptance_pct"), accepted, attempted),
        mse=mse,
        mae=mae,
        accepted=accepted,
        attempted=attempted,
        total_time_s=_optional(row, "total_time_s"),
    )


def _acceptance(percent: float, accepted: int | None, attempted: int | None) -> float:
    """The acceptance rate, from the counts where there are any, as these are not rounded."""
    if not 0 <= percent <= 100:
        raise _RowError(f"acceptance_pct = {percent:g} is impossible")
    if accepted is None or attempted is None:
        return percent / 100
    if attempted == 0:
        raise _RowError(
            "attempted = 0: no proposal was counted, so the acceptance of 0 means nothing"
        )
    if accepted > attempted:
        raise _RowError(f"accepted = {accepted} of attempted = {attempted} is impossible")
    rate = accepted / attempted
    if abs(100 * rate - percent) > ROUNDING:
        raise _RowError(
            f"acceptance_pct = {percent:g} contradicts accepted / attempted = {100 * rate:.2f}%"
        )
    return rate


def _number(row: dict[str, str], name: str) -> float:
    value = _optional(row, name)
    if value is None:
        raise _RowError(f"{name} is {row.get(name) or 'missing'}")
    return value


def _optional(row: dict[str, str], name: str) -> float | None:
    """A finite number; None where the cell is empty or NA."""
    text = row.get(name, "")
    if text.upper() in ("", "NA", "N/A", "NAN", "NONE"):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise _RowError(f"{name} = {text!r} is not a number") from error
    if not math.isfinite(value):
        raise _RowError(f"{name} = {text} is not finite")
    return value


def _count(row: dict[str, str], name: str) -> int | None:
    value = _optional(row, name)
    if value is None:
        return None
    if value < 0 or value != int(value):
        raise _RowError(f"{name} = {row[name]} is not a count")
    return int(value)


def rejection_text(rejected: Sequence[Rejected], at_most: int = 5) -> str:
    """What was left out and why, a line each for the first few."""
    lines = [str(entry) for entry in rejected[:at_most]]
    if len(rejected) > at_most:
        lines.append(f"and {plural(len(rejected) - at_most, 'more row')}")
    return "\n".join(lines)


METRICS: tuple[ObjectiveName, ...] = ("acceptance_rate", "mse")
MADE_BY_RUN = "config"
"""The user attribute that a study for measured trials has from its start."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    study: str
    added: int
    present: int
    """Rows that the study held already, or that stood in the tables twice."""
    rejected: tuple[Rejected, ...]


def import_tables(
    store: Store, name: str, results: Sequence[OldResult], rejected: Sequence[Rejected] = ()
) -> Imported:
    """Add rows of old result tables to the study `name`, which is made if it is missing.

    The whole import is one transaction: it happens, or nothing does. Rows that the study holds
    already are not added again, so that an import may be repeated, or halves follow one another.

    Raises:
        StudyError: the study is one of measured trials: acceptance was counted differently there,
            so imported ones need a study of their own.
        StoreError: the store cannot be reached.
    """
    with store.lock():
        study = _open(store, name)
    if MADE_BY_RUN in study.user_attrs:
        raise _mixing(name)
    added = store.transaction(lambda c: _add_missing(c, name, study._study_id, results))
    return Imported(name, added, len(results) - added, tuple(rejected))


def _open(store: Store, name: str) -> optuna.Study:
    with quiet_optuna():
        study = optuna.create_study(
            storage=store.storage,
            study_name=name,
            directions=list(DIRECTIONS.values())[:2],
            load_if_exists=True,
        )
        if study.metric_names is None:
            study.set_metric_names(list(METRICS))
    return study


def _mixing(name: str) -> StudyError:
    return StudyError(
        f"study {name}: was not made by an import, and old results must not be mixed with measured "
        "ones; copy the study file, and give the copy another name to import into"
    )


def _add_missing(
    connection: Connection, name: str, study_id: int, results: Sequence[OldResult]
) -> int:
    """Add what the study lacks, and say how much; it is looked at under its lock.

    Others may write at the same time, and this may run again after it was committed.
    """
    lock_study(connection, study_id)
    held = history(connection, study_id)
    if any(row.source != IMPORTED for row in held):
        raise _mixing(name)
    values = _values(connection, study_id)
    present = {(*row.params, *values[row.trial_id]) for row in held}
    new = list({r.identity: r for r in results if r.identity not in present}.values())
    if new:
        settings = [tuple(params_of(result.setting).values()) for result in new]
        space = _space([*settings, *(row.params for row in held)])
        _add(connection, study_id, new, space)
    return len(new)


def _values(connection: Connection, study_id: int) -> Mapping[int, list[float]]:
    """The values of each trial, by its id."""
    query = (
        select(trial_values.c.trial_id, trial_values.c.value)
        .join(trials, trials.c.trial_id == trial_values.c.trial_id)
        .where(trials.c.study_id == study_id)
        .order_by(trial_values.c.objective)
    )
    found = defaultdict(list)
    for trial_id, value in connection.execute(query):
        found[trial_id].append(value)
    return found


def _space(settings: Sequence[Sequence[Any]]) -> Mapping[str, BaseDistribution]:
    """Distributions that hold all settings (sigma, bias, k) of the study."""
    sigmas, biases, ks = zip(*settings, strict=True)
    return {
        "sigma": FloatDistribution(min(sigmas), max(sigmas)),
        "bias": FloatDistribution(min(biases), max(biases)),
        "k": IntDistribution(int(min(ks)), int(max(ks))),
    }


def _add(
    connection: Connection,
    study_id: int,
    new: Sequence[OldResult],
    space: Mapping[str, BaseDistribution],
) -> None:
    rows = [NewTrial(params_of(result.setting), _attributes(result)) for result in new]
    ids = add_trials(connection, study_id, rows, space, TrialState.COMPLETE)
    now = datetime.now(UTC).replace(tzinfo=None)
    # Their ids rise together, and nobody else adds to the locked study.
    connection.execute(
        update(trials)
        .where(trials.c.study_id == study_id, trials.c.trial_id.between(ids[0], ids[-1]))
        .values(datetime_start=now, datetime_complete=now)
    )
    connection.execute(
        insert(trial_values),
        [
            {"trial_id": trial_id, "objective": place, "value": value, "value_type": FINITE}
            for trial_id, result in zip(ids, new, strict=True)
            for place, value in enumerate((result.acceptance_rate, result.mse))
        ],
    )
    # One distribution for all: Optuna's importances leave out a parameter with several.
    mine = trial_params.c.trial_id.in_(
        select(trials.c.trial_id).where(trials.c.study_id == study_id)
    )
    for name, distribution in space.items():
        connection.execute(
            update(trial_params)
            .where(mine, trial_params.c.param_name == name)
            .values(distribution_json=distribution_to_json(distribution))
        )


def _attributes(result: OldResult) -> dict[str, float | int | str]:
    known = {
        "mae": result.mae,
        "accepted": result.accepted,
        "tested": result.attempted,
        "total_time_s": result.total_time_s,
        "source": IMPORTED,
    }
    return {name: value for name, value in known.items() if value is not None}
