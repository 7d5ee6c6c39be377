"""What a column may say about when each row was taken: dates, epochs, Excel's dates, a counter.

A column may have several readings (01/07/2016 is in January or in July): `time_grid` keeps the one
by which the rows are a series.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spec_opt.data.table_file import LONGEST_SHOWN, Table, shown
from spec_opt.errors import DataError

FIRST_YEAR, LAST_YEAR = 1700, 2250
"""What nanoseconds since 1970 can hold in 64 bits, rounded; other years are misprints."""
DAY_NS, HOUR_NS, SECOND_NS = 86_400 * 10**9, 3600 * 10**9, 10**9
Ticks = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Axis:
    """One reading of a column, or of some columns together: a position in time for each row."""

    columns: tuple[str, ...]
    ticks: Ticks
    """`[T]`: nanoseconds since 1970 (int64), or a counter's numbers."""
    is_time: bool
    convention: str = ""
    """ "day first" or "month first", where a date may be read both ways."""
    zone: str = ""
    """ "UTC" where the cells say their offsets; else times are as the file writes them."""
    hint: str = ""
    """How a refusal of the column goes on."""

    @property
    def label(self) -> str:
        """The columns, as a message names them."""
        return labelled(*self.columns)

    def text(self, row: int) -> str:
        """The time of a row, for people: midnight and whole minutes are cut."""
        return self.text_of(self.ticks[row])

    def text_of(self, tick: np.int64 | np.float64 | int) -> str:
        if not self.is_time:
            return f"{tick:.15g}"
        time = pd.Timestamp(int(tick), unit="ns")
        text = str(time)
        if time == time.normalize():
            text = text[:10]
        elif time == time.floor("min"):
            text = text[:16]
        return f"{text} {self.zone}".rstrip()


def labelled(*columns: str) -> str:
    """Columns, as a message names them."""
    names = ", ".join(f"'{shown(name)}'" for name in columns)
    return f"column{'s' if len(columns) > 1 else ''} {names}"


# --- text -----------------------------------------------------------------------------------------

_ISO = re.compile(r"\d{4}-\d{1,2}(-\d{1,2}([T ].*)?)?|\d{8}T\d{4,6}")
_QUARTER = re.compile(r"\d{4}[- ]?Q[1-4]")
_DAY_FIRST, _MONTH_FIRST, _YEAR_FIRST = "day first", "month first", "year first"
_DATES: Final = (
    (r"\d{4}/\d{1,2}/\d{1,2}", "%Y/%m/%d", ""),
    (r"\d{4}\.\d{1,2}\.\d{1,2}", "%Y.%m.%d", ""),
    (r"\d{8}", "%Y%m%d", ""),
    (r"\d{1,2}/\d{1,2}/\d{4}", "%d/%m/%Y", _DAY_FIRST),
    (r"\d{1,2}/\d{1,2}/\d{4}", "%m/%d/%Y", _MONTH_FIRST),
    (r"\d{1,2}-\d{1,2}-\d{4}", "%d-%m-%Y", _DAY_FIRST),
    (r"\d{1,2}-\d{1,2}-\d{4}", "%m-%d-%Y", _MONTH_FIRST),
    # Dots are written with the day first everywhere.
    (r"\d{1,2}\.\d{1,2}\.\d{4}", "%d.%m.%Y", ""),
    (r"\d{1,2}\.\d{1,2}\.\d{2}", "%d.%m.%y", ""),
    (r"\d{1,2}/\d{1,2}/\d{2}", "%d/%m/%y", _DAY_FIRST),
    (r"\d{1,2}/\d{1,2}/\d{2}", "%m/%d/%y", _MONTH_FIRST),
    (r"\d{1,2}/\d{1,2}/\d{2}", "%y/%m/%d", _YEAR_FIRST),
    (r"\d{1,2}-\d{1,2}-\d{2}", "%d-%m-%y", _DAY_FIRST),
    (r"\d{1,2}-\d{1,2}-\d{2}", "%m-%d-%y", _MONTH_FIRST),
    (r"\d{1,2}-\d{1,2}-\d{2}", "%y-%m-%d", _YEAR_FIRST),
    (r"\d{1,2}-[A-Za-z]{3}-\d{4}", "%d-%b-%Y", ""),
    (r"\d{1,2}-[A-Za-z]{3}-\d{2}", "%d-%b-%y", ""),
    (r"\d{1,2} [A-Za-z]{3} \d{4}", "%d %b %Y", ""),
    (r"\d{1,2} [A-Za-z]{3,9} \d{4}", "%d %B %Y", ""),
    (r"[A-Za-z]{3} \d{1,2}, \d{4}", "%b %d, %Y", ""),
    (r"[A-Za-z]{3,9} \d{1,2}, \d{4}", "%B %d, %Y", ""),
    (r"[A-Za-z]{3} \d{4}", "%b %Y", ""),
    (r"[A-Za-z]{3,9} \d{4}", "%B %Y", ""),
    (r"[A-Za-z]{3}-\d{4}", "%b-%Y", ""),
    (r"[A-Za-z]{3}-\d{2}", "%b-%y", ""),
    (r"\d{1,2}/\d{4}", "%m/%Y", ""),
)
"""Beside ISO 8601: what a date looks like, its format, and its convention where there are others.
A time of day may follow."""
_CLOCKS: Final = (
    (r"\d{1,2}:\d{2}:\d{2}", "%H:%M:%S"),
    (r"\d{1,2}:\d{2}", "%H:%M"),
    (r"\d{1,2}:\d{2}:\d{2}\.\d+", "%H:%M:%S.%f"),
    (r"\d{1,2}\.\d{2}\.\d{2}", "%H.%M.%S"),
    (r"\d{1,2}:\d{2}:\d{2} [AaPp][Mm]", "%I:%M:%S %p"),
    (r"\d{1,2}:\d{2} [AaPp][Mm]", "%I:%M %p"),
)
_OFFSET: Final = r" ?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})"


