"""Series as people bring them: from pandas, Excel, R, loggers, exchanges, weather services."""

import bz2
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.bad_input.case import Case, Content, study

ROWS = 300
RNG = np.random.default_rng(7)
HOURS = pd.date_range("2016-07-01", periods=ROWS, freq="h")
EPOCH = HOURS.astype("datetime64[ns]").astype(np.int64)
CHANNELS = pd.DataFrame(
    {"load": RNG.normal(5, 2, ROWS).round(3), "heat": RNG.normal(30, 9, ROWS).round(3)}
)
Columns = dict[str, Sequence[object] | pd.Index | NDArray[Any]]


def table(columns: Columns | None = None) -> pd.DataFrame:
    """Some leading columns, then `load` and `heat`."""
    lead = pd.DataFrame({name: list(cells) for name, cells in (columns or {}).items()})
    return pd.concat([lead, CHANNELS], axis=1)


def every(freq: str, text: str | None = None, start: str = "2016-07-01") -> pd.Index:
    """Times, or how they are written."""
    times = pd.date_range(start, periods=ROWS, freq=freq)
    return times.strftime(text) if text else times


def csv(columns: Columns | None = None, **options: object) -> str:
    """The table as text."""
    return str(table(columns).to_csv(index=False, **options))  # type: ignore[call-overload]


TEXT = csv({"date": HOURS})


def good(id: str, content: Content, *words: str, data: str = "", source: str = "plant.csv") -> Case:
    files = {"study.toml": study(f'source = "{source}"\n{data}'), source: content}
    words = words or ("300 rows, hourly from 2016-07-01",)
    return Case(f"series: {id}", files, ("2 channels (load, heat)", *words), exit_code=0)


def bad(id: str, content: Content, *words: str, data: str = "", source: str = "plant.csv") -> Case:
    files = {"study.toml": study(f'source = "{source}"\n{data}'), source: content}
    return Case(f"series: {id}", files, (source.rpartition("/")[2], *words))


def without(*rows: int) -> str:
    """Hourly, but for some rows."""
    return str(table({"date": HOURS}).drop(index=list(rows)).to_csv(index=False))


def with_cell(row: int, cell: object) -> str:
    """Hourly, with another cell in `heat`."""
    heat = [*CHANNELS["heat"][:row], cell, *CHANNELS["heat"][row + 1 :]]
    return str(table({"date": HOURS}).assign(heat=heat).to_csv(index=False))


def swapped(rows: Callable[[pd.DataFrame], pd.DataFrame], columns: Columns | None = None) -> str:
    """The rows in another order."""
    return str(rows(table(columns or {"date": HOURS})).to_csv(index=False))


def berlin(start: str) -> pd.Index:
    """Hours on Berlin's clock, without offsets."""
    return pd.date_range(start, periods=ROWS, freq="h", tz="Europe/Berlin").tz_localize(None)


def parquet(path: Path) -> None:
    table({"date": HOURS}).set_index("date").to_parquet(path)


