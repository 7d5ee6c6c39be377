"""Ways to write a table: delimiters, encodings, numbers, headers; and files that hold none."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spec_opt.data.reader import series_of
from spec_opt.data.table_file import listed, read_table
from spec_opt.errors import DataError
from tests.data.tables import HEAT, HOURS, LOAD, RNG, ROWS, read, refused, same, table

TEXT = table(date=HOURS).to_csv(index=False)
SPACED = table(date=HOURS.strftime("%Y-%m-%dT%H:%M")).to_csv(index=False, sep=" ")
DECIMAL_COMMA = table(date=HOURS).to_csv(index=False, sep=";", decimal=",")

SAME: dict[str, str | bytes] = {
    "commas": TEXT,
    "semicolons": TEXT.replace(",", ";"),
    "tabs": TEXT.replace(",", "\t"),
    "pipes": TEXT.replace(",", "|"),
    "blanks": SPACED,
    "many blanks": SPACED.replace(" ", "    "),
    "blanks after commas": TEXT.replace(",", ", "),
    "Windows line ends": TEXT.replace("\n", "\r\n"),
    "blank lines at the end": TEXT + "\n\n",
    "no line end at the end": TEXT.removesuffix("\n"),
    "a comma at the end of each line": TEXT.replace("\n", ",\n"),
    "decimal commas": DECIMAL_COMMA,
    "decimal commas and tabs": DECIMAL_COMMA.replace(";", "\t"),
    "decimal commas in quotes": table(date=HOURS).to_csv(index=False, decimal=","),
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-32": TEXT.encode("utf-32"),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip of UTF-16": gzip.compress(TEXT.encode("utf-16")),
}


@pytest.mark.parametrize("way", SAME)
def test_ways_to_write_the_same_table(tmp_path: Path, way: str) -> None:
    reading = read(tmp_path, SAME[way])
    assert same(reading)
    assert reading.time is not None
    assert reading.time.step == "hourly"


def test_latin_1_is_read_and_said(tmp_path: Path) -> None:
    reading = read(tmp_path, TEXT.replace("heat", "wärme").encode("latin-1"))
    assert reading.columns == ("load", "wärme")
    assert reading.notes == ("not UTF-8: read as Latin-1",)


def test_latin_1_far_down(tmp_path: Path) -> None:
    lines = ["a,b", *(f"{v}.5,{v % 7}.25" for v in RNG.integers(0, 99, 150_000))]
    text = "\n".join(lines).encode() + b"\n\xb5,1\n"
    assert "column 'a', line 150002 = 'µ' is not a finite number" in refused(tmp_path, text)


@pytest.mark.parametrize("kind", ["index", "columns", "zone"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    frame = table(date=HOURS if kind != "zone" else HOURS.tz_localize("UTC"))
    if kind == "index":
        frame = frame.set_index("date")
    path = tmp_path / "plant.parquet"
    frame.to_parquet(path)
    reading = series_of(read_table(path))
    assert same(reading)
    assert reading.time is not None
    assert reading.time.step == "hourly"
    frame.iloc[7, -1] = np.nan
    frame.to_parquet(path)
    with pytest.raises(DataError, match="column 'heat', row 8 is empty or NaN"):
        series_of(read_table(path))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["{:,.2f}", "{:_.2f}"])
def test_thousands_separators(tmp_path: Path, style: str) -> None:
    load = (LOAD * 1000 + 1e4).round(2)
    frame = table(date=HOURS).assign(load=[style.format(v).replace("_", " ") for v in load])
    reading = read(tmp_path, frame.to_csv(index=False, sep=";"))
    assert reading.values[:, 0].tolist() == load.tolist()


def test_thousands_points_and_decimal_commas(tmp_path: Path) -> None:
    load = (LOAD * 1000 + 1e4).round(2)
    whole = [1000 * (i + 1) ** 2 for i in range(ROWS)]
    swap = str.maketrans(",.", ".,")
    frame = table(date=HOURS.strftime("%d.%m.%Y %H:%M")).assign(
        load=[f"{v:,.2f}".translate(swap) for v in load],
        heat=[f"{v:,}".translate(swap) for v in whole],  # "1.000" alone would be read as 1
    )
    reading = read(tmp_path, frame.to_csv(index=False, sep=";"))
    assert reading.values[:, 0].tolist() == load.tolist()
    assert reading.values[:, 1].tolist() == whole


def test_a_comma_that_may_mean_both(tmp_path: Path) -> None:
    text = "a;b\n1,234;5\n2,345;6\n8,100;2\n"
    assert "'1,234' may be 1.234 or 1234" in refused(tmp_path, text)
    assert read(tmp_path, text + "7,5;3\n").values[:, 0].tolist() == [1.234, 2.345, 8.1, 7.5]


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [{}, {"date": HOURS}, {"n": range(ROWS)}])
def test_without_a_header(tmp_path: Path, lead: dict[str, Sequence[object]]) -> None:
    reading = read(tmp_path, table(**lead).to_csv(index=False, header=False))
    assert reading.values.tolist() == np.stack([LOAD, HEAT], axis=1).tolist()
    assert reading.columns == (("c1", "c2") if lead else ("c0", "c1"))
    assert reading.notes[0].startswith("no header: columns named c0, c1")
    bad = table(**lead).assign(heat=[*HEAT[:-1], "bad"])
    assert "line 60 = 'bad'" in refused(tmp_path, bad.to_csv(index=False, header=False))


@pytest.mark.parametrize("names", [("0", "1"), ("1", "2")])
@pytest.mark.parametrize("index", [True, False])
def test_a_bare_array_as_pandas_writes_it(
    tmp_path: Path, names: tuple[str, str], index: bool
) -> None:
    frame = pd.DataFrame({names[0]: LOAD, names[1]: HEAT})
    reading = read(tmp_path, frame.to_csv(index=index))
    assert reading.columns == names
    assert reading.values.tolist() == np.stack([LOAD, HEAT], axis=1).tolist()
    assert reading.notes == ()


@pytest.mark.parametrize("text", ["0,1\n3,4\n5,1\n2,2\n", "2016,2017\n1.5,2.5\n1.75,3.5\n0.5,1\n"])
def test_a_first_line_that_may_be_both(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, text)
    assert "line 1 (" in message
    assert "may be a header of numbers or a row" in message


def test_names_of_two_lines(tmp_path: Path) -> None:
    text = TEXT.replace("heat", '"heat\n(°C)"')
    assert read(tmp_path, text).columns == ("load", "heat\n(°C)")
    bad = text.replace(f"{HEAT[3]}\n", "x\n")
    assert "column 'heat (°C)', line 6 = 'x'" in refused(tmp_path, bad)


def test_many_columns(tmp_path: Path) -> None:
    wide = pd.DataFrame({f"c{i}": LOAD for i in range(2_000)})
    assert read(tmp_path, wide).values.shape == (ROWS, 2_000)
    assert "names column 'c0' twice" in refused(tmp_path, wide.rename(columns={"c1": "c0"}))


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("\n1,2\n", "first line"),
        ("date,a,b\n", "header but no rows"),
        ("date,a,b", "header but no rows"),
        ("date,a,a\n2016,1,2\n", "names column 'a' twice"),
        ("date,a, a\n2016,1,2\n", "names column 'a' twice"),
        ("date,a,\n2016,1,2\n", "column 3 has no name"),
        ("date\n2016-01-01\n2016-01-02\n", "no channels: its columns (date)"),
        ("a,b\n1,2\n3,\n2,4\n", "column 'b', line 3 is empty or NaN"),
        ("a,b\n1,2\n3,NaN\n2,3\n", "column 'b', line 3 is empty or NaN"),
        ("a,b\n1,2\ninf,4\n", "column 'a', line 3 = 'inf' is not a finite number"),
        ("a,b\n1,2\n3,1e200\n", "column 'b', line 3 = '1e+200' is not a finite number"),
        ("a,b\n1,2\n3,n.a\n", "column 'b', line 3 = 'n.a' is not a finite number"),
        ("a,b\n1,True\n3,False\n", "column 'b', line 2 = 'True' is not a finite number"),
        ("a,b\n1,red\n3,blue\n", "column 'b', line 2 = 'red' is not a finite number"),
        ("a,b\n1,kW\n3,1\n", "column 'b', line 2 = 'kW' is not a finite number"),
        ("a,b\n1,2\noops,4\n", "column 'a', line 3 = 'oops' is not a finite number"),
        ("a,b\n1,2\n\n3,4\n", "column 'a', line 3 is empty"),
        ("a\n1\n\n2\n", "column 'a', line 3 is empty"),
        ("a,b,c\n5,1,\n7,2,\n1,5,\n", "column 'c' is empty"),
        (",a\n5,1\n5,2\n3,2\n", "column 1 has no name in the header"),
        ("date,a\n2016,1,2\n", "line 2 has 3 cells, the header 2"),
        ("date,a,b\n2016,1,5,2,5\n", "a decimal comma needs another delimiter"),
        ("a,b\n" + "1.5,2\n" * 40 + "1,2,3\n", "Expected 2 fields in line 42, saw 3"),
        ('a,b\n1,"2\n', "cannot be read"),
        (b"\x1f\x8b\x08\x00\xff\xff", "cannot be read"),
        (gzip.compress(TEXT.encode())[:-20], "cannot be read"),
        (b"PK\x03\x04rest", "an Excel workbook or a zip archive"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><p>404", "a web page"),
        (b'{"a": [1, 2]}', "JSON"),
        (b"\x00\x01\x02\x00\x00\x00", "not a text file"),
        (b"PAR1 and nothing else", "cannot be read"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in refused(tmp_path, content)


def test_what_is_huge_is_refused_and_not_repeated(tmp_path: Path) -> None:
    wide = ",".join(f"c{i}" for i in range(100_000))
    assert "has 100,000 columns; at most 10,000" in refused(tmp_path, wide + "\n1")
    assert "longer than" in refused(tmp_path, "x" * 2_000_000)
    assert "longer than" in refused(tmp_path, gzip.compress(b"0" * 50_000_000))
    cell = "9" + "x" * 20_000_000
    assert "column 'b', line 3 = '9xxx" in refused(tmp_path, f"a,b\n1,2\n3,{cell}\n")
    dates = f"date,b\n2016-01-01,2\n{cell},2\n"
    assert "'date', line 3 = '9xxx" in refused(tmp_path, dates)


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(f"sensor_{i:03}" for i in range(321)) == (
        "sensor_000, sensor_001, sensor_002, sensor_003, sensor_004, … 316 more"
    )
    assert listed(["x" * 200]) == "x" * 59 + "…"
