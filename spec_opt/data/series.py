"""Where a series comes from: a CSV file, a known name, or the synthetic generator.

A known name is looked for in `SPEC_OPT_DATA`, then in the cache, then downloaded.
"""

import csv
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import platformdirs
from numpy.typing import NDArray

from spec_opt.config.study_file import SyntheticConfig
from spec_opt.data.synthetic import generate
from spec_opt.errors import DataError

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
DATE_NAMES = frozenset({"date", "datetime", "time", "timestamp", ""})
"""Headers of a first column that is no channel (a nameless one is a data frame's index)."""
LARGEST = 1e100
"""Larger values are refused: their squares would overflow."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 20.0


@dataclass(frozen=True)
class KnownSeries:
    """A series of the ETT collection (Zhou et al., 2021, "Informer"), split by months of 30 days.

    See: https://github.com/zhouhaoyi/ETDataset
    """

    url: str
    rows_per_hour: int
    sha256: str | None
    """None where no checksum is published: the computed one is logged on download."""


_ETT = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
KNOWN = {
    "ETTh1": KnownSeries(
        url=f"{_ETT}/ETTh1.csv",
        rows_per_hour=1,
        sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    "ETTh2": KnownSeries(url=f"{_ETT}/ETTh2.csv", rows_per_hour=1, sha256=None),
    "ETTm1": KnownSeries(url=f"{_ETT}/ETTm1.csv", rows_per_hour=4, sha256=None),
    "ETTm2": KnownSeries(url=f"{_ETT}/ETTm2.csv", rows_per_hour=4, sha256=None),
}


@dataclass(frozen=True, eq=False)
class Series:
    """A multichannel series in its own units, oldest row first."""

    name: str
    """A known name, the file's stem, or "synthetic"."""
    values: NDArray[np.float64]
    """`[T, C]`, all finite."""
    columns: tuple[str, ...]
    """C names."""


def load_series(source: str, synthetic: SyntheticConfig | None = None) -> Series:
    """The series behind a study's `data.source`.

    Args:
        source: a CSV path, a known name (ETTh1, ETTh2, ETTm1, ETTm2), or "synthetic".
        synthetic: shape and seed of the synthetic series; its defaults if absent.

    Raises:
        DataError: nothing is found there, or what is found is not a series.
    """
    if source == SYNTHETIC:
        values = generate(synthetic or SyntheticConfig())
        return Series(SYNTHETIC, values, tuple(f"channel_{c}" for c in range(values.shape[1])))
    return read_csv(find_series(source))


# --- finding a file -------------------------------------------------------------------------------


def cache_folder() -> Path:
    """`SPEC_OPT_CACHE`, or the user's cache folder for spec-opt. It may not exist yet."""
    folder = os.environ.get("SPEC_OPT_CACHE")
    return Path(folder).expanduser() if folder else platformdirs.user_cache_path("spec-opt")


def find_series(source: str) -> Path:
    """The file of a series: at the path given, in `SPEC_OPT_DATA`, in the cache, or downloaded.

    A user's own copy of a known series is taken as it is; if its checksum is not the published
    one, a warning is logged, since its numbers cannot be compared with published ones.

    Raises:
        DataError: there is no such file and it is no known series, or the download failed.
    """
    name = source.removesuffix(".csv")
    own = os.environ.get("SPEC_OPT_DATA")
    try:
        path = Path(source).expanduser()
        if path.is_dir() and name not in KNOWN:
            raise DataError(f"data.source = '{source}' is a folder: give the CSV file in it")
        file_name = f"{name}.csv" if name in KNOWN else path
        folders = [Path(own).expanduser()] if own else []
        candidates = [path, *(f / file_name for f in [*folders, cache_folder() / "data"])]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is not None:
            _warn_if_changed(found)
            return found
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, not permitted
        raise DataError(f"data.source = '{source}' cannot be read: {_one_line(error)}") from error
    if name in KNOWN:
        return _download(name)
    raise DataError(
        f"data.source = '{source}': no such file, neither as a path nor in SPEC_OPT_DATA "
        f"({own or 'not set'}); give a CSV path, one of {', '.join(KNOWN)}, or '{SYNTHETIC}'"
    )


def _warn_if_changed(path: Path) -> None:
    known = KNOWN.get(path.stem)
    if known is None or known.sha256 is None:
        return
    if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
        logger.warning("%s differs from the published %s (other sha256)", path, path.stem)


