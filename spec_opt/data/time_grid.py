"""Whether rows are a series: in order, one step apart, none twice, none missing.

Rows that are out of order (newest first, or shuffled) are put in order, with a warning, if their
times then are one step apart: distinct times on a regular grid can be ordered in one way only, so
nothing is guessed. Anything else is refused with the first line at fault.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spec_opt.data.table_file import Table
from spec_opt.data.timestamps import DAY_NS, HOUR_NS, SECOND_NS, Axis, Ticks
from spec_opt.errors import DataError

_UNITS: Final = (
    (7 * DAY_NS, "weekly", "week"),
    (DAY_NS, "daily", "day"),
    (HOUR_NS, "hourly", "hour"),
    (HOUR_NS // 60, "1-minute", "minute"),
    (SECOND_NS, "1-second", "second"),
    (SECOND_NS // 1000, "1-millisecond", "millisecond"),
    (SECOND_NS // 10**6, "1-microsecond", "microsecond"),
    (1, "1-nanosecond", "nanosecond"),
)
_MONTHS: Final = {1: "monthly", 3: "quarterly", 12: "yearly"}
DOMINANT: Final = 0.5
"""The share of steps that must be equal before the others count as gaps in a series."""
COUNTER_DOMINANT: Final = 0.9
"""The same for a column to be taken as a counter, whatever its name."""
FEW_ROWS: Final = 10
"""Fewer numbers may look like those of a counter by chance."""
MICROSECOND_NS: Final = 1000

Advance = Callable[[NDArray[np.int64]], NDArray[Any]]
"""From numbers of places after the last one to their times, or to a counter's numbers."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the rows of a file are on a regular grid."""

    axis: Axis
    order: NDArray[np.int64]
    """`[T]`: the file's rows, oldest first."""
    slots: NDArray[np.int64]
    """`[T]`, ascending from 0: each row's place on the grid; rows for the others are missing."""
    step: str
    """ "hourly", "15-minute", "monthly", …; "even" for a counter."""
    unit: str
    """What is missing where a row is: "hour", "business day", …"""
    advance: Advance
    """How the grid goes on."""

    def following(self, count: int) -> "pd.Index[Any]":
        """The times of the `count` places after the last, or a counter's numbers."""
        found = self.advance(np.arange(1, count + 1))
        if not self.axis.is_time:
            return pd.Index(found)
        return pd.DatetimeIndex(found, tz=self.axis.zone or None)

    @property
    def missing(self) -> int:
        """Rows that the grid has and the file has not."""
        return int(self.slots[-1]) + 1 - len(self.slots)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that say when rows were taken."""
        return self.axis.columns

    @property
    def first(self) -> str:
        """The time of the oldest row, or its number."""
        return self.axis.text(int(self.order[0]))

    @property
    def last(self) -> str:
        """The time of the newest row, or its number."""
        return self.axis.text(int(self.order[-1]))

    @cached_property
    def times(self) -> NDArray[np.datetime64] | None:
        """`[slots]`: the time of every place, missing rows included; None of a counter.

        Missing times are interpolated: exact for equal steps, near enough to split months by.
        """
        if not self.axis.is_time:
            return None
        ticks = self.axis.ticks[self.order]
        since = np.interp(np.arange(self.slots[-1] + 1), self.slots, ticks - ticks[0])
        times: NDArray[np.datetime64] = (np.rint(since).astype(np.int64) + int(ticks[0])).astype(
            "datetime64[ns]"
        )
        return times

    @property
    def disorder(self) -> str | None:
        """What was put in order; None where the file is."""
        if (np.diff(self.order) == 1).all():
            return None
        newest_first = bool((np.diff(self.order) == -1).all())
        return (
            "rows are newest first: reversed" if newest_first else "rows are out of order: sorted"
        )


def place(table: Table, axes: Sequence[Axis], *, gaps_allowed: bool) -> Grid:
    """The grid that rows are on, by the reading of their times that makes them regular.

    Raises:
        DataError: by no reading, or by two that contradict each other.
    """
    grids, first_error = [], None
    for axis in axes:
        try:
            grids.append(place_on(table, axis))
        except DataError as error:
            first_error = first_error or error
    complete = [grid for grid in grids if not grid.missing]
    chosen = complete or grids
    if not chosen:
        assert first_error is not None
        raise first_error
    _refuse_rivals(table, [grid.axis for grid in chosen])
    if chosen[0].missing and not gaps_allowed:
        _refuse_gaps(table, chosen[0])
    return chosen[0]


def place_on(table: Table, axis: Axis) -> Grid:
    """The grid that rows are on by one reading of their times; rows may be missing.

    Raises:
        DataError: a time is repeated, or the steps are neither equal nor multiples of one.
    """
    order = np.argsort(axis.ticks, kind="stable")
    ticks = axis.ticks[order]
    repeated = np.flatnonzero(ticks[1:] == ticks[:-1])
    if len(repeated):
        i = repeated[np.argmin(order[repeated + 1])]
        earlier, later = int(order[i]), int(order[i + 1])
        raise DataError(
            f"{table.path}: {axis.label}, {table.at(later)} repeats the time of "
            f"{table.at(earlier)}, {axis.text(later)}: a series has one row for each time"
            + (_summer_time(axis, ticks) or axis.hint)
        )
    if not axis.is_time and is_even(ticks):
        return Grid(axis, order, np.arange(len(ticks)), "even", "row", _evenly(ticks))
    grids = (_grid_on(calendar, axis, order) for calendar in _calendars(axis, ticks))
    grid = min(filter(None, grids), key=lambda grid: grid.missing, default=None)
    if grid is None or grid.missing > len(order):  # a misprint in a time, not a gap
        raise _irregular(table, axis, order, ticks)
    return grid


# --- calendars ------------------------------------------------------------------------------------


class _Calendar(NamedTuple):
    """A way of counting on, by which all rows may be evenly spaced."""

    ordinals: NDArray[np.int64]
    """`[T]`, ascending: each row's number."""
    names: Callable[[int], tuple[str, str]]
    """By the step between numbers: what a grid of it is called, and the unit of a gap."""
    advance: Callable[[int, NDArray[np.int64]], NDArray[Any]]
    """So many steps of a length after the last row."""


