"""Finding, downloading and reading a series, and every way in which that can fail."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from spec_opt.config.study_file import SyntheticConfig
from spec_opt.data import series as series_module
from spec_opt.data.series import KNOWN, cache_folder, find_series, load_series, read_csv
from spec_opt.data.synthetic import generate
from spec_opt.errors import DataError

ROWS = "2020-01-01 00:00,1.5,-2\n2020-01-01 01:00,2.5,3e2\n"


def write(folder: Path, text: str | bytes, name: str = "plant.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- reading --------------------------------------------------------------------------------------


def test_reads_a_csv_with_dates(tmp_path: Path) -> None:
    read = read_csv(write(tmp_path, "date,load,heat\n" + ROWS))
    assert read.name == "plant"
    assert read.columns == ("load", "heat")
    assert read.values.dtype == np.float64
    assert read.values.tolist() == [[1.5, -2.0], [2.5, 300.0]]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("when,a\nmonday,1\ntuesday,2\n", ("a",)),  # strings, whatever the header
        ("Timestamp,a\n1577836800,1\n1577840400,2\n", ("a",)),  # numbers, but named
        ("TIME,a\n1,1\n2,2\n", ("a",)),
        (",a\n0,1\n1,2\n", ("a",)),  # the index of a data frame
        ("a\n1\n2\n", ("a",)),  # no date at all
        ("b,a\n7,1\n8,2\n", ("b", "a")),
        ("\ufeffdate,a\nx,1\ny,2\n", ("a",)),  # a byte order mark
        (' date , "a" \r\nx, 1\r\ny, 2\r\n', ("a",)),  # blanks and Windows line ends
        ("date,a\nx,1\ny,2\n\n\n", ("a",)),  # blank lines at the end
        ("date,a\nx,1\ny,2", ("a",)),  # no line end at the end
    ],
)
def test_date_column_is_optional(tmp_path: Path, text: str, columns: tuple[str, ...]) -> None:
    read = read_csv(write(tmp_path, text))
    assert read.columns == columns
    assert read.values[:, -1].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("\n1,2\n", "first line"),
        ("date,a,b\n", "header but no rows"),
        ("date,a,b", "header but no rows"),
        ("date,a,a\nx,1,2\n", "names column 'a' twice"),
        ("date,a, a\nx,1,2\n", "names column 'a' twice"),
        ("date,a,\nx,1,2\n", "column 3 has no name"),
        ("date\nx\ny\n", "no numeric columns"),
        ("date;a\nx;1\ny;2\n", "separated by commas"),
        ("date,a,b\nx,1,2\ny,,4\n", "column 'a', line 3 is empty or NaN"),
        ("date,a,b\nx,1,2\ny,3,NaN\n", "column 'b', line 3 is empty or NaN"),
        ("date,a,b\nx,1,2\ny,inf,4\n", "column 'a', line 3 = 'inf' is not a finite number"),
        ("date,a,b\nx,1,2\ny,3,1e200\n", "column 'b', line 3 = '1e+200' is not a finite number"),
        ("date,a,b\nx,1,2\ny,3,n.a\n", "column 'b', line 3 = 'n.a' is not a finite number"),
        ("date,a,b\nx,1,True\ny,3,False\n", "column 'b', line 2 = 'True' is not a finite number"),
        ("date,a,b\nx,1,red\ny,3,blue\n", "column 'b', line 2 = 'red' is not a finite number"),
        ("a,b\n1,2\noops,4\n", "column 'a', line 3 = 'oops' is not a finite number"),
        ("a,b\n1,2\n,4\n", "column 'a', line 3 is empty"),
        ("date,a,b\nx,1,2\n\ny,3,4\n", "column 'a', line 3 is empty"),
        ("a\n1\n\n2\n", "column 'a', line 3 is empty"),
        ("date,a,b\nx,1,2\ny,3\n", "column 'b', line 3 is empty"),
        ("date,a\nx,1,2\n", "line 2 has 3 cells, the header 2"),
        ("date,a\nx,1\ny,1,2\n", "Expected 2 fields in line 3, saw 3"),
        (b"date,a\nx,1\n\xff\xfe,2\n", "not a UTF-8 text file"),
        (b"d\xe9but,a\nx,1\n", "not a UTF-8 text file"),
        (b"\x1f\x8b\x08\x00\xff\xff", "not a UTF-8 text file"),
        (b'date,a\nx,"1\n', "not a readable CSV"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        load_series(str(path))
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_many_rows_before_the_bad_cell(tmp_path: Path) -> None:
    lines = [f"{i},{i}.5" for i in range(50_000)]
    lines[40_000] = "40000,broken"
    with pytest.raises(DataError, match="column 'b', line 40002 = 'broken'"):
        read_csv(write(tmp_path, "a,b\n" + "\n".join(lines)))


# --- finding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere.csv", "no such file"),
        ("etth1", "one of ETTh1, ETTh2, ETTm1, ETTm2, or 'synthetic'"),
        ("http://127.0.0.1/x.csv", "no such file"),
        ("x" * 5000, "cannot be read"),
        ("~no-such-user/x.csv", "cannot be read"),
        ("nul\0.csv", "data.source"),
    ],
)
def test_missing_file(source: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load_series(source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load_series(str(tmp_path))


def test_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEC_OPT_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "ETTh2").mkdir()  # a folder that happens to be called so is no series
    cached = write(tmp_path / "cache" / "data", "date,a\n" + ROWS, "ETTh2.csv")
    assert find_series("ETTh2") == cached
    own = write(tmp_path / "own", "date,a\n" + ROWS, "ETTh2.csv")
    assert find_series("ETTh2") == own
    assert find_series("ETTh2.csv") == own
    here = write(tmp_path, "date,a\n" + ROWS, "ETTh2.csv")
    assert find_series("ETTh2.csv").resolve() == here


def test_any_file_name_is_looked_for_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "date,a,b\n" + ROWS)
    monkeypatch.setenv("SPEC_OPT_DATA", str(tmp_path))
    assert find_series("plant.csv") == path
    with pytest.raises(DataError, match="no such file"):
        find_series("other.csv")


def test_own_copy_that_differs_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "date,a,b\n" + ROWS, "ETTh1.csv")
    with caplog.at_level(logging.WARNING, logger="spec_opt"):
        assert load_series(str(path)).name == "ETTh1"
    assert "differs from the published ETTh1" in caplog.text


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPEC_OPT_CACHE")
    assert "spec-opt" in cache_folder().parts


def test_synthetic_is_named_so() -> None:
    config = SyntheticConfig(rows=200, channels=2, seed=5)
    made = load_series("synthetic", config)
    assert made.name == "synthetic"
    assert made.columns == ("channel_0", "channel_1")
    assert np.array_equal(made.values, generate(config))
    assert load_series("synthetic").values.shape == (8000, 3)


# --- downloading ----------------------------------------------------------------------------------

SERVED = ("date,a,b\n" + ROWS).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/ETTh1.csv"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(SERVED) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(SERVED)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str | None) -> None:
    known = replace(KNOWN["ETTh1"], url=url, sha256=sha256)
    monkeypatch.setitem(series_module.KNOWN, "ETTh1", known)


@pytest.mark.parametrize("checked", [True, False])
def test_download_lands_in_the_cache(
    server: str,
    cache: Path,
    checked: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sha256 = hashlib.sha256(SERVED).hexdigest()
    point_to(monkeypatch, f"{server}/ETTh1.csv", sha256 if checked else None)
    with caplog.at_level(logging.INFO, logger="spec_opt"):
        assert load_series("ETTh1").columns == ("a", "b")
    assert [path.name for path in cache.iterdir()] == ["ETTh1.csv"]
    assert sha256 in caplog.text
    assert capfd.readouterr() == ("", "")
    point_to(monkeypatch, "http://127.0.0.1:9/never-asked-again", sha256)
    assert load_series("ETTh1").columns == ("a", "b")


@pytest.mark.parametrize("fault", ["other checksum", "not found", "no server", "no folder"])
def test_failed_download_says_where_to_put_the_file(
    server: str, cache: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sha256 = f"{server}/ETTh1.csv", hashlib.sha256(SERVED).hexdigest()
    match fault:
        case "other checksum":
            sha256 = "0" * 64
        case "not found":
            url = f"{server}/gone.csv"
        case "no server":
            url = "http://127.0.0.1:9/ETTh1.csv"
        case _:
            write(cache.parent, "a file where the folder should be", "data")
    point_to(monkeypatch, url, sha256)
    with pytest.raises(DataError) as caught:
        load_series("ETTh1")
    message = str(caught.value)
    assert f"put ETTh1.csv into {cache}" in message
    assert "SPEC_OPT_DATA" in message
    assert "\n" not in message
    assert not (cache / "ETTh1.csv").exists()


@pytest.mark.shared
def test_real_etth1(
    shared_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPEC_OPT_DATA", str(shared_dir / "data"))
    with caplog.at_level(logging.WARNING, logger="spec_opt"):
        etth1 = load_series("ETTh1")
    assert caplog.text == ""
    assert etth1.columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert etth1.values.shape == (17420, 7)
    assert etth1.values[0, -1] == 30.5310001373291
    assert etth1.values[-1, 0] == 10.11400032043457