def is_time_text(cells: "pd.Series[Any]") -> bool:
    """Whether a text column's first cell can be read as a time."""
    return next(_formats(_first(cells)), None) is not None


def is_clock(cells: "pd.Series[Any]") -> bool:
    """Whether a text column's first cell is a time of day without a date."""
    return any(re.fullmatch(pattern, _first(cells)) for pattern, _ in _CLOCKS)


def _first(cells: "pd.Series[Any]") -> str:
    filled = cells.dropna()
    return str(filled.iloc[0]).strip() if len(filled) else ""


def _formats(cell: str) -> Iterator[tuple[str, str]]:
    """Formats that read a cell, each with its convention where there are others."""
    if len(cell) > LONGEST_SHOWN:
        return
    if _ISO.fullmatch(cell):
        if _parse(pd.Series([cell]), "ISO8601").notna().all():
            yield "ISO8601", ""
    elif _QUARTER.fullmatch(cell):
        yield "quarter", ""
    else:
        for date, date_format, convention in _DATES:
            if re.fullmatch(date, cell):
                yield date_format, convention
            for clock, clock_format in _CLOCKS:
                if match := re.fullmatch(f"{date} {clock}({_OFFSET})?", cell):
                    zone = "%z" if match[1] else ""
                    yield f"{date_format} {clock_format}{zone}", convention


def text_axes(table: Table, name: str) -> list[Axis]:
    """Every reading of a text column as times.

    Raises:
        DataError: a cell is empty or cannot be read as those before it; the first is named.
    """
    cells = _stripped(table.frame[name])
    readings: list[Axis] = []
    best, bad = -1, 0
    for format_, convention in _formats(_first(cells)):
        times = _parse(cells, format_)
        missing = times.isna().to_numpy()
        if not missing.any():
            readings += _of_times(name, cells, times, convention)
        elif (first := int(np.argmax(missing))) > best:
            best, bad = first, first
    if readings:
        return readings
    cell = cells.iloc[bad]
    what = "is empty" if pd.isna(cell) else f"= '{shown(cell)}' is not a time that can be read"
    like = f", unlike '{shown(cells.iloc[bad - 1])}' above it" if bad else ""
    raise DataError(
        f"{table.path}: {labelled(name)}, {table.at(bad)} {what}{like}: write times as "
        "2024-01-31 23:00, or choose another column with data.time"
    )


def _parse(cells: "pd.Series[Any]", format_: str) -> "pd.Series[pd.Timestamp]":
    """Times in UTC; NaT where a cell does not have the format."""
    text = cells.str.replace(r" ?(UTC|GMT)$", "Z", regex=True)
    if format_ == "quarter":
        quarter = text.where(text.str.fullmatch(_QUARTER.pattern, na=False))
        month = quarter.str[-1].map({"1": "01", "2": "04", "3": "07", "4": "10"})
        text, format_ = quarter.str[:4] + "-" + month, "ISO8601"
    times = pd.to_datetime(text, format=format_, errors="coerce", utc=True)
    return times.where(times.dt.year.between(FIRST_YEAR, LAST_YEAR))


