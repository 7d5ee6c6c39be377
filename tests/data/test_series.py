"""Finding and downloading a series, and every way in which that can fail."""

import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from spec_opt.config.study_file import DataConfig, SyntheticConfig
from spec_opt.data import series as series_module
from spec_opt.data.reader import Series
from spec_opt.data.series import KNOWN, cache_folder, find_series, load_series
from spec_opt.data.synthetic import generate
from spec_opt.errors import DataError

ROWS = "2020-01-01 00:00,1.5,-2\n2020-01-01 01:00,2.5,3e2\n"


def write(folder: Path, text: str | bytes, name: str = "plant.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(source: str) -> Series:
    return load_series(DataConfig(source=source, context=1, horizon=1))


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
        load(source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))


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
        assert load(str(path)).name == "ETTh1"
    assert "differs from the published ETTh1" in caplog.text


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SPEC_OPT_CACHE")
    assert "spec-opt" in cache_folder().parts


def test_synthetic_is_named_so() -> None:
    config = SyntheticConfig(rows=200, channels=2, seed=5)
    made = load_series(DataConfig(source="synthetic", context=1, horizon=1, synthetic=config))
    assert made.name == "synthetic"
    assert made.columns == ("channel_0", "channel_1")
    assert np.array_equal(made.values, generate(config))
    assert load("synthetic").values.shape == (8000, 3)


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


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str) -> None:
    known = replace(KNOWN["ETTh1"], url=url, sha256=sha256)
    monkeypatch.setitem(series_module.KNOWN, "ETTh1", known)


def test_every_download_has_a_checksum() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", known.sha256) for known in KNOWN.values())
    assert len({known.sha256 for known in KNOWN.values()}) == len(KNOWN)


def test_download_lands_in_the_cache(
    server: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sha256 = hashlib.sha256(SERVED).hexdigest()
    point_to(monkeypatch, f"{server}/ETTh1.csv", sha256)
    with caplog.at_level(logging.INFO, logger="spec_opt"):
        assert load("ETTh1").columns == ("a", "b")
    assert [path.name for path in cache.iterdir()] == ["ETTh1.csv"]
    assert "downloading" in caplog.text
    assert capfd.readouterr() == ("", "")
    point_to(monkeypatch, "http://127.0.0.1:9/never-asked-again", sha256)
    assert load("ETTh1").columns == ("a", "b")


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
        load("ETTh1")
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
        etth1 = load("ETTh1")
    assert caplog.text == ""
    assert etth1.columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert etth1.values.shape == (17420, 7)
    assert etth1.values[0, -1] == 30.5310001373291
    assert etth1.values[-1, 0] == 10.11400032043457
