"""A table file becomes a series: which column is the time, which are channels, and is it regular?

What decides, in this order: `data.time` and `data.channels`; a column's name; its content. A column
that looks like a time, a calendar field or a row counter is never a channel unless `data.channels`
names it, and what is left out is part of what is read, so that nothing is dropped in silence.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spec_opt.config.values import GapFilling, TimeColumn
from spec_opt.data.roles import TIME_NAMES, Role, orders_rows, plain, role_of, says_time
from spec_opt.data.table_file import Table, listed, shown
from spec_opt.data.time_grid import Grid, place
from spec_opt.data.timestamps import (
    DAY_NS,
    PARTS,
    Axis,
    assembled,
    calendar_part,
    clock_offsets,
    number_axes,
    offsets_of,
    text_axes,
)
from spec_opt.errors import DataError

logger = logging.getLogger(__name__)

LARGEST: Final = 1e100
"""Larger values are refused: their squares would overflow."""


@dataclass(frozen=True)
class LeftOut:
    """A column that is neither a channel nor the time."""

    name: str
    kind: str
    """What it was taken for, or "not chosen"."""

    def __str__(self) -> str:
        return self.name if self.kind == Role.CHANNEL.value else f"{self.name} ({self.kind})"


@dataclass(frozen=True, eq=False)
class Series:
    """A multichannel series in its own units, oldest row first, and how it was read."""

    name: str
    """A known name, the file's stem, or "synthetic"."""
    values: NDArray[np.float64]
    """`[T, C]`, all finite."""
    columns: tuple[str, ...]
    """C names."""
    file: str = ""
    """The file's name; empty where there is none."""
    time: Grid | None = None
    left_out: tuple[LeftOut, ...] = ()
    """Columns that are neither channels nor the time, and what each was taken for."""
    filled: int = 0
    """Rows that were missing and cells that were empty, filled in as `data.gaps` says."""
    notes: tuple[str, ...] = ()
    """What a reader may not expect: rows sorted, no header, …"""

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.file or self.name

    @property
    def all_channels(self) -> frozenset[str]:
        """The channels, and those that the study file leaves out."""
        left = (column.name for column in self.left_out if column.kind == Role.CHANNEL.value)
        return frozenset([*self.columns, *left])

    def following(self, count: int) -> "pd.Index[Any]":
        """The times of the next rows, under the name of the first column of times.

        A counter goes on counting. Without either they are row numbers, the first row being 0.
        """
        if self.time is not None:
            return self.time.following(count).rename(self.time.columns[0])
        name, rows = "row", len(self.values)
        while name in self.columns:
            name += "_"
        return pd.RangeIndex(rows, rows + count, name=name)


def series_of(
    table: Table,
    *,
    time: TimeColumn | None = None,
    channels: Sequence[str] | None = None,
    gaps: GapFilling | None = None,
) -> Series:
    """Take a table as a series.

    Args:
        time: the column that says when rows were taken; found if absent; False: rows are evenly
            spaced, whatever the file says.
        channels: the columns to forecast, in this order; all that can be channels if absent.
        gaps: how missing rows and empty cells are filled; refused if absent.

    Raises:
        DataError: it is not a regular series, a column is neither time nor numbers, or a cell is
            not a finite number. The first line at fault is named.
    """
    path = table.path
    _check_names(table, time, channels)
    roles = {
        name: Role.CHANNEL if channels and name in channels else role_of(table, name)
        for name in table.names
    }
    axes = _find_time(table, roles, time)
    used = axes[0].columns if axes else ()
    grid = place(table, axes, gaps_allowed=gaps is not None) if axes else None
    chosen = _channels(table, roles, used, grid, channels)
    values, filled = _values(table, chosen, grid, gaps)
    left = [name for name in table.names if name not in chosen and name not in used]
    notes = (*table.notes, *([grid.disorder] if grid and grid.disorder else []))
    for note in notes:
        logger.warning("%s: %s", path, note)
    return Series(
        path.stem,
        values,
        chosen,
        file=path.name,
        time=grid,
        left_out=tuple(LeftOut(name, roles[name].value) for name in left),
        filled=filled,
        notes=notes,
    )


def _check_names(table: Table, time: TimeColumn | None, channels: Sequence[str] | None) -> None:
    """Names in the study file are columns, and none is asked to be two things."""
    for key, name in [("time", time), *(("channels", name) for name in channels or ())]:
        if isinstance(name, str) and name not in table.names:
            raise DataError(
                f"{table.path}: data.{key} names '{shown(name)}', which is not a column; "
                f"the columns are {listed(table.names)}"
            )
    if time and time in (channels or ()):
        raise DataError(f"data.channels names '{shown(time)}', which is data.time: choose one")


# --- the time -------------------------------------------------------------------------------------


def _find_time(table: Table, roles: Mapping[str, Role], time: TimeColumn | None) -> list[Axis]:
    """Every reading of the columns that together say when rows were taken; none without any.

    A time is taken before a date in parts, and that before a counter; of several times the one
    with the likeliest name, then the first.
    """
    if time is False:
        return []
    of = {role: [name for name in roles if roles[name] is role] for role in Role}
    parts = _parts(table, of[Role.CALENDAR])
    times = [time] if time else sorted(of[Role.TIME], key=_rank)
    if times:
        numeric = table.is_numeric(name := times[0])
        named = numeric and says_time(name)
        axes = number_axes(table, name, named_time=named) if numeric else text_axes(table, name)
        if time and roles[time] is Role.CALENDAR and not _is_date(axes[0]):
            raise DataError(
                f"{table.path}: data.time names '{shown(time)}', which is only part of a time: "
                "leave data.time out"
            )
        return _with_clock(table, name, axes, of[Role.CLOCK], parts)
    if parts:
        return [assembled(table, parts)]
    if clocks := of[Role.CLOCK]:
        raise DataError(
            f"{table.path}: column '{shown(clocks[0])}' has times of day, but there is no date: "
            "give whole times, or set data.time = false to take rows as evenly spaced"
        )
    if counters := of[Role.COUNTER]:
        return number_axes(table, counters[0], named_time=False)
    return []


