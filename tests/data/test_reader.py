"""Which column is the time, which are channels: read, or refused with the line at fault."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spec_opt.config.study_file import DataConfig
from spec_opt.data.windows import Windows, load_dataset
from spec_opt.errors import DataError
from tests.data.tables import HEAT, HOURS, LOAD, RNG, ROWS, read, refused, same, table

# --- times ----------------------------------------------------------------------------------------


def every(
    freq: str, text: str | None = None, start: str = "2016-07-01", zone: str | None = None
) -> pd.Index:
    """Times, or how they are written."""
    times = pd.date_range(start, periods=ROWS, freq=freq, tz=zone)
    return times.strftime(text) if text else times


def wall_clock(start: str) -> pd.Index:
    """Hours in Berlin, without their offsets."""
    return pd.date_range(start, periods=ROWS, freq="h", tz="Europe/Berlin").tz_localize(None)


EPOCH = HOURS.astype("datetime64[ns]").astype(np.int64)
AUTUMN, SPRING = "2016-10-29", "2017-03-25"
"""In Berlin the clock goes back on the morning after, or forward."""


@pytest.mark.parametrize(
    ("columns", "used", "step", "first"),
    [
        ({"date": HOURS}, ("date",), "hourly", "2016-07-01"),
        ({"when": HOURS}, ("when",), "hourly", "2016-07-01"),
        ({"unix": EPOCH // 10**9}, ("unix",), "hourly", "2016-07-01"),
        ({"open_time": EPOCH // 10**6}, ("open_time",), "hourly", "2016-07-01"),
        ({"t": EPOCH // 10**3}, ("t",), "hourly", "2016-07-01"),
        ({"x": EPOCH}, ("x",), "hourly", "2016-07-01"),
        ({"ts": EPOCH / 1e9}, ("ts",), "hourly", "2016-07-01"),
        ({"date": 42552 + np.arange(ROWS) / 24}, ("date",), "hourly", "2016-07-01"),
        ({"date": (42552 + np.arange(ROWS) / 24).round(5)}, ("date",), "hourly", "2016-07-01"),
        ({"date": 42552 + np.arange(ROWS)}, ("date",), "daily", "2016-07-01"),
        ({"x": every("h", "%Y%m%d%H")}, ("x",), "hourly", "2016-07-01"),
        ({"day": every("D", "%Y%m%d")}, ("day",), "daily", "2016-07-01"),
        ({"d": every("h", "%d/%m/%Y %H:%M")}, ("d",), "hourly", "2016-07-01"),
        ({"d": every("h", "%m/%d/%Y %I:%M:%S %p")}, ("d",), "hourly", "2016-07-01"),
        ({"d": every("h", "%d.%m.%Y %H:%M")}, ("d",), "hourly", "2016-07-01"),
        ({"d": every("D", "%d/%m/%y")}, ("d",), "daily", "2016-07-01"),
        ({"d": every("D", "%d-%b-%Y")}, ("d",), "daily", "2016-07-01"),
        ({"d": every("h", "%Y-%m-%d %H:%M:%S UTC")}, ("d",), "hourly", "2016-07-01 UTC"),
        ({"d": every("h", "%Y-%m-%dT%H:%M:%SZ")}, ("d",), "hourly", "2016-07-01 UTC"),
        ({"d": every("h", "%Y-%m-%dT%H:%M:%S+02:00")}, ("d",), "hourly", "2016-06-30 22:00 UTC"),
        # Offsets change with summer time: regular in UTC by the hour, on the wall clock by day.
        (
            {"d": every("h", start=AUTUMN, zone="Europe/Berlin")},
            ("d",),
            "hourly",
            "2016-10-28 22:00 UTC",
        ),
        ({"d": every("D", start=AUTUMN, zone="Europe/Berlin")}, ("d",), "daily", "2016-10-29"),
        # Midnight without its time of day, as Excel and R write it.
        ({"d": [str(t).removesuffix(" 00:00:00") for t in HOURS]}, ("d",), "hourly", "2016-07-01"),
        ({"d": every("15min", start="2016-07-01 12:00")}, ("d",), "15-minute", "2016-07-01 12:00"),
        ({"d": every("10s")}, ("d",), "10-second", "2016-07-01"),
        ({"d": every("7D")}, ("d",), "weekly", "2016-07-01"),
        ({"d": every("MS")}, ("d",), "monthly", "2016-07-01"),
        ({"d": every("ME")}, ("d",), "monthly", "2016-07-31"),
        ({"d": every("MS", "%Y-%m")}, ("d",), "monthly", "2016-07-01"),
        ({"d": every("MS", "%b %Y")}, ("d",), "monthly", "2016-07-01"),
        # All on the first of a month: only with the day first are they one step apart.
        ({"d": every("MS", "%d/%m/%Y")}, ("d",), "monthly", "2016-07-01"),
        ({"d": every("QS")}, ("d",), "quarterly", "2016-07-01"),
        (
            {"d": [f"{2000 + i // 4}Q{i % 4 + 1}" for i in range(ROWS)]},
            ("d",),
            "quarterly",
            "2000-01-01",
        ),
        ({"d": every("YS")}, ("d",), "yearly", "2017-01-01"),
        ({"year": 1950 + np.arange(ROWS)}, ("year",), "yearly", "1950-01-01"),
        ({"d": every("B")}, ("d",), "business-daily", "2016-07-01"),
        (
            {
                "No": 1 + np.arange(ROWS),
                "year": HOURS.year,
                "month": HOURS.month,
                "day": HOURS.day,
                "hour": HOURS.hour,
            },
            ("year", "month", "day", "hour"),
            "hourly",
            "2016-07-01",
        ),
        (
            {"Date": every("h", "%d/%m/%Y"), "Time": every("h", "%H:%M:%S")},
            ("Date", "Time"),
            "hourly",
            "2016-07-01",
        ),
        (
            {"Date": every("h", "%d/%m/%Y"), "Time": every("h", "%H.%M.%S")},
            ("Date", "Time"),
            "hourly",
            "2016-07-01",
        ),
        (
            {"date": every("h", "%Y-%m-%d"), "hour": HOURS.hour + 1},
            ("date", "hour"),
            "hourly",
            "2016-07-01 01:00",
        ),
        (
            {"date": every("h", "%Y%m%d"), "clock": every("h", "%H:%M")},
            ("date", "clock"),
            "hourly",
            "2016-07-01",
        ),
        (
            {"date": HOURS, "hour": HOURS.hour, "weekday": HOURS.day_of_week, "month": HOURS.month},
            ("date",),
            "hourly",
            "2016-07-01",
        ),
        (
            {"open_time": EPOCH // 10**6, "close_time": EPOCH // 10**6 + 3_599_999},
            ("open_time",),
            "hourly",
            "2016-07-01",
        ),
        ({"Unnamed: 0": np.arange(ROWS)}, ("Unnamed: 0",), "even", "0"),
        ({"No": 1 + np.arange(ROWS)}, ("No",), "even", "1"),
        ({"whatever": 10 * np.arange(ROWS)}, ("whatever",), "even", "0"),
        ({"seconds": np.arange(ROWS) / 10}, ("seconds",), "even", "0"),
        # Rounded or cut to the digits of the column.
        ({"unix": EPOCH // 10**12}, ("unix",), "even", "1467331"),
        ({"year": (1950 + np.arange(ROWS) / 12).round(3)}, ("year",), "even", "1950"),
    ],
)
def test_times_are_found_and_are_no_channels(
    tmp_path: Path,
    columns: dict[str, Sequence[object]],
    used: tuple[str, ...],
    step: str,
    first: str,
) -> None:
    first_frame = pd.DataFrame({name: list(cells) for name, cells in columns.items()})
    channels = pd.DataFrame({"load": LOAD, "heat": HEAT})
    for frame in (first_frame.join(channels), channels.join(first_frame)):
        reading = read(tmp_path, frame)
        assert same(reading)
        assert reading.time is not None
        assert (reading.time.columns, reading.time.step, reading.time.first) == (used, step, first)
        assert {column.name for column in reading.left_out} == set(columns) - set(used)
        assert reading.notes == ()


def test_no_time_at_all(tmp_path: Path) -> None:
    reading = read(tmp_path, table())
    assert same(reading)
    assert reading.time is None


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"date": HOURS.delete(30).append(HOURS[-1:] + pd.Timedelta("1h"))},
            [
                "line 32",
                "between 2016-07-02 05:00 and 2016-07-02 07:00",
                "1 hour is missing between",
                "data.gaps",
            ],
        ),
        (
            {"date": [*HOURS[:30], *HOURS[29:-1]]},
            ["line 32 repeats the time of line 31", "2016-07-02 05:00"],
        ),
        (
            {"date": [*HOURS[:30], *(HOURS[30:] + pd.Timedelta("20min"))]},
            ["line 32", "not even", "01:20:00, elsewhere 01:00:00"],
        ),
        ({"date": [*HOURS[:30], "soon", *HOURS[31:]]}, ["'date', line 32 = 'soon' is not a time"]),
        ({"date": [*HOURS[:30], "", *HOURS[31:]]}, ["'date', line 32 is empty"]),
        ({"date": ["monday"] * ROWS}, ["'date', line 2 = 'monday' is not a time", "data.time"]),
        ({"date": every("h", "%Y-%m-%d %H:%M CET")}, ["'2016-07-01 00:00 CET' is not a time"]),
        (
            {"unix": [*EPOCH[:30] // 10**9, np.nan, *EPOCH[31:] // 10**9]},
            ["'unix', line 32 has no time"],
        ),
        ({"time": LOAD}, ["column 'time'", "not even"]),
        ({"d": pd.date_range("2016-07-01", periods=ROWS + 1, freq="MS").delete(30)}, ["1 month"]),
        (
            {"d": pd.date_range("2016-07-01", periods=ROWS + 1, freq="B").delete(30)},
            ["1 business day"],
        ),
        ({"x": EPOCH / 1e9 + RNG.random(ROWS)}, ["'x'", "not even", "data.channels"]),
        ({"No": [*range(30), *range(35, 65)]}, ["'No', line 32", "5 rows are missing"]),
        (
            {"month": HOURS.month, "day": HOURS.day, "hour": HOURS.hour},
            ["'month', 'day', 'hour'", "no year"],
        ),
        ({"hour": HOURS.hour}, ["'hour'", "no year", "data.time = false"]),
        ({"year": HOURS.year}, ["'year', line 3 repeats the time of line 2"]),
        (
            {"year": HOURS.year, "month": [2] * ROWS, "day": 1 + np.arange(ROWS) % 30},
            ["line 31 = 2016-2-30 is not a date"],
        ),
        ({"clock": every("h", "%H:%M")}, ["'clock'", "no date"]),
        (
            {"Date": every("h", "%d/%m/%Y"), "Time": [*every("h", "%H:%M")[:-1], "late"]},
            ["'Time', line 61 = 'late'"],
        ),
        (
            {"d": wall_clock(AUTUMN)},
            ["line 29 repeats the time of line 28", "summer time?"],
        ),
        (
            {"d": wall_clock(SPRING)},
            ["line 28", "1 hour is missing", "summer time?"],
        ),
        ({"rank": RNG.permutation(ROWS)}, ["'rank' holds 0 to 59, not rising", "data.channels"]),
    ],
)
def test_tables_that_are_no_series(
    tmp_path: Path, columns: dict[str, Sequence[object]], words: list[str]
) -> None:
    message = refused(tmp_path, table(**columns))
    for word in words:
        assert word in message


def test_dates_that_may_be_read_both_ways(tmp_path: Path) -> None:
    dates = [f"0{month}/01/2016" for month in range(1, 8)]  # monthly, or daily
    frame = pd.DataFrame({"date": dates, "a": [3.0, 1, 4, 1, 5, 9, 2]})
    message = refused(tmp_path, frame)
    assert "line 3 is 2016-01-02 with the day first and 2016-02-01 with the month first" in message
    longer = pd.DataFrame({"date": [*dates, "13/01/2016"], "a": [*frame["a"], 6.0]})
    # There is no thirteenth month; with the day first, days are missing.
    assert "5 days are missing between 2016-01-07 and 2016-01-13" in refused(tmp_path, longer)


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [{"date": HOURS}, {"unix": EPOCH // 10**9}])
def test_newest_first_is_reversed(tmp_path: Path, columns: dict[str, Sequence[object]]) -> None:
    reading = read(tmp_path, table(**columns)[::-1])
    assert same(reading)
    assert reading.notes == ("rows are newest first: reversed",)


def test_shuffled_rows_are_sorted_by_their_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shuffled = table(n=range(ROWS), date=HOURS).sample(frac=1, random_state=1)
    reading = read(tmp_path, shuffled)
    assert same(reading)
    assert [str(column) for column in reading.left_out] == ["n (row numbers)"]
    assert "plant.csv: rows are out of order: sorted" in caplog.text
    assert same(read(tmp_path, shuffled.drop(columns="date"), time="n"))
    assert "'n' holds 0 to 59, not rising" in refused(tmp_path, shuffled.drop(columns="date"))


# --- data.time, data.channels, data.gaps ----------------------------------------------------------


def test_channels_are_those_that_are_named(tmp_path: Path) -> None:
    frame = table(date=HOURS, hour=HOURS.hour, n=range(ROWS), station=["Rome"] * ROWS)
    assert "column 'station', line 2 = 'Rome' is not a finite number" in refused(tmp_path, frame)
    reading = read(tmp_path, frame, channels=["heat", "n", "hour"])
    assert reading.columns == ("heat", "n", "hour")
    assert reading.values[:, 0].tolist() == HEAT.tolist()
    assert reading.values[:, 1].tolist() == list(range(ROWS))
    assert [str(column) for column in reading.left_out] == ["station", "load"]
    assert reading.time is not None
    assert reading.time.columns == ("date",)


def test_the_time_is_that_which_is_named(tmp_path: Path) -> None:
    frame = table(date=HOURS.delete(3).append(HOURS[-1:] + pd.Timedelta("1h")), n=range(ROWS))
    reading = read(tmp_path, frame, time="n")
    assert reading.time is not None
    assert reading.time.columns == ("n",)
    assert [str(column) for column in reading.left_out] == ["date (a time)"]
    assert read(tmp_path, frame, time=False).time is None
    assert same(read(tmp_path, frame, time=False))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"time": "dat"},
            "data.time names 'dat', which is not a column; the columns are date, load",
        ),
        ({"channels": ["load", "x"]}, "data.channels names 'x', which is not a column"),
        ({"time": "load", "channels": ["load"]}, "data.channels names 'load', which is data.time"),
        ({"time": "load"}, "column 'load', line"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, table(date=HOURS), **options)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_gaps_are_filled_as_asked(tmp_path: Path) -> None:
    frame = table(date=HOURS).assign(load=np.arange(ROWS) ** 2.0)
    gappy = frame.drop(index=[3, 4, 50])
    gappy.loc[10, "load"] = np.nan
    held = read(tmp_path, gappy, gaps="forward-fill")
    assert held.values[:6, 0].tolist() == [0, 1, 4, 4, 4, 25]
    assert held.values[10, 0] == 81
    assert held.filled == 4
    assert len(held.values) == ROWS
    assert held.time is not None
    assert held.time.times is not None
    assert held.time.times.tolist() == HOURS.to_numpy().astype("datetime64[ns]").tolist()
    line = read(tmp_path, gappy, gaps="interpolate")
    assert line.values[:6, 0].tolist() == [0, 1, 4, 11, 18, 25]
    assert line.values[10, 0] == (81 + 121) / 2
    gappy.loc[0, "heat"] = np.nan
    assert "'heat' has no value to fill from at its beginning" in refused(
        tmp_path, gappy, gaps="forward-fill"
    )
    gappy.loc[0, "heat"] = np.inf
    assert "line 2 = 'inf' is not a finite" in refused(tmp_path, gappy, gaps="interpolate")


def test_a_misprint_in_a_year_is_no_gap_to_fill(tmp_path: Path) -> None:
    dates = [*HOURS[:-1], HOURS[-1] + pd.Timedelta(days=36500)]
    assert "line 61" in refused(tmp_path, table(date=dates), gaps="interpolate")


# --- ETTh1, as people bring it --------------------------------------------------------------------


def _middle(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["HUFL", "HULL", "date", "MUFL", "MULL", "LUFL", "LULL", "OT"]]


def _parts(frame: pd.DataFrame) -> pd.DataFrame:
    date = pd.to_datetime(frame.pop("date"))
    for i, part in enumerate(("year", "month", "day", "hour")):
        frame.insert(i, part, getattr(date.dt, part))
    return frame


def _epoch(frame: pd.DataFrame) -> pd.DataFrame:
    seconds = pd.to_datetime(frame["date"]).astype("datetime64[s]").astype("int64")
    return frame.assign(date=seconds).rename(columns={"date": "unix"})


VARIANTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "renamed": lambda frame: frame.rename(columns={"date": "recorded"}),
    "in the middle": _middle,
    "epoch seconds": _epoch,
    "year, month, day, hour": _parts,
    "a counter beside it": lambda frame: frame.reset_index(names="Unnamed: 0"),
    "a counter instead": lambda frame: frame.drop(columns="date").reset_index(names="No"),
    "none": lambda frame: frame.drop(columns="date"),
    "reversed": lambda frame: frame[::-1],
    "shuffled": lambda frame: frame.sample(frac=1, random_state=0),
    "shuffled epochs": lambda frame: _epoch(frame).sample(frac=1, random_state=0),
    "day first": lambda frame: frame.assign(
        date=pd.to_datetime(frame["date"]).dt.strftime("%d/%m/%Y %H:%M")
    ),
}


@pytest.fixture(scope="session")
def etth1(shared_dir: Path) -> pd.DataFrame:
    return pd.read_csv(shared_dir / "data" / "ETTh1.csv")


def windows_of(source: Path) -> Windows:
    config = DataConfig(source=str(source), context=672, horizon=336)
    return load_dataset(config).windows("validation", 672, 336, max_windows=256)


@pytest.mark.shared
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_etth1_give_its_numbers(
    etth1: pd.DataFrame, shared_dir: Path, tmp_path: Path, variant: str
) -> None:
    reading = read(tmp_path, VARIANTS[variant](etth1.copy()))
    assert reading.columns == tuple(etth1.columns[1:])
    assert np.array_equal(reading.values, etth1.iloc[:, 1:].to_numpy())
    # Its standard splits too, under whatever name.
    original = windows_of(shared_dir / "data" / "ETTh1.csv")
    assert windows_of(tmp_path / "plant.csv").fingerprint == original.fingerprint


@pytest.mark.shared
@pytest.mark.parametrize("fault", ["repeated", "gap"])
def test_faults_in_etth1_are_named(etth1: pd.DataFrame, tmp_path: Path, fault: str) -> None:
    if fault == "gap":
        assert "line 8002" in refused(tmp_path, etth1.drop(index=8000))
    else:
        rows = [*range(8001), *range(8000, len(etth1))]
        assert "line 8003 repeats the time of line 8002" in refused(tmp_path, etth1.iloc[rows])
