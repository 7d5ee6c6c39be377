"""How the times of a series go on after its last row."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.data.tables import HOURS, ROWS, read, table

MORE = 40


def times(freq: Any, start: str = "2016-07-01", zone: str | None = None) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=ROWS + MORE, freq=freq, tz=zone)


@pytest.mark.parametrize(
    "every",
    [
        times("h"),
        times("15min"),
        times("D"),
        times("W"),
        times("B"),
        times("B", "2016-07-01 16:30"),
        times("MS"),
        times("ME"),
        times("MS", "2016-07-01 06:00"),
        times(pd.DateOffset(months=1), "2016-07-15"),
        times("2MS"),
        times("QE"),
        times("YS"),
        times("YE", "1960-01-01"),
        times("100us"),
        times("250ns"),
        times("h", zone="UTC"),
        pd.DatetimeIndex(times("B") + pd.Timedelta("09:30:00")),
    ],
    ids=str,
)
def test_times_go_on_by_their_step(tmp_path: Path, every: pd.DatetimeIndex) -> None:
    found = read(tmp_path, table(when=every[:ROWS].astype(str))).following(MORE)
    assert found.name == "when"
    assert list(found) == list(every[ROWS:])


def test_years_that_nanoseconds_do_not_reach(tmp_path: Path) -> None:
    years = [f"{year}-01-01" for year in range(2190, 2190 + ROWS)]
    found = read(tmp_path, table(year=years)).following(MORE)
    assert str(found[-1])[:10] == f"{2189 + ROWS + MORE}-01-01"


def test_a_day_that_short_months_do_not_have(tmp_path: Path) -> None:
    days = [t for t in times("ME", "2015-03-01")[:11] if t.month != 2]
    frame = table(day=times("h")[:ROWS])[: len(days)].assign(day=[f"{t:%Y-%m}-30" for t in days])
    found = read(tmp_path, frame).following(2)  # the last row is of January 2016
    assert [f"{t:%Y-%m-%d}" for t in found] == ["2016-02-29", "2016-03-30"]


@pytest.mark.parametrize(
    ("counter", "follow"),
    [
        (np.arange(ROWS), [ROWS, ROWS + 1]),
        (5 * np.arange(ROWS) + 100, [5 * ROWS + 100, 5 * ROWS + 105]),
        (0.25 * np.arange(ROWS), [0.25 * ROWS, 0.25 * ROWS + 0.25]),
    ],
)
def test_counters_go_on_counting(tmp_path: Path, counter: Any, follow: list[float]) -> None:
    found = read(tmp_path, table(index=counter)).following(2)
    assert (found.name, list(found)) == ("index", follow)
    assert found.dtype == counter.dtype


def test_rows_are_numbered_where_nothing_else_counts(tmp_path: Path) -> None:
    found = read(tmp_path, table()).following(2)
    assert (found.name, list(found)) == ("row", [ROWS, ROWS + 1])
    named = read(tmp_path, table().rename(columns={"heat": "row"}))
    assert named.following(1).name == "row_"


def test_missing_rows_count(tmp_path: Path) -> None:
    frame = table(date=HOURS).drop(index=[7, ROWS - 2])
    found = read(tmp_path, frame, gaps="forward-fill").following(1)
    assert list(found) == [HOURS[-1] + pd.Timedelta("1h")]
    counted = table(index=np.arange(ROWS)).drop(index=[7, ROWS - 2])
    assert list(read(tmp_path, counted, gaps="interpolate").following(1)) == [ROWS]


def test_rows_that_were_out_of_order(tmp_path: Path) -> None:
    found = read(tmp_path, table(date=HOURS)[::-1]).following(1)
    assert list(found) == [HOURS[-1] + pd.Timedelta("1h")]


def test_a_time_in_several_columns(tmp_path: Path) -> None:
    parts = {part: getattr(HOURS, part) for part in ("year", "month", "day", "hour")}
    found = read(tmp_path, table(**parts)).following(1)
    assert (found.name, list(found)) == ("year", [HOURS[-1] + pd.Timedelta("1h")])


def test_epochs_go_on_as_times(tmp_path: Path) -> None:
    seconds = HOURS.astype("datetime64[s]").astype(np.int64)
    assert list(read(tmp_path, table(unix=seconds)).following(1)) == [
        HOURS[-1] + pd.Timedelta("1h")
    ]
