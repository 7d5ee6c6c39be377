"""Result tables of the old sweep scripts: CSV rows become checked results, or reasons why not."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from spec_opt.config import Setting
from spec_opt.errors import DataError
from spec_opt.results.wording import plural

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