def workbook(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


PARTS: Columns = {
    "year": HOURS.year,
    "month": HOURS.month,
    "day": HOURS.day,
    "hour": HOURS.hour,
}

TIMES = [
    good("time first", TEXT),
    good(
        "time in the middle", table({"date": HOURS})[["load", "date", "heat"]].to_csv(index=False)
    ),
    good("time last", table({"date": HOURS})[["load", "heat", "date"]].to_csv(index=False)),
    good("time under a name of its own", csv({"Recorded At": HOURS})),
    good("unix seconds", csv({"unix": EPOCH // 10**9})),
    good("milliseconds of an exchange", csv({"open_time": EPOCH // 10**6})),
    good("microseconds", csv({"t": EPOCH // 10**3})),
    good("nanoseconds", csv({"index": EPOCH})),
    good("seconds as floats", csv({"ts": EPOCH / 1e9})),
    good("seconds cut to thousands", csv({"unix": EPOCH // 10**12}), "evenly spaced by unix"),
    good("Excel's dates", csv({"Date": (42552 + np.arange(ROWS) / 24).round(6)})),
    good("compact dates", csv({"x": every("h", "%Y%m%d%H")})),
    good("day first", csv({"date": every("h", "%d/%m/%Y %H:%M")})),
    good("month first, AM and PM", csv({"date": every("h", "%m/%d/%Y %I:%M %p")})),
    good("dotted dates", csv({"date": every("h", "%d.%m.%Y %H:%M")})),
    good("months by name", csv({"date": every("D", "%d-%b-%Y")}), "daily from 2016-07-01"),
    good("UTC by name", csv({"date": every("h", "%Y-%m-%d %H:%M:%S UTC")}), "2016-07-01 UTC"),
    good("ISO with Z", csv({"date": every("h", "%Y-%m-%dT%H:%M:%SZ")}), "2016-07-01 UTC"),
    good("an offset", csv({"date": every("h", "%Y-%m-%d %H:%M:%S-05:00")}), "2016-07-01 05:00 UTC"),
    good("parts of a time", csv(PARTS), "by year, month, day, hour"),
    good("a counter and parts", csv({"No": range(ROWS), **PARTS}), "left out: No (a row counter)"),
    good(
        "date and time apart",
        csv({"Date": every("h", "%d/%m/%Y"), "Time": every("h", "%H:%M:%S")}),
        "hourly from 2016-07-01",
    ),
    good(
        "date and hour apart",
        csv({"date": every("h", "%Y-%m-%d"), "hr": HOURS.hour}),
        "hourly from",
    ),
    good(
        "calendar fields", csv({"date": HOURS, "weekday": HOURS.day_of_week}), "left out: weekday"
    ),
    good("an index of pandas", csv({"": range(ROWS)}), "evenly spaced"),
    good(
        "an index written twice", csv({"Unnamed: 0": range(ROWS), "date": HOURS}), "left out: Unn"
    ),
    good("a counter from 1", csv({"sample": range(1, ROWS + 1)}), "evenly spaced by sample"),
    good("seconds since the start", csv({"s": np.arange(ROWS) / 4}), "evenly spaced by s"),
    good("no time", csv(), "300 rows, 2 channels"),
    good("quarters of an hour", csv({"date": every("15min")}), "15-minute from 2016-07-01"),
    good("business days", csv({"date": every("B")}), "business-daily"),
    good("months", csv({"date": every("MS", "%Y-%m")}), "monthly"),
    good("ends of months", csv({"date": every("ME")}), "monthly from 2016-07-31"),
    good("newest first", swapped(lambda rows: rows[::-1])),
    good("shuffled", swapped(lambda rows: rows.sample(frac=1, random_state=0))),
    good(
        "an archive's date and time, decimal commas, empty columns",
        csv(
            {"Date": every("h", "%d/%m/%Y"), "Time": every("h", "%H.%M.%S")}, sep=";", decimal=","
        ).replace("\n", ";;\n")
        + ";;;;;\n" * 3,
    ),
    good("a question mark, filled", with_cell(40, "?"), "1 missing", data='gaps = "interpolate"'),
    good(
        "YEAR, MO, DY, HR",
        csv(dict(zip(("YEAR", "MO", "DY", "HR"), PARTS.values(), strict=True))),
        "hourly",
    ),
    good(
        "slashes without zeros",
        csv({"date": every("D", "%Y/%-m/%-d 0:00")}),
        "daily from 2016-07-01",
    ),
    good("a gap, filled", without(5, 6, 70), "; 3 missing rows", data='gaps = "interpolate"'),
    good("time declared even", without(5, 6, 70), "297 rows, 2 channels", data="time = false"),
    bad(
        "a gap",
        without(5, 6, 70),
        "line 7",
        "2 hours are missing between",
        "(in all 2 gaps and 3 rows)",
        "gaps",
    ),
    bad("a repeated row", csv({"date": [*HOURS[:9], *HOURS[8:-1]]}), "line 11 repeats", "line 10"),
    bad(
        "two stations in one file",
        pd.concat([table({"date": HOURS})] * 2).to_csv(index=False),
        "line 302 repeats the time of line 2, 2016-07-01",
    ),
    bad(
        "steps that vary",
        csv({"date": HOURS + pd.to_timedelta(RNG.integers(0, 999, ROWS), "s")}),
        "not even",
    ),
    bad("clocks go back", csv({"date": berlin("2016-10-28")}), "repeats", "summer time?", "UTC"),
    bad(
        "clocks go forward",
        csv({"date": berlin("2017-03-24")}),
        "1 hour is missing",
        "summer time?",
    ),
    bad(
        "a holiday",
        csv({"date": [*every("B")[:9], *every("B", start="2016-07-15")]}),
        "line 11",
        "1 business day is missing",
    ),
    bad(
        "a misprint in a date",
        TEXT.replace("2016-07-03 04:00:00", "2016-07-33 04:00:00"),
        "line 54",
        "2016-07-33",
    ),
    bad(
        "a misprint in a year",
        TEXT.replace("2016-07-03 04:00:00", "1016-07-03 04:00:00"),
        "line 54",
    ),
    bad("weekdays as dates", csv({"date": ["monday"] * ROWS}), "line 2 = 'monday' is not a time"),
    bad("a time zone by name", csv({"date": every("h", "%Y-%m-%d %H:%M CET")}), "not a time"),
    bad("an empty date", TEXT.replace("2016-07-03 04:00:00", ""), "line 54 is empty"),
    bad(
        "parts without a year",
        csv({"month": HOURS.month, "day": HOURS.day}),
        "'month', 'day'",
        "no year",
    ),
    bad("a year alone", csv({"year": HOURS.year}), "column 'year', line 3 repeats"),
    bad("times of day alone", csv({"time": every("h", "%H:%M")}), "no date"),
    bad(
        "a counter with rows left out",
        table({"No": range(ROWS)}).drop(index=[8]).to_csv(index=False),
        "'No', line 10",
        "1 row is missing",
    ),
    bad(
        "a shuffled counter",
        swapped(lambda rows: rows.sample(frac=1, random_state=0), {"id": range(ROWS)}),
        "'id' holds 0 to 299",
    ),
    bad(
        "another time named",
        TEXT,
        "data.time names 'when'",
        "date, load, heat",
        data='time = "when"',
    ),
    bad("a channel as the time", TEXT, "column 'load'", data='time = "load"'),
    bad(
        "either day or month first",
        "date,load\n" + "".join(f"0{m}/01/2016,{m * m % 7}\n" for m in range(1, 8)),
        "with the day first",
        "with the month first",
    ),
]

FILES = [
    good("semicolons and decimal commas", csv({"date": HOURS}, sep=";", decimal=",")),
    good("tabs", csv({"date": HOURS}, sep="\t")),
    good("pipes", csv({"date": HOURS}, sep="|")),
    good("blanks", csv({"date": every("h", "%Y-%m-%dT%H")}, sep=" ")),
    good("Windows", TEXT.replace("\n", "\r\n").encode("utf-8-sig")),
    good("UTF-16, as Excel's Unicode text", csv({"date": HOURS}, sep="\t").encode("utf-16")),
    good("Latin-1", TEXT.replace("date", "Zeit é").encode("latin-1")),
    good("gzip", gzip.compress(TEXT.encode()), source="plant.csv.gz"),
    good("gzip without its name", gzip.compress(TEXT.encode())),
    good("Parquet", parquet, source="plant.parquet"),
    good("a delimiter at each end", TEXT.replace("\n", ",\n")),
    good("thousands", csv({"date": HOURS, "n": range(ROWS)}, sep=";").replace(";5.", ";1 005.")),
    good(
        "chosen channels",
        table({"date": HOURS})[["date", "heat", "load"]].to_csv(index=False),
        data='channels = ["load", "heat"]',
    ),
    good(
        "splits by dates",
        TEXT,
        "train 96, validation 72, test 132",
        data="splits = [2016-07-05, 2016-07-08]",
    ),
    good(
        "splits by shares",
        TEXT,
        "train 150, validation 60, test 90",
        data="splits = [0.5, 0.2, 0.3]",
    ),
    good("in a folder, beside nothing", TEXT, source="sub/plant.csv"),
    Case(
        "series: no header",
        {"study.toml": study(), "plant.csv": csv(header=False)},
        ("no header: columns named c0, c1", "2 channels (c0, c1)"),
        exit_code=0,
    ),
    Case(
        "series: no header, with dates",
        {"study.toml": study(), "plant.csv": csv({"date": HOURS}, header=False)},
        ("no header", "hourly from 2016-07-01 by c0", "2 channels (c1, c2)"),
        exit_code=0,
    ),
    Case(
        "series: beside the study file",
        {"sub/study.toml": study(), "sub/plant.csv": TEXT},
        ("plant.csv: 300 rows",),
        exit_code=0,
        command="train sub/study.toml",
    ),
    Case(
        "series: in SPEC_OPT_DATA",
        {"study.toml": study(), "data/plant.csv": TEXT},
        ("plant.csv: 300 rows",),
        exit_code=0,
        environment={"SPEC_OPT_DATA": "data"},
    ),
    Case("series: nowhere", {"study.toml": study()}, ("data.source = 'plant.csv': no such file",)),
    Case("series: a folder", {"study.toml": study(), "plant.csv/a.csv": TEXT}, ("is a folder",)),
    Case(
        "series: a URL",
        {"study.toml": study('source = "https://x.example/a.csv"')},
        ("no such file",),
    ),
    bad("an empty file", "", "empty"),
    bad("a header only", "date,load,heat\n", "no rows"),
    bad("a blank first line", "\n" + TEXT, "first line"),
    bad("a name twice", TEXT.replace("heat", "load"), "names column 'load' twice"),
    bad("a nameless column", TEXT.replace(",heat", ","), "column 3 has no name"),
    bad("lines above the header", "# Station 7\n# Berlin\n" + TEXT, "line"),
    bad("a line of units", TEXT.replace("heat\n", "heat\n,kW,°C\n"), "line 2"),
    bad(
        "too many cells",
        TEXT.replace("2016-07-01 01:00:00", "2016-07-01 01:00:00,9"),
        "line 3 has 4 cells",
    ),
    bad(
        "too many cells far down",
        TEXT.replace("2016-07-05 01:00:00", "2016-07-05 01:00:00,9"),
        "line 99",
    ),
    bad("too few cells", TEXT + "2016-07-13 12:00:00,3\n", "column 'heat', line 302 is empty"),
    bad("an empty cell", with_cell(40, ""), "column 'heat', line 42 is empty", "data.gaps"),
    bad("NaN", with_cell(40, "NaN"), "column 'heat', line 42 is empty"),
    bad(
        "infinity",
        with_cell(40, "inf"),
        "column 'heat', line 42 = 'inf'",
        data='gaps = "interpolate"',
    ),
    bad("a word", with_cell(40, "n.a."), "column 'heat', line 42 = 'n.a.'"),
    bad("a number beyond all bounds", with_cell(40, "1e300"), "line 42 = '1e+300'"),
    bad("a cell of 1 MB", with_cell(40, "x" * 10**6), "line 42 = 'xxxx", "…'"),
    bad("an error of Excel", with_cell(40, "#DIV/0!"), "line 42 = '#DIV/0!'"),
    bad(
        "yes and no",
        csv({"date": HOURS, "open": ["yes", "no"] * 150}),
        "column 'open', line 2 = 'yes'",
    ),
    bad(
        "an empty column",
        csv({"date": HOURS, "wind": [""] * ROWS}),
        "column 'wind' is empty",
        "channels",
    ),
    bad(
        "an empty beginning",
        with_cell(0, ""),
        "no value to fill from",
        data='gaps = "forward-fill"',
    ),
    bad(
        "a comma of two meanings",
        "a;b\n" + "".join(f"{i % 7 + 1},{i % 5}00;{i % 3}\n" for i in range(ROWS)),
        "may be",
    ),
    bad("names that are numbers", "2016,2017\n" + csv(header=False), "header of numbers"),
    bad("no channels", "date\n" + "".join(f"{time}\n" for time in HOURS), "no channels"),
    bad("an unknown channel", TEXT, "data.channels names 'lod'", data='channels = ["lod"]'),
    bad("100,000 columns", ",".join(f"c{i}" for i in range(100_000)) + "\n1\n", "100,000 columns"),
    bad("a line without end", "9" * 2_000_000, "longer than"),
    bad("a gzip bomb", gzip.compress(bytes(50_000_000)), "plant.csv"),
    bad("a gzip bomb with lines", gzip.compress(b"1,2\n" * (1 << 18)) * 300, "unpack to 269,"),
    bad("a bz2 bomb with lines", bz2.compress(b"1,2\n" * (1 << 18)) * 300, "unpack to 269,"),
    bad("half a gzip", gzip.compress(TEXT.encode())[:-50], "cannot be read"),
    bad("a workbook", workbook, "Excel workbook", source="plant.xlsx"),
    bad("an array", b"\x93NUMPY\x01\x00", "NumPy array", source="plant.npy"),
    bad("a web page", "<!DOCTYPE html>\n<title>404</title>", "web page"),
    bad("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    bad("half a Parquet file", b"PAR1" + bytes(50), "cannot be read", source="plant.parquet"),
    bad("random bytes", bytes(range(256)) * 20, "not a text file"),
    bad("few rows", "\n".join(TEXT.splitlines()[:4]) + "\n", "too few"),
    bad(
        "too short for a window", "\n".join(TEXT.splitlines()[:100]) + "\n", "give a longer series"
    ),
    bad(
        "splits beyond the end",
        TEXT,
        "no rows for test",
        "2016-07-13 11:00",
        data="splits = [2016-07-05, 2017-01-01]",
    ),
    bad("dates without times", csv(), "no times", data="splits = [2016-07-05, 2016-07-08]"),
]

CASES = [*TIMES, *FILES]