def _of_times(
    name: str, cells: "pd.Series[Any]", times: "pd.Series[pd.Timestamp]", convention: str
) -> list[Axis]:
    """In UTC if cells say their offsets; where these change, wall-clock time is a reading too.

    By day, week or month a series is regular on the wall clock, by the hour in UTC.
    """
    axis = Axis((name,), _nanoseconds(times), is_time=True, convention=convention)
    with_offset = rf":\d{{2}}[.\d]*({_OFFSET})$"
    if not re.search(with_offset, str(cells.iloc[0])):
        return [axis]
    offsets = cells.str.extract(with_offset)[0]
    if offsets.isna().any():
        return [axis]
    in_utc = replace(axis, zone="UTC")
    if offsets.nunique() == 1:
        return [in_utc]
    wall = cells.str.replace(rf"{_OFFSET}$", "", regex=True)
    local = pd.to_datetime(wall, format="ISO8601", errors="coerce", utc=True)
    return [in_utc, *([] if local.isna().any() else [replace(axis, ticks=_nanoseconds(local))])]


def _nanoseconds(times: "pd.Series[pd.Timestamp]") -> NDArray[np.int64]:
    return times.dt.tz_localize(None).astype("datetime64[ns]").to_numpy().astype(np.int64)


def _stripped(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    return cells.astype("str").str.strip().where(cells.notna())


def clock_offsets(table: Table, name: str) -> NDArray[np.int64]:
    """Times of day as nanoseconds since midnight, `[T]`.

    Raises:
        DataError: a cell is no time of day; the first is named.
    """
    cells = table.frame[name]
    text, best = _stripped(cells), -1
    for _, format_ in _CLOCKS:
        times = pd.to_datetime(text, format=format_, errors="coerce")
        if not (missing := times.isna().to_numpy()).any():
            return _nanoseconds(times) % DAY_NS
        best = max(best, int(np.argmax(missing)))
    cell = "empty" if pd.isna(cells.iloc[best]) else f"'{shown(cells.iloc[best])}'"
    raise DataError(
        f"{table.path}: {labelled(name)}, {table.at(best)} = {cell} is not a time of day: "
        "write it as 23:00 or 23:00:00"
    )


# --- numbers --------------------------------------------------------------------------------------

FIRST_EPOCH_S, LAST_EPOCH_S = 3e8, 4.1e9
"""1979 to 2099: numbers beyond are no epoch seconds."""
EXCEL_DAY_ZERO_NS = -25_569 * DAY_NS
"""Excel counts days from 1899-12-30."""


def _compact(numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """20240131, 2024013123, 202401312300, 20240131230000 or 202401."""
    digits = {4 + n: n for n in (2, 4, 6, 8, 10)}.get(len(str(int(numbers[0]))))
    if digits is None or numbers.min() <= 0:
        return None
    year = numbers // 10**digits
    if year.min() < 1900 or year.max() > 2100:
        return None
    padded = pd.Series(numbers.astype("str")).str.ljust(14, "0")
    if digits == 2:
        padded = padded.str[:6] + "01000000"
    times = pd.to_datetime(padded, format="%Y%m%d%H%M%S", errors="coerce")
    return None if times.isna().any() else _nanoseconds(times)


def _epoch(numbers: Ticks) -> NDArray[np.int64] | None:
    """Seconds, milliseconds, microseconds or nanoseconds since 1970."""
    for per_second in (1, 10**3, 10**6, 10**9):
        if (
            FIRST_EPOCH_S * per_second <= numbers.min()
            and numbers.max() <= LAST_EPOCH_S * per_second
        ):
            factor = SECOND_NS // per_second
            if np.issubdtype(numbers.dtype, np.integer):
                return numbers.astype(np.int64) * factor
            # To the microsecond: what a float of today's seconds holds.
            return np.rint(numbers * factor / 1000).astype(np.int64) * 1000
    return None


def _excel(numbers: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Days since 1899-12-30, 1954 to 2119: to the minute, or where that is far off the second."""
    if numbers.min() < 20_000 or numbers.max() > 80_000:
        return None
    minutes = np.rint(numbers * 1440) * 60
    seconds = np.rint(numbers * 86_400)
    seconds = minutes if np.abs(minutes - seconds).max() <= 1 else seconds
    return seconds.astype(np.int64) * SECOND_NS + EXCEL_DAY_ZERO_NS


LARGEST_WHOLE: Final = 2**53
"""Below it a float holds each whole number exactly."""


def whole(numbers: Ticks) -> bool:
    """Whether all are finite whole numbers."""
    return bool(np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all())


def exact(table: Table, name: str) -> Ticks:
    """A numeric column, in int64 where it is whole: epochs in nanoseconds exceed a float."""
    cells = table.frame[name]
    if pd.api.types.is_integer_dtype(cells) and not cells.isna().any():
        return cells.to_numpy().astype(np.int64)
    numbers = table.numbers(name)
    if whole(numbers) and np.abs(numbers).max() < LARGEST_WHOLE:
        return numbers.astype(np.int64)
    return numbers


def is_epoch(numbers: Ticks) -> bool:
    """Whether all are in the range of seconds, milliseconds, … since 1970."""
    return _epoch(numbers) is not None


def is_compact(numbers: Ticks) -> bool:
    """Whether all are dates like 20240131."""
    if not whole(numbers) or np.abs(numbers).max() >= LARGEST_WHOLE:
        return False
    return _compact(numbers.astype(np.int64)) is not None


def number_axes(table: Table, name: str, *, named_time: bool) -> list[Axis]:
    """Every reading of a numeric column, likelier ones first; the last is a plain counter.

    Args:
        named_time: whether the column's name says that it is a time, as Excel's dates need.

    Raises:
        DataError: a cell is empty or not finite; the first is named.
    """
    numbers = exact(table, name)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{table.path}: {labelled(name)}, {table.at(row)} has no time: mend it")
    found = []
    if np.issubdtype(numbers.dtype, np.integer):
        found.append(_compact(numbers.astype(np.int64)))
    found.append(_epoch(numbers))
    if named_time:
        found.append(_excel(numbers.astype(np.float64)))
    hint = "; if it is a channel, name it in data.channels"
    axes = [Axis((name,), ticks, is_time=True, hint=hint) for ticks in found if ticks is not None]
    return [*axes, Axis((name,), numbers, is_time=False, hint=hint)]


# --- calendar fields ------------------------------------------------------------------------------

PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "year": ("year", "yr", "yyyy", "yy"),
    "month": ("month", "mnth", "mon", "mo", "mm"),
    "day": ("day", "dayofmonth", "dd", "dy"),
    "hour": ("hour", "hr", "hh"),
    "minute": ("minute",),
    "second": ("second",),
}
"""Parts of a time that may have columns of their own, by what these are called."""
RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "year": (0, 2500),
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 24),
    "minute": (0, 59),
    "second": (0, 59),
    "quarter": (1, 4),
    "week": (0, 53),
    "weekofyear": (0, 53),
    "weekday": (0, 7),
    "dayofweek": (0, 7),
    "dow": (0, 7),
    "dayofyear": (1, 366),
    "doy": (1, 366),
}
"""What whole numbers a calendar field holds; other numbers under its name are measurements."""


def calendar_part(name: str, numbers: NDArray[np.float64]) -> str | None:
    """The calendar field that a column holds by its name and content, or None."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    part = next((part for part, names in PARTS.items() if plain in names), plain)
    if part not in RANGES or not len(numbers) or not whole(numbers):
        return None
    low, high = RANGES[part]
    return part if low <= numbers.min() and numbers.max() <= high else None


def assembled(table: Table, parts: Mapping[str, str]) -> Axis:
    """The time that columns of years, months and so on give together.

    Args:
        parts: part of a time -> the column that holds it.

    Raises:
        DataError: a larger part is missing, or a row is no date (30 February).
    """
    columns = tuple(parts.values())
    label = labelled(*columns)
    present = [part for part in PARTS if part in parts]
    if present != list(PARTS)[: len(present)]:
        absent = next(part for part in PARTS if part not in parts)
        raise DataError(
            f"{table.path}: {label} hold parts of a time but no {absent}: give a column of whole "
            "times, name them in data.channels if they are channels, or set data.time = false"
        )
    fields = {part: table.numbers(parts[part]) for part in present if part in list(PARTS)[:3]}
    dates = pd.to_datetime(
        pd.DataFrame({"year": 1, "month": 1, "day": 1} | fields), errors="coerce"
    )
    dates = dates.where(dates.dt.year.between(FIRST_YEAR, LAST_YEAR))
    if dates.isna().any():
        row = int(np.argmax(dates.isna()))
        cells = "-".join(f"{fields[part][row]:g}" for part in fields)
        raise DataError(f"{table.path}: {label}, {table.at(row)} = {cells} is not a date")
    return Axis(columns, _nanoseconds(dates) + offsets_of(table, parts), is_time=True)


def offsets_of(table: Table, parts: Mapping[str, str]) -> NDArray[np.int64]:
    """Nanoseconds since midnight from columns of hours, minutes and seconds; hour 24 is allowed."""
    total = np.zeros(len(table.frame), dtype=np.int64)
    for part, unit in (("hour", HOUR_NS), ("minute", HOUR_NS // 60), ("second", SECOND_NS)):
        if part in parts:
            total += table.numbers(parts[part]).astype(np.int64) * unit
    return total
