"""Nothing that orders or counts rows is a channel, whatever its name and whatever is wrong."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spec_opt.errors import DataError
from tests.data.tables import HEAT, HOURS, LOAD, RNG, ROWS, read, refused, same, table

EPOCH = HOURS.astype("datetime64[ns]").astype(np.int64)
N = np.arange(ROWS)
WRITTEN: dict[str, Sequence[object] | pd.Index | NDArray[Any]] = {
    "epoch seconds": EPOCH // 10**9,
    "epoch seconds as floats": EPOCH / 1e9,
    "epoch milliseconds": EPOCH // 10**6,
    "epoch nanoseconds": EPOCH,
    "epoch seconds with a jitter": EPOCH / 1e9 + RNG.random(ROWS),
    "epoch seconds cut to thousands": EPOCH // 10**12,
    "Excel": 42552 + N / 24,
    "Excel, rounded": (42552 + N / 24).round(4),
    "MATLAB": 736512 + N / 24,
    "Julian days": (2457570.5 + N / 24).round(5),
    "decimal years": 2016.5 + N / 8784,
    "days since the start": (N / 24).round(4),
    "seconds since the start": N * 3600,
    "a counter": N,
    "YYYYMMDDHH": HOURS.strftime("%Y%m%d%H"),
    "YYYYDDDHH": HOURS.strftime("%Y%j%H"),
    "ISO 8601": HOURS,
    "day first": HOURS.strftime("%d/%m/%Y %H:%M"),
    "as in no table of formats": HOURS.strftime("%Y-%m-%d %Hh"),
}
BROKEN: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "whole": lambda rows: rows,
    "newest first": lambda rows: rows[::-1],
    "shuffled": lambda rows: rows.sample(frac=1, random_state=0),
    "a gap": lambda rows: rows.drop(index=[20, 21]),
    "a row twice": lambda rows: pd.concat([rows[:30], rows[29:]]),
    "two files in one": lambda rows: pd.concat([rows, rows]),
    "an empty cell": lambda rows: rows.astype(object).mask(
        (rows.index == 20)[:, None] & (rows.columns == rows.columns[0])
    ),
}


@pytest.mark.parametrize("name", ["x", "open_time"])
@pytest.mark.parametrize("way", WRITTEN)
def test_right_or_refused(tmp_path: Path, way: str, name: str) -> None:
    for broken, rows in BROKEN.items():
        frame = rows(table(**{name: WRITTEN[way]}))
        try:
            right = same(read(tmp_path, frame))
        except DataError as error:
            right = f"'{name}'" in str(error)  # the column that is at fault
        assert right, broken


@pytest.mark.parametrize("name", ["x", "Unnamed: 0"])
def test_a_count_that_falls_is_left_open(tmp_path: Path, name: str) -> None:
    """Rows may be newest first, or a countdown such as a remaining life is among them."""
    falling = table(**{name: range(ROWS)[::-1]})
    message = f"'{name}' holds 0 to {ROWS - 1}, not rising"
    assert message in refused(tmp_path, falling)
    assert read(tmp_path, falling, time=name).values[0].tolist() == [LOAD[-1], HEAT[-1]]
    assert read(tmp_path, falling, channels=[name, "load", "heat"]).values[0, 0] == ROWS - 1
    assert same(read(tmp_path, falling.assign(date=HOURS)))  # beside a time it is no matter


MEASURED: dict[str, Sequence[object]] = {
    "a cycle": np.sin(N / 4).round(2).tolist(),
    "a random walk": np.cumsum(RNG.normal(size=ROWS)).tolist(),
    "a meter": np.cumsum(RNG.integers(0, 5, ROWS)).tolist(),
    "on and off": RNG.integers(0, 2, ROWS).tolist(),
    "counts": RNG.integers(0, 40, ROWS).tolist(),
    "a constant": [7] * ROWS,
    "steps up": (N // 10).tolist(),
    "large numbers": (1e7 * RNG.random(ROWS)).round().tolist(),
}


@pytest.mark.parametrize("channel", MEASURED)
@pytest.mark.parametrize("lead", [{}, {"date": HOURS}])
def test_measurements_stay_channels(
    tmp_path: Path, channel: str, lead: dict[str, Sequence[object]]
) -> None:
    reading = read(tmp_path, table(**lead, x=MEASURED[channel]))
    assert reading.columns == ("x", "load", "heat")
    assert reading.values[:, 0].tolist() == MEASURED[channel]


def test_large_measurements_beside_a_time_stay_channels(tmp_path: Path) -> None:
    volume = (1e9 * (1 + RNG.random(ROWS))).round().tolist()  # in the range of epoch seconds
    assert read(tmp_path, table(date=HOURS, volume=volume)).columns[0] == "volume"
    with pytest.raises(DataError, match=r"'volume' holds 1\.?\d*e?.* not rising, as times"):
        read(tmp_path, table(volume=volume))
    assert read(tmp_path, table(volume=volume), channels=["volume"]).columns == ("volume",)
