"""Old sweep tables: CSV rows are checked and become complete trials of a study of their own."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import Connection, select, update

from spec_opt.config.files import open_plain
from spec_opt.config.limits import Constraints
from spec_opt.config.messages import first_problem
from spec_opt.config.study_file import OBJECTIVES, Setting
from spec_opt.errors import DataError, StudyError
from spec_opt.results.wording import plural
from spec_opt.study.constraints import hold_against, values_of
from spec_opt.study.space import PARAMETERS, params_of
from spec_opt.study.store import (
    Store,
    study_user_attributes,
    trial_params,
    trial_user_attributes,
    trials,
)
from spec_opt.study.study import find_or_create
from spec_opt.study.trials import (
    IMPORTED,
    NewTrial,
    add_trials,
    attributes_of,
    history,
    lock_study,
)

NEEDED = ("sigma", "bias", "k", "mse", "acceptance_pct")

OURS = ("mse_baseline", "predicted_speedup")
"""Columns that results.csv of a report has beside those of old tables."""

ROUNDING = 0.0051
"""Percent by which acceptance_pct, written with two decimals, may differ from its counts."""

NO_CONSTRAINTS = Constraints()

MADE_BY_RUN = "config"
"""The user attribute that a study for measured trials has from its start."""


@dataclass(frozen=True)
class Rejected:
    """A row that was left out."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    study: str
    added: int
    present: int
    """Rows that the study already had, or that the tables held twice."""
    rejected: tuple[Rejected, ...]


def read_tables(paths: Sequence[Path]) -> tuple[tuple[NewTrial, ...], tuple[Rejected, ...]]:
    """Read CSV files: the valid rows, and those left out.

    Headers repeated in the middle, as when halves of a sweep were concatenated, are skipped.

    Raises:
        DataError: a file cannot be read or lacks a column that is needed, or no row is valid (most
            likely the acceptance was never counted).
    """
    results: list[NewTrial] = []
    rejected: list[Rejected] = []
    for path in paths:
        for line, row in _rows(path):
            try:
                results.append(_result(row))
            except ValidationError as error:
                rejected.append(Rejected(path.name, line, first_problem(error, Setting)))
            except ValueError as error:
                rejected.append(Rejected(path.name, line, str(error)))
    if not results:
        named = ", ".join(map(str, paths))
        why = f"the first of {plural(len(rejected), 'row')}: {rejected[0]}" if rejected else "empty"
        raise DataError(f"{named}: no row can be believed; {why}")
    return tuple(results), tuple(rejected)


