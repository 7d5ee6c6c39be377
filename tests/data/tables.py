"""A small table, written in every way, and read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spec_opt.config.values import GapFilling, TimeColumn
from spec_opt.data.reader import Series, series_of
from spec_opt.data.table_file import read_table
from spec_opt.errors import DataError

ROWS = 60
RNG = np.random.default_rng(0)
LOAD, HEAT = RNG.normal(5, 2, ROWS).round(3), RNG.normal(30, 9, ROWS).round(3)
HOURS = pd.date_range("2016-07-01", periods=ROWS, freq="h")


def table(**columns: Sequence[object] | pd.Index | NDArray[Any]) -> pd.DataFrame:
    """Some leading columns, then the two channels."""
    lead = pd.DataFrame({name: list(cells) for name, cells in columns.items()})
    return lead.assign(load=LOAD, heat=HEAT)


def read(
    folder: Path,
    frame: pd.DataFrame | str | bytes,
    *,
    time: TimeColumn | None = None,
    channels: Sequence[str] | None = None,
    gaps: GapFilling | None = None,
) -> Series:
    """The series of a file with this content."""
    path = folder / "plant.csv"
    if isinstance(frame, pd.DataFrame):
        frame.to_csv(path, index=False)
    else:
        path.write_bytes(frame.encode() if isinstance(frame, str) else frame)
    return series_of(read_table(path), time=time, channels=channels, gaps=gaps)


def same(reading: Series) -> bool:
    """Whether it is `load` and `heat`, bit for bit."""
    return reading.columns == ("load", "heat") and np.array_equal(
        reading.values, np.stack([LOAD, HEAT], axis=1)
    )


def refused(folder: Path, frame: pd.DataFrame | str | bytes, **options: object) -> str:
    """The message by which a file with this content is refused: one line, not too long."""
    with pytest.raises(DataError) as caught:
        read(folder, frame, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(folder))
    return message