def _grid_on(calendar: _Calendar, axis: Axis, order: NDArray[np.int64]) -> Grid | None:
    """The grid of a calendar, if most steps are one and the others multiples of it."""
    ordinals = calendar.ordinals
    steps, step = np.diff(ordinals), 1
    if len(steps):
        step = int(_usual(steps))
        if np.count_nonzero(steps == step) < DOMINANT * len(steps) or (steps % step).any():
            return None
    slots = (ordinals - ordinals[0]) // step
    return Grid(axis, order, slots, *calendar.names(step), lambda n: calendar.advance(step, n))


def _usual(steps: NDArray[Any]) -> Any:
    """The most frequent step; of several the least."""
    values, counts = np.unique(steps, return_counts=True)
    return values[np.argmax(counts)]


def _calendars(axis: Axis, ticks: Ticks) -> Iterator[_Calendar]:
    """Those that have a number for each of the ascending ticks."""
    if np.issubdtype(ticks.dtype, np.integer):
        yield _fixed(int(ticks[-1]), ticks.astype(np.int64), axis.is_time)
    if not axis.is_time or len(set((ticks % DAY_NS).tolist())) > 1:
        return
    days = (ticks // DAY_NS).astype("datetime64[D]")
    # Of rows that all have the same, to the microsecond.
    time_of_day = np.timedelta64(int(ticks[-1] % DAY_NS) // MICROSECOND_NS, "us")
    if np.is_busday(days).all():
        yield _Calendar(
            np.busday_count(days[0], days),
            lambda _: ("business-daily", "business day"),
            lambda step, n: np.busday_offset(days[-1], step * n) + time_of_day,
        )
    months = days.astype("datetime64[M]")
    ends = (days + 1).astype("datetime64[M]") != months
    if ends.all() or len(set((days - months).tolist())) == 1:
        yield _monthly(days, months, time_of_day, at_end=bool(ends.all()))


def _fixed(last: int, ticks: NDArray[np.int64], is_time: bool) -> _Calendar:
    """Steps of one length."""
    if not is_time:
        return _Calendar(ticks, lambda _: ("even", "row"), lambda step, n: last + step * n)

    def names(step: int) -> tuple[str, str]:
        length, name, unit = next(row for row in _UNITS if step % row[0] == 0)
        count = step // length
        return (name, unit) if count == 1 else (f"{count}-{unit}", f"{count}-{unit} step")

    def advance(step: int, n: NDArray[np.int64]) -> NDArray[np.datetime64]:
        # In microseconds where that is exact: nanoseconds end in the year 2262.
        if last % MICROSECOND_NS or step % MICROSECOND_NS:
            return (last + step * n).astype("datetime64[ns]")
        return (last // MICROSECOND_NS + step // MICROSECOND_NS * n).astype("datetime64[us]")

    return _Calendar(ticks, names, advance)


def _monthly(
    days: NDArray[np.datetime64],
    months: NDArray[np.datetime64],
    time_of_day: np.timedelta64,
    *,
    at_end: bool,
) -> _Calendar:
    """The same day of each month, or its last."""

    def names(step: int) -> tuple[str, str]:
        unit = {1: "month", 3: "quarter", 12: "year"}.get(step, f"{step}-month step")
        return _MONTHS.get(step, f"{step}-month"), unit

    def advance(step: int, n: NDArray[np.int64]) -> NDArray[np.datetime64]:
        after = months[-1] + step * n
        found: NDArray[np.datetime64] = (after + 1).astype("datetime64[D]") - 1
        if not at_end:
            found = np.minimum(found, after.astype("datetime64[D]") + (days[-1] - months[-1]))
        return found + time_of_day

    return _Calendar(months.astype(np.int64), names, advance)


# --- counters -------------------------------------------------------------------------------------


def _evenly(ticks: Ticks) -> Advance:
    """A counter goes on by its mean step; in whole numbers where that is one."""
    last, span = ticks[-1], ticks[-1] - ticks[0]
    rows = max(1, len(ticks) - 1)
    step = span // rows if span % rows == 0 else span / rows
    return lambda n: last + (step or 1) * n


def is_even(ticks: Ticks) -> bool:
    """Whether ascending numbers are one step apart, as exactly as they are written.

    A step may have been rounded, or cut, to the digits that the column has: 0, 3, 7, 10, … Where
    the digits hardly tell two rows apart, they do not show that none is missing.
    """
    if len(ticks) < 2:
        return True
    step, off, resolution = _line(ticks)
    return bool(step > 0 and (off == 0 or (step >= 3 * resolution and off <= 1.001 * resolution)))


def _line(ticks: Ticks) -> tuple[float, float, float]:
    """The mean step, how far numbers are off even ones at most, and how finely they are written."""
    step = float(ticks[-1] - ticks[0]) / (len(ticks) - 1)
    off = float(np.abs(ticks - ticks[0] - step * np.arange(len(ticks))).max())
    decimals = next((d for d in range(10) if (np.round(ticks, d) == ticks).all()), 10)
    of_floats = 4 * float(np.spacing(float(np.abs(ticks).max())))
    return step, off if off > of_floats else 0.0, max(10.0**-decimals, of_floats)


def counts_rows(numbers: Ticks) -> bool:
    """Whether a column counts: one step, up or down, from nearly every row to the next.

    Some rows may be left out or repeated, and a count may begin again. A measurement is not so.
    """
    steps = np.diff(numbers)
    moves = np.sort(steps[steps != 0])
    if len(steps) < 2 or not len(moves):
        return False
    usual = moves[len(moves) // 2]
    _, off, resolution = _line(numbers)
    # Steps may be cut or rounded. Of a few rows that shows nothing.
    rounding = 1.001 * resolution if len(numbers) >= FEW_ROWS else 0.0
    tolerance = rounding if abs(usual) >= 3 * resolution else 0.0
    if np.count_nonzero(np.abs(steps - usual) <= tolerance) >= COUNTER_DOMINANT * len(steps):
        return True
    return bool(((steps > 0).all() or (steps < 0).all()) and off <= rounding)


# --- refusals -------------------------------------------------------------------------------------


def _refuse_rivals(table: Table, axes: Sequence[Axis]) -> None:
    """By two conventions rows are a series, and they differ: 01/02, 02/02 … or 01/02, 01/03 …"""
    one = axes[0]
    for other in axes[1:]:
        differ = one.ticks != other.ticks
        if one.convention and other.convention and differ.any():
            row = int(np.argmax(differ))
            raise DataError(
                f"{table.path}: {one.label}, {table.at(row)} is {one.text(row)} with the "
                f"{one.convention} and {other.text(row)} with the {other.convention}, and no other "
                f"row decides: write times as {one.text(row)}"
            )


def _refuse_gaps(table: Table, grid: Grid) -> None:
    axis, steps = grid.axis, np.diff(grid.slots)
    i = int(np.flatnonzero(steps > 1)[0])
    before, after = int(grid.order[i]), int(grid.order[i + 1])
    count, gaps = int(steps[i]) - 1, int((steps > 1).sum())
    missing = f"{count:,} {grid.unit}{'s are' if count > 1 else ' is'} missing"
    total = f" (in all {gaps:,} gaps and {grid.missing:,} rows)" if gaps > 1 else ""
    raise DataError(
        f"{table.path}: {axis.label}, {table.at(after)}: {missing} between "
        f"{axis.text(before)} and {axis.text(after)}{total}: set data.gaps to 'forward-fill' or "
        f"'interpolate', or data.time = false to take rows as evenly spaced"
        + _summer_time(axis, axis.ticks[grid.order])
    )


def _irregular(table: Table, axis: Axis, order: NDArray[np.int64], ticks: Ticks) -> DataError:
    """Names the first step that is not the usual one."""
    steps = np.diff(ticks)
    usual = _usual(steps)
    i = int(np.argmax(steps != usual))
    step = f"{_span(axis, steps[i])}, elsewhere {_span(axis, usual)}"
    return DataError(
        f"{table.path}: {axis.label}, {table.at(int(order[i + 1]))}: steps are not even: from "
        f"{axis.text_of(ticks[i])} to {axis.text_of(ticks[i + 1])} is {step}: give a series with "
        "one step, or set data.time = false to take rows as evenly spaced" + axis.hint
    )


def _span(axis: Axis, ticks: np.int64 | np.float64) -> str:
    if not axis.is_time:
        return f"{ticks:.6g}"
    return (
        str(pd.Timedelta(int(ticks), unit="ns")).removesuffix(" 00:00:00").removeprefix("0 days ")
    )


def _summer_time(axis: Axis, ticks: Ticks) -> str:
    """A hint where an hour is missing or twice in a night from Saturday to Sunday."""
    if not axis.is_time or axis.zone:
        return ""
    steps = np.diff(ticks)
    usual = int(_usual(steps))
    for i in np.flatnonzero(steps != usual)[:1]:
        time = pd.Timestamp(int(ticks[i]), unit="ns")
        changed = abs(int(steps[i]) - usual) == HOUR_NS or steps[i] == 0
        if changed and usual <= HOUR_NS and time.day_of_week == 6 and time.hour < 4:
            return " (summer time? write times in UTC, or with their offset)"
    return ""
