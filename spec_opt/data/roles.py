"""What a column of a table is, by its name and its content: a time, a counter, or a channel.

No numeric column that orders or counts rows may pass as a channel: it would be forecast too, almost
without error, and make every number look better. Where content leaves it open, the answer is
`Role.OPEN`, which is refused unless the order of the rows decides.
"""

import re
from enum import Enum
from typing import Final

import numpy as np
import pandas as pd

from spec_opt.data.table_file import Table
from spec_opt.data.time_grid import FEW_ROWS, counts_rows
from spec_opt.data.timestamps import (
    Ticks,
    calendar_part,
    exact,
    is_clock,
    is_compact,
    is_epoch,
    is_time_text,
)

TIME_NAMES: Final = ("datetime", "timestamp", "ds", "date", "time", "unix", "epoch")
"""Without punctuation; a column of such a name must hold times. Likelier ones first."""
_TIME_WORDS: Final = frozenset(
    {*TIME_NAMES, "utc", "gmt", "year", "unixtime", "zeit", "datum", "fecha", "hora", "heure"}
)
"""In a name of several words: a column that also rises or falls all the way holds times."""
_INDEX_NAMES: Final = frozenset(
    {"", "unnamed0", "index", "no", "nr", "id", "row", "rownumber", "rowid", "obs", "idx", "sno"}
)
_NEARLY_ALL: Final = 0.9


class Role(Enum):
    """What a column is; values are what it is called where it is left out."""

    TIME = "a time"
    CLOCK = "a time of day"
    CALENDAR = "a calendar field"
    COUNTER = "a row counter"
    OPEN = "row numbers"
    CHANNEL = "not chosen"


def plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def says_time(name: str) -> bool:
    """Whether one of a name's words is of time."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return not _TIME_WORDS.isdisjoint(words)


def role_of(table: Table, name: str) -> Role:
    """What a column is."""
    cells = table.frame[name]
    if not table.is_numeric(name):
        if is_clock(cells):
            return Role.CLOCK
        dates = pd.api.types.is_datetime64_any_dtype(cells)
        named = plain(name) in TIME_NAMES
        return Role.TIME if dates or named or is_time_text(cells) else Role.CHANNEL
    if pd.api.types.is_timedelta64_dtype(cells):
        return Role.TIME
    numbers = table.numbers(name)
    if calendar_part(name, numbers):
        return Role.CALENDAR
    if plain(name) in TIME_NAMES:
        return Role.TIME
    finite = np.isfinite(numbers)
    # A time is still one where a cell is empty: it is refused for that, not forecast.
    finite_ticks: Ticks = exact(table, name) if finite.all() else numbers[finite]
    return _role_of_numbers(name, finite_ticks)


def _role_of_numbers(name: str, ticks: Ticks) -> Role:
    if len(ticks) < 3:
        return Role.CHANNEL
    counts_sorted = len(ticks) >= FEW_ROWS and counts_rows(ascending(ticks))
    ordered = goes_one_way(ticks)
    if is_compact(ticks) or is_epoch(ticks):
        return Role.TIME if ordered or counts_sorted or is_compact(ticks) else Role.OPEN
    if ordered and says_time(name):
        return Role.TIME
    if counts_rows(ticks) or (ordered and plain(name) in _INDEX_NAMES):
        # A count that falls may be of rows that are newest first, or a countdown.
        return Role.COUNTER if np.median(np.diff(ticks)) > 0 else Role.OPEN
    return Role.OPEN if counts_sorted else Role.CHANNEL


def ascending(ticks: Ticks) -> Ticks:
    """Sorted."""
    result: Ticks = np.sort(ticks)  # type: ignore[assignment]
    return result


def goes_one_way(ticks: Ticks) -> bool:
    """Whether numbers rise, or fall, all the way; a few may repeat."""
    steps = np.diff(ticks)
    return bool(
        ((steps >= 0).all() or (steps <= 0).all())
        and np.count_nonzero(steps) >= _NEARLY_ALL * len(steps)
    )


def orders_rows(ticks: Ticks) -> bool | None:
    """Whether a column of an open role, its rows in order of time, is a time or a counter.

    None if that is still open: all numbers of a counter, but not in order, may be ranks.
    """
    if counts_rows(ticks) or goes_one_way(ticks):
        return True
    return None if counts_rows(ascending(ticks)) else False