def rejection_text(rejected: Sequence[Rejected], at_most: int = 5) -> str:
    """The first rows left out, with their reasons, one a line."""
    lines = [str(entry) for entry in rejected[:at_most]]
    if len(rejected) > at_most:
        lines.append(f"and {plural(len(rejected) - at_most, 'more row')}")
    return "\n".join(lines)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file, by column name."""
    try:
        with io.TextIOWrapper(open_plain(path), "utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=max(",;\t", key=first.count))
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


def _result(row: dict[str, str]) -> NewTrial:
    """A row as a complete trial; ValueError says what is wrong with it."""
    k = _needed(row, "k")
    if k != int(k):
        raise ValueError(f"k = {row['k']} is not a whole number")
    setting = Setting(sigma=_needed(row, "sigma"), bias=_needed(row, "bias"), k=int(k))
    mse, mae = _needed(row, "mse"), _number(row, "mae")
    if min(mse, mae or 0.0) < 0:
        raise ValueError("an error below 0 is impossible")
    accepted, tested = _count(row, "accepted"), _count(row, "attempted")
    rate = _acceptance(_needed(row, "acceptance_pct"), accepted, tested)
    known: dict[str, Any] = {"mae": mae, "accepted": accepted, "tested": tested}
    for name in OURS:
        value = known[name] = _number(row, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} = {row[name]} must be above 0")
    known |= {"total_time_s": _number(row, "total_time_s"), "source": IMPORTED}
    attributes = {name: value for name, value in known.items() if value is not None}
    return NewTrial(params_of(setting), attributes, (rate, mse))


def _acceptance(percent: float, accepted: int | None, attempted: int | None) -> float:
    """The acceptance rate, from the counts where there are any: they are not rounded."""
    if not 0 <= percent <= 100:
        raise ValueError(f"acceptance_pct = {percent:g} is impossible")
    if accepted is None or attempted is None:
        return percent / 100
    if attempted == 0:
        raise ValueError(
            "attempted = 0: no proposal was counted, so the acceptance of 0 means nothing"
        )
    if accepted > attempted:
        raise ValueError(f"accepted = {accepted} of attempted = {attempted} is impossible")
    rate = accepted / attempted
    if abs(100 * rate - percent) > ROUNDING:
        raise ValueError(
            f"acceptance_pct = {percent:g} contradicts accepted / attempted = {100 * rate:.2f}%"
        )
    return rate


def _number(row: dict[str, str], name: str) -> float | None:
    """A finite number; None where the cell is empty or NA."""
    text = row.get(name, "")
    if text.upper() in ("", "NA", "N/A", "NAN", "NONE"):
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name} = {text!r} is not a number") from error
    if not math.isfinite(value):
        raise ValueError(f"{name} = {text} is not finite")
    return value


def _needed(row: dict[str, str], name: str) -> float:
    value = _number(row, name)
    if value is None:
        raise ValueError(f"{name} is {row.get(name) or 'missing'}")
    return value


def _count(row: dict[str, str], name: str) -> int | None:
    value = _number(row, name)
    if value is not None and (value < 0 or value != int(value)):
        raise ValueError(f"{name} = {row[name]} is not a count")
    return None if value is None else int(value)


def import_tables(
    store: Store,
    name: str,
    results: Sequence[NewTrial],
    rejected: Sequence[Rejected] = (),
    constraints: Constraints = NO_CONSTRAINTS,
) -> Imported:
    """Add rows of old tables to the study `name`, which is created if it is missing.

    The whole import is one transaction. Rows that the study already has are not added again, so an
    import can be repeated, and halves of a sweep can follow one another. All rows of the study are
    held against `constraints`.

    Raises:
        StudyError: the study holds measured trials, whose acceptance was counted differently.
        StoreError: the store cannot be reached.
    """
    added = store.transaction(
        lambda connection: _add_missing(connection, name, results, constraints)
    )
    return Imported(name, added, len(results) - added, tuple(rejected))


def _add_missing(
    connection: Connection, name: str, results: Sequence[NewTrial], constraints: Constraints
) -> int:
    """Add the rows that the study lacks, and return how many.

    The study is read under its lock: others may write at the same time, and a transaction whose
    commit was not acknowledged runs again.
    """
    study_id = find_or_create(connection, name, OBJECTIVES[0], {})
    lock_study(connection, study_id)
    held = history(connection, study_id)
    made_by_run = MADE_BY_RUN in attributes_of(connection, study_user_attributes, study_id)
    if made_by_run or any(row.source != IMPORTED for row in held):
        raise StudyError(
            f"study {name}: was not made by an import, and old results must not be mixed with "
            "measured ones; copy the study file, and give the copy another name to import into"
        )
    values = values_of(connection, study_id)
    present = {(*row.params.values(), *values[row.trial_id]) for row in held}
    new = {(*r.params.values(), *r.values): r for r in results}
    missing = [trial for identity, trial in new.items() if identity not in present]
    if missing:
        space = _space_of([*(row.params for row in held), *(trial.params for trial in missing)])
        add_trials(connection, study_id, missing, space, TrialState.COMPLETE)
        _share(connection, study_id, space)
    hold_against(connection, study_id, constraints, _target_mse(connection, study_id))
    return len(missing)


def _target_mse(connection: Connection, study_id: int) -> float | None:
    """The target's own MSE, if the tables had one and the same in all rows that name it."""
    table = trial_user_attributes
    query = (
        select(table.c.value_json)
        .join(trials, trials.c.trial_id == table.c.trial_id)
        .where(trials.c.study_id == study_id, table.c.key == "mse_baseline")
        .distinct()
    )
    found = [json.loads(text) for text in connection.execute(query).scalars()]
    return found[0] if len(found) == 1 else None


def _space_of(settings: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """The smallest numeric distributions that hold all the settings, given as parameters."""
    columns = ([setting[name] for setting in settings] for name in PARAMETERS)
    sigma, bias, k = ((min(values), max(values)) for values in columns)
    return {
        "sigma": FloatDistribution(*sigma),
        "bias": FloatDistribution(*bias),
        "k": IntDistribution(int(k[0]), int(k[1])),
    }


def _share(connection: Connection, study_id: int, space: Mapping[str, BaseDistribution]) -> None:
    """Give all trials one distribution: Optuna's importances leave out a parameter with several."""
    mine = select(trials.c.trial_id).where(trials.c.study_id == study_id)
    for name, distribution in space.items():
        connection.execute(
            update(trial_params)
            .where(trial_params.c.trial_id.in_(mine), trial_params.c.param_name == name)
            .values(distribution_json=distribution_to_json(distribution))
        )