def _download(name: str) -> Path:
    """Fetch a known series into the cache; a file appears there only once it is whole."""
    import pooch  # here, because hardly any run needs it

    known, folder = KNOWN[name], cache_folder() / "data"
    # Pooch announces downloads by a handler of its own; this package's logger does that here.
    pooch.get_logger().setLevel(logging.WARNING)
    logger.info("downloading %s to %s", known.url, folder)
    try:
        path = Path(
            pooch.retrieve(
                url=known.url,
                known_hash=known.sha256 and f"sha256:{known.sha256}",
                fname=f"{name}.csv",
                path=folder,
                # Read at once (10 MB at most), because a stream refused leaves its socket open.
                downloader=pooch.HTTPDownloader(
                    stream=False, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
                ),
            )
        )
    # Requests' errors are OSErrors; a checksum that does not match is a ValueError.
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name} is not here and its download failed: put {name}.csv into {folder}, or set "
            f"SPEC_OPT_DATA to the folder that holds it ({_one_line(error)})"
        ) from error
    logger.info("sha256 of %s: %s", path, hashlib.sha256(path.read_bytes()).hexdigest())
    return path


# --- reading a CSV --------------------------------------------------------------------------------


def read_csv(path: Path) -> Series:
    """Read a comma-separated file: a header, an optional date column, then numeric channels.

    The first column is a date, and dropped, if its header says so (`DATE_NAMES`) or none of its
    cells is a number. Rows are taken in file order, oldest first; blank lines at the end are
    ignored. Nothing is filled in.

    Raises:
        DataError: the file cannot be read, its header names a column twice or not at all, it has
            no rows or no channels, or a cell of a channel is empty, not finite or not a number.
    """
    try:
        header = _read_header(path)
        frame = pd.read_csv(
            path,
            header=0,
            names=header,
            index_col=False,
            skip_blank_lines=False,  # one in the middle is a missing row, not a row less
            skipinitialspace=True,
            low_memory=False,
            compression=None,
            encoding="utf-8-sig",
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text file: {_one_line(error)}") from error
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: not a readable CSV file: {_one_line(error)}") from error
    filled = np.flatnonzero(frame.notna().any(axis=1))
    frame = frame.iloc[: filled[-1] + 1 if len(filled) else 0]
    if frame.empty:
        raise DataError(f"{path}: has a header but no rows")
    if _is_date(frame.iloc[:, 0]):
        frame = frame.iloc[:, 1:]
    if frame.columns.empty:
        raise DataError(f"{path}: no numeric columns (are the cells separated by commas?)")
    channels = [_read_channel(path, str(name), column) for name, column in frame.items()]
    return Series(path.stem, np.stack(channels, axis=1), tuple(str(name) for name in frame.columns))


def _read_header(path: Path) -> list[str]:
    """The names in the first line, checked: pandas would rename duplicates in silence."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, skipinitialspace=True)
        header = [name.strip() for name in next(lines, [])]
        first = next(lines, header)
    if not any(header):
        raise DataError(f"{path}: empty, or its first line is; a header of column names is needed")
    for number, name in enumerate(header, start=1):
        if name in header[: number - 1]:
            raise DataError(f"{path}: the header names column '{name}' twice")
        if not name and number > 1:
            raise DataError(f"{path}: column {number} has no name in the header")
    # Pandas would take the surplus for an index and shift every column.
    if len(first) > len(header):
        raise DataError(f"{path}: line 2 has {len(first)} cells, the header {len(header)}")
    return header


def _is_date(column: "pd.Series[Any]") -> bool:
    if str(column.name).lower() in DATE_NAMES:
        return True
    if pd.api.types.is_numeric_dtype(column):
        return False
    return bool(pd.to_numeric(column, errors="coerce").isna().all())


def _read_channel(path: Path, name: str, column: "pd.Series[Any]") -> NDArray[np.float64]:
    """The column as numbers; a cell that is not a finite number is refused, the first one named."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    if pd.api.types.is_bool_dtype(column):  # True and False are no measurements
        numbers = np.full(len(column), np.nan)
    bad = ~(np.abs(numbers) <= LARGEST)
    if bad.any():
        row = int(np.argmax(bad))
        cell = column.iloc[row]
        what = "is empty or NaN" if pd.isna(cell) else f"= '{cell}' is not a finite number"
        # The header is line 1, so row 0 of the data is line 2.
        raise DataError(
            f"{path}: column '{name}', line {row + 2} {what}: mend it, nothing is filled in"
        )
    return numbers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