def _rank(name: str) -> int:
    bare = plain(name)
    return TIME_NAMES.index(bare) if bare in TIME_NAMES else len(TIME_NAMES)


def _is_date(axis: Axis) -> bool:
    return axis.is_time and not (axis.ticks % DAY_NS).any()


def _parts(table: Table, names: Sequence[str]) -> dict[str, str]:
    """Part of a time -> its column; the first of each."""
    parts: dict[str, str] = {}
    for name in names:
        part = calendar_part(name, table.numbers(name))
        if part is not None and part in PARTS:
            parts.setdefault(part, name)
    return parts


def _with_clock(
    table: Table, name: str, axes: list[Axis], clocks: Sequence[str], parts: Mapping[str, str]
) -> list[Axis]:
    """Dates whose time of day has a column of its own, put together."""
    dates = [axis for axis in axes if axis.is_time]
    if not dates or not all(_is_date(axis) for axis in dates) or _distinct(dates[0]):
        return axes
    if clocks:
        offsets = clock_offsets(table, clocks[0])
        used: tuple[str, ...] = (name, clocks[0])
    elif "hour" in parts:
        of_day = {part: column for part, column in parts.items() if part in list(PARTS)[3:]}
        offsets, used = offsets_of(table, of_day), (name, *of_day.values())
    else:
        return axes
    return [replace(a, columns=used, ticks=a.ticks + offsets, hint="") for a in dates]


def _distinct(axis: Axis) -> bool:
    return len(np.unique(axis.ticks)) == len(axis.ticks)


# --- the channels ---------------------------------------------------------------------------------


def _channels(
    table: Table,
    roles: Mapping[str, Role],
    used: Sequence[str],
    grid: Grid | None,
    channels: Sequence[str] | None,
) -> tuple[str, ...]:
    """The names of the channels.

    Raises:
        DataError: none is left, a column has no name, or whether one is a channel is open.
    """
    if channels:
        return tuple(channels)
    found = []
    for name in table.names:
        if name in used or roles[name] not in (Role.CHANNEL, Role.OPEN):
            continue
        if not name:
            raise DataError(
                f"{table.path}: column 1 has no name in the header and is neither a time nor a row "
                "counter: name it, or name the channels in data.channels"
            )
        if roles[name] is Role.CHANNEL or not _orders_rows(table, name, grid):
            found.append(name)
    if not found:
        raise DataError(
            f"{table.path}: no channels: its columns ({listed(table.names)}) are times, calendar "
            "fields or row counters; name those that are channels in data.channels"
        )
    return tuple(found)


def _orders_rows(table: Table, name: str, grid: Grid | None) -> bool:
    """Whether a column that may be a time or a counter is one, seen in order of time."""
    numbers = table.numbers(name)
    answer = None if grid is None else orders_rows(numbers[grid.order])
    if answer is None:
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        raise DataError(
            f"{table.path}: column '{shown(name)}' holds {low:.10g} to {high:.10g}, not rising, as "
            "times or row numbers of rows that are out of order: name it in data.time or "
            "data.channels"
        )
    return answer


def _values(
    table: Table, channels: Sequence[str], grid: Grid | None, gaps: GapFilling | None
) -> tuple[NDArray[np.float64], int]:
    """`[T, C]` on the grid, and how many rows and cells were filled in."""
    read = np.stack([_channel(table, name, gaps is not None) for name in channels], axis=1)
    if grid is not None:
        read = read[grid.order]
    empty = int(np.isnan(read).sum())
    if not empty and not (grid and grid.missing):
        return read, 0
    slots = np.arange(len(read)) if grid is None else grid.slots
    values = np.full((int(slots[-1]) + 1, len(channels)), np.nan)
    values[slots] = read
    frame = pd.DataFrame(values)
    frame = frame.ffill() if gaps == "forward-fill" else frame.interpolate(limit_area="inside")
    unfilled = frame.isna().any(axis=0).to_numpy()
    if unfilled.any():
        name = shown(channels[int(np.argmax(unfilled))])
        end = "beginning" if frame.iloc[0].isna().any() else "end"
        raise DataError(
            f"{table.path}: column '{name}' has no value to fill from at its {end}: "
            "cut these rows off"
        )
    return frame.to_numpy(), empty + (grid.missing if grid else 0)


def _channel(table: Table, name: str, may_be_empty: bool) -> NDArray[np.float64]:
    """The column as numbers; the first cell that is not a finite number is named."""
    cells, numbers = table.frame[name], table.numbers(name)
    if cells.isna().all():
        raise DataError(
            f"{table.path}: column '{shown(name)}' is empty: leave it out with data.channels"
        )
    bad = ~(np.abs(numbers) <= LARGEST)
    if may_be_empty:
        bad &= cells.notna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        cell: Any = cells.iloc[row]
        if pd.isna(cell):
            what = "is empty or NaN: mend it, or set data.gaps to 'forward-fill' or 'interpolate'"
        else:
            what = (
                f"= '{shown(cell)}' is not a finite number: mend it, "
                "or leave the column out with data.channels"
            )
        raise DataError(f"{table.path}: column '{shown(name)}', {table.at(row)} {what}")
    return numbers
