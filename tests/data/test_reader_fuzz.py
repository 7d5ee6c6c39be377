"""Whatever a file holds: a series of finite numbers, or one line that says why not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spec_opt.data.reader import series_of
from spec_opt.data.table_file import read_table
from spec_opt.errors import DataError

CELLS = st.one_of(
    st.integers(-10, 10).map(str),
    st.integers(0, 10**19).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(
        ["", "1,5", "1.234,5", "1 234", "NaN", "inf", "-", "#N/A", "true", "x", '"', "24:00", "é"]
    ),
    st.datetimes().map(str),
    st.datetimes().map(lambda time: time.strftime("%d/%m/%Y %H:%M")),
    st.dates().map(str),
    st.text(max_size=4),
)
NAMES = st.one_of(
    st.sampled_from(["date", "time", "year", "month", "day", "hour", "unix", "No", "", "a", "0"]),
    st.text(max_size=4),
)
COLUMNS = st.one_of(
    st.lists(CELLS, min_size=12, max_size=12),
    st.integers(0, 2 * 10**9).map(lambda start: [str(start + 3600 * i) for i in range(12)]),
    st.datetimes().map(lambda start: [str(np.datetime64(start, "m") + 60 * i) for i in range(12)]),
    st.lists(st.integers(1, 12).map(str), min_size=12, max_size=12),
    st.permutations([str(i) for i in range(12)]),
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Columns that are much like those of a series, perhaps with one strange cell."""
    columns = draw(st.lists(COLUMNS, min_size=1, max_size=5))
    if draw(st.booleans()):
        columns = [list(column) for column in columns]
        draw(st.sampled_from(columns))[draw(st.integers(0, 11))] = draw(CELLS)
    names = draw(st.lists(NAMES, min_size=len(columns), max_size=len(columns)))
    delimiter = draw(st.sampled_from([",", ";", "\t", " "]))
    rows = [*([names] if draw(st.booleans()) else []), *zip(*columns, strict=True)]
    encoding = draw(st.sampled_from(["utf-8", "utf-16", "latin-1"]))
    return "\n".join(delimiter.join(row) for row in rows).encode(encoding, "replace")


CONTENT = st.one_of(
    tables(),
    st.binary(max_size=200),
    st.text(alphabet='0123456789.,;:/-+eE \t\n"abc\x00é', max_size=200).map(str.encode),
)


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        series = series_of(read_table(path))
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message.replace(str(path), "").splitlines()) == 1
        assert len(message.replace(str(path), "")) < 600
    else:
        assert np.isfinite(series.values).all()
        assert series.values.shape[1] == len(series.columns) > 0


@given(CONTENT)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file(tmp_path: Path, content: bytes) -> None:
    check(tmp_path / "plant.csv", content)


@pytest.mark.parametrize("value", [np.nan, np.inf, None, "x", True, pd.Timedelta("1h"), b"x", [1]])
def test_any_cell_of_parquet(tmp_path: Path, value: object) -> None:
    frame = pd.DataFrame({"a": [value] * 5, "b": [3.0, 1, 4, 1, 5]})
    frame.to_parquet(tmp_path / "plant.parquet")
    check(tmp_path / "plant.parquet", (tmp_path / "plant.parquet").read_bytes())
