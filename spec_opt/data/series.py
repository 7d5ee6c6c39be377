"""Where a series comes from: a file, a known name, or the synthetic generator.

A known name is looked for in `SPEC_OPT_DATA`, then in the cache, then downloaded.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from spec_opt.config.study_file import SYNTHETIC, DataConfig
from spec_opt.data.reader import Series, series_of
from spec_opt.data.synthetic import generate
from spec_opt.data.table_file import read_table, shown
from spec_opt.errors import DataError

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 20.0


@dataclass(frozen=True)
class KnownSeries:
    """A series of the ETT collection (Zhou et al., 2021, "Informer"), split by months of 30 days.

    See: https://github.com/zhouhaoyi/ETDataset
    """

    url: str
    rows_per_hour: int
    sha256: str


_ETT = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"
KNOWN = {
    name: KnownSeries(f"{_ETT}/{name}.csv", rows_per_hour, sha256)
    for name, rows_per_hour, sha256 in (
        ("ETTh1", 1, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
        ("ETTh2", 1, "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b"),
        ("ETTm1", 4, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
        ("ETTm2", 4, "db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd"),
    )
}
_ETT_CHANNELS = frozenset({"HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"})
_ETT_ROWS = {17_420: "ETTh1", 69_680: "ETTm1"}


def known_series(series: Series) -> KnownSeries | None:
    """The known series that this is, by its name or, a renamed copy, by its shape.

    All of the collection have the same seven channels and one of two lengths.
    """
    name = _ETT_ROWS.get(len(series.values)) if series.all_channels == _ETT_CHANNELS else None
    return KNOWN.get(series.name) or KNOWN.get(name or "")


def load_series(config: DataConfig) -> Series:
    """The series behind a study's `[data]`.

    Raises:
        DataError: nothing is found there, or what is found is not a series.
    """
    if config.source == SYNTHETIC:
        values = generate(config.synthetic)
        return Series(SYNTHETIC, values, tuple(f"channel_{c}" for c in range(values.shape[1])))
    table = read_table(find_series(config.source))
    return series_of(table, time=config.time, channels=config.channels, gaps=config.gaps)


# --- finding a file -------------------------------------------------------------------------------


def cache_folder() -> Path:
    """`SPEC_OPT_CACHE`, or the user's cache folder for spec-opt. It may not exist yet.

    Raises:
        DataError: the variable names a home that does not exist.
    """
    return _folder_from("SPEC_OPT_CACHE") or platformdirs.user_cache_path("spec-opt")


def _folder_from(variable: str) -> Path | None:
    """The folder that an environment variable names; None if it is not set."""
    folder = os.environ.get(variable)
    try:
        return Path(folder).expanduser() if folder else None
    except RuntimeError as error:
        raise DataError(f"{variable} = '{shown(folder)}': {shown(error)}") from error


def find_series(source: str) -> Path:
    """The file of a series: at the path given, in `SPEC_OPT_DATA`, in the cache, or downloaded.

    A user's own copy of a known series is taken as it is; if its checksum is not the published
    one, a warning is logged, since its numbers cannot be compared with published ones.

    Raises:
        DataError: there is no such file and it is no known series, or the download failed.
    """
    name = source.removesuffix(".csv")
    own = _folder_from("SPEC_OPT_DATA")
    try:
        path = Path(source).expanduser()
        if path.is_dir() and name not in KNOWN:
            raise DataError(f"data.source = '{shown(source)}' is a folder: give the file in it")
        file_name = f"{name}.csv" if name in KNOWN else path
        folders = [own] if own else []
        candidates = [path, *(f / file_name for f in [*folders, cache_folder() / "data"])]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is not None:
            _warn_if_changed(found)
            return found
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, not permitted
        raise DataError(
            f"data.source = '{shown(source)}' cannot be read: {shown(error, 200)}"
        ) from error
    if name in KNOWN:
        return _download(name)
    raise DataError(
        f"data.source = '{shown(source)}': no such file, neither as a path nor in SPEC_OPT_DATA "
        f"({own or 'not set'}); give a file's path, one of {', '.join(KNOWN)}, or '{SYNTHETIC}'"
    )


def _warn_if_changed(path: Path) -> None:
    known = KNOWN.get(path.stem)
    if known is None:
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
                known_hash=f"sha256:{known.sha256}",
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
            f"SPEC_OPT_DATA to the folder that holds it ({shown(error, 200)})"
        ) from error
    return path
