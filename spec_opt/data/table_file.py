"""A file becomes a table of named columns: compression, encoding, delimiter, header and numbers.

Nothing here knows what a column means; `reader` judges that.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spec_opt.config.files import check_unpacked, open_plain
from spec_opt.errors import DataError

HEAD_BYTES: Final = 1 << 20
"""How much of a file is looked at to see what it is; its first line must end within."""
SNIFFED_ROWS: Final = 20
MOST_COLUMNS: Final = 10_000
LONGEST_SHOWN: Final = 60


def shown(value: object, longest: int = LONGEST_SHOWN) -> str:
    """A value from a file, cut so that a message stays one readable line."""
    text = " ".join(str(value)[: 10 * longest].split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def listed(names: Iterable[str], count: int | None = None) -> str:
    """Names in a row, the rest of a long list as a number.

    Args:
        count: how many there are in all, if `names` are but the first of them.
    """
    names = list(names)
    total = len(names) if count is None else count
    text = ""
    for i, name in enumerate(names):
        longer = f"{text}, {shown(name)}" if text else shown(name)
        if text and len(longer) > LONGEST_SHOWN:
            return f"{text}, … {total - i} more"
        text = longer
    return text if total == len(names) else f"{text}, … {total - len(names)} more"


# --- numbers as text ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberStyle:
    """How a file writes its numbers."""

    decimal: str = "."
    thousands: str = ""

    @property
    def pattern(self) -> str:
        """A regular expression that a whole cell must match."""
        point, between = re.escape(self.decimal), re.escape(self.thousands)
        plain = rf"(?:\d+{point}?\d*|{point}\d+)(?:[eE][+-]?\d+)?"
        grouped = rf"|\d{{1,3}}(?:{between}\d{{3}})+(?:{point}\d*)?" if self.thousands else ""
        return rf"[+-]?(?:{plain}{grouped})"

    def matches(self, cells: "pd.Series[Any]") -> "pd.Series[bool]":
        """Which cells are numbers in this style; empty ones are not."""
        return cells.astype("str").str.strip().str.fullmatch(self.pattern, na=False)

    def parse(self, cells: "pd.Series[Any]") -> NDArray[np.float64]:
        """`[T]`, NaN where a cell is empty or no number in this style."""
        text = cells.astype("str").str.strip().where(self.matches(cells))
        if self.thousands:
            text = text.str.replace(self.thousands, "", regex=False)
        if self.decimal != ".":
            text = text.str.replace(self.decimal, ".", regex=False)
        return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)


STYLES: Final = (
    NumberStyle(),
    NumberStyle(decimal=","),
    NumberStyle(thousands=","),
    NumberStyle(decimal=",", thousands="."),
    *(
        NumberStyle(decimal=point, thousands=gap)
        for gap in (" ", "\xa0", "\u202f")
        for point in ".,"
    ),
    NumberStyle(thousands="'"),
)
"""Simpler ones first: the first that explains the most cells is taken."""
_NUMBER = re.compile("|".join(f"(?:{style.pattern})" for style in STYLES))
_TIME = re.compile(r"(\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?|\d{1,2}:\d{2}|\d{8}T\d+)\b[^,;|\t]*")
_EMPTY = frozenset({"", "?", "na", "n/a", "#n/a", "nan", "null", "none", "inf", "-inf", "+inf"})


def _kind(cell: str) -> str:
    """What a cell could be: "number", "time", "empty" or "text"."""
    cell = cell.strip()
    if cell.lower() in _EMPTY:
        return "empty"
    if _NUMBER.fullmatch(cell):
        return "number"
    return "time" if _TIME.fullmatch(cell) else "text"


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns as they were read, and where in the file a row is."""

    path: Path
    frame: pd.DataFrame
    """Column names are distinct; one may be empty, of an unnamed first column."""
    first: int
    """The line, or in Parquet the row, of the table's first row."""
    unit: str = "line"
    style: NumberStyle = NumberStyle()
    notes: tuple[str, ...] = ()
    """What was recognised that a reader may not expect."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.frame.columns)

    def at(self, row: int) -> str:
        """Where row `row` (from 0) is in the file, as an editor counts."""
        return f"{self.unit} {row + self.first}"

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, `[T]` float64; NaN where a cell is empty or not a number."""
        cells = self.frame[name]
        if pd.api.types.is_bool_dtype(cells):  # True and False are no measurements
            return np.full(len(cells), np.nan)
        if pd.api.types.is_numeric_dtype(cells):
            return cells.to_numpy(dtype=np.float64, na_value=np.nan)
        return self.style.parse(cells)

    def is_numeric(self, name: str) -> bool:
        """Whether every cell that is not empty is a number."""
        cells = self.frame[name]
        if pd.api.types.is_bool_dtype(cells):
            return False
        if pd.api.types.is_numeric_dtype(cells):
            return True
        filled = cells[cells.notna()]
        return len(filled) > 0 and bool(self.style.matches(filled).all())


def read_table(path: Path) -> Table:
    """Read a delimited text file (compressed or not) or a Parquet file.

    Raises:
        DataError: the file cannot be read, is of another kind, or has no rows or too many columns.
    """
    try:
        head = _read_head(path)
        parquet = head.startswith(b"PAR1")
        table = _read_parquet(path) if parquet else _read_text(path, head)
    # A damaged archive is an EOFError or of the compressor; pandas' parser errors are ValueErrors.
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {shown(error, 200)}") from error
    return _checked(table)


def _checked(table: Table) -> Table:
    filled = np.flatnonzero(table.frame.notna().any(axis=1).to_numpy())
    frame = table.frame.iloc[: filled[-1] + 1 if len(filled) else 0]
    if frame.empty:
        raise DataError(f"{table.path}: has a header but no rows")
    twice = next((name for name, n in Counter(table.names).items() if n > 1 and name), None)
    if twice is not None:
        raise DataError(f"{table.path}: the header names column '{shown(twice)}' twice")
    # What a delimiter at the end of each line leaves behind.
    unnamed = [i for i, name in enumerate(table.names) if not name]
    empty = [i for i in unnamed if frame.iloc[:, i].isna().all()]
    for i in unnamed:
        if i and i not in empty:
            raise DataError(f"{table.path}: column {i + 1} has no name in the header")
    frame = frame.iloc[:, [i for i in range(frame.shape[1]) if i not in empty]]
    return replace(table, frame=frame.reset_index(drop=True))


# --- Parquet --------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet  # here, because hardly any series is one

    about = parquet.read_metadata(path)
    _check_width(path, about.num_columns)
    check_unpacked(path, 8 * about.num_rows * about.num_columns)
    frame = pd.read_parquet(path)
    if not isinstance(frame.index, pd.RangeIndex) or frame.index.name is not None:
        frame = frame.reset_index(names=_index_names(frame))
    frame.columns = pd.Index([str(name) for name in frame.columns])
    return Table(path, frame, first=1, unit="row")


def _index_names(frame: pd.DataFrame) -> list[str]:
    names = [str(name) if name is not None else "index" for name in frame.index.names]
    return [f"{name} (index)" if name in frame.columns else name for name in names]


# --- text -----------------------------------------------------------------------------------------

_OPENERS: Final[dict[bytes, Callable[..., IO[Any]]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_OTHER_KINDS: Final = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save the sheet, or unpack it, as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: unpack it, or compress it by gzip",
    b"\x89HDF": "an HDF5 file: save the series as CSV or Parquet",
    b"\x93NUMPY": "a NumPy array: save the series as CSV or Parquet",
    b"ARROW1": "an Arrow (Feather) file: save the series as CSV or Parquet",
    b"FEA1": "a Feather file: save the series as CSV or Parquet",
    b"SQLite format 3": "an SQLite database: save the series as CSV or Parquet",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`",
    b"<!DOCTYPE": "a web page, perhaps of a download that failed",
    b"<html": "a web page, perhaps of a download that failed",
    b"{": "JSON: save the series as CSV or Parquet",
    b"[": "JSON: save the series as CSV or Parquet",
}
_DELIMITERS: Final = (",", ";", "\t", "|", " ")
_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _read_head(path: Path) -> bytes:
    """The beginning of the file, unpacked, once it is known not to be endless."""
    opener = _opener(path)
    with opener(path, "rb") as file:
        head: bytes = file.read(HEAD_BYTES)
        if opener is not open:
            unpacked = len(head)
            while piece := file.read(HEAD_BYTES):
                unpacked += len(piece)
                check_unpacked(path, unpacked)
    for start, what in _OTHER_KINDS.items():
        if head.startswith(start):
            raise DataError(f"{path}: is {what}")
    return head


def _opener(path: Path) -> Callable[..., IO[Any]]:
    with open_plain(path) as file:
        magic = file.read(8)
    return next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), open)


def _read_text(path: Path, head: bytes) -> Table:
    encoding = _encoding(path, head)
    try:
        return _read_encoded(path, head, encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise
    # Every 8-bit encoding in use has ASCII's digits and delimiters, so that no number depends on
    # which one it is: only names with accents may come out wrong.
    table = _read_encoded(path, head, "latin-1")
    return replace(table, notes=(*table.notes, "not UTF-8: read as Latin-1"))


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if 0 not in head:
        return "utf-8"
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        # Of a table in UTF-16, every other byte is zero, but for letters that are not Latin.
        if head[start::2].count(0) > len(head) / 4 and not head[1 - start :: 2].count(0):
            return encoding
    raise DataError(f"{path}: is not a text file: save the series as CSV or Parquet")


@dataclass(frozen=True)
class _Layout:
    """How a text file is laid out, as its first lines show."""

    encoding: str
    delimiter: str
    names: list[str]
    has_header: bool
    first: int
    """The line of the first row."""

    def read(self, path: Path, dtype: type[str] | None = None) -> pd.DataFrame:
        """All of the file; numbers and texts are told apart by pandas unless `dtype` is given."""
        with _opener(path)(path, "rt", encoding=self.encoding, newline="") as file:
            frame = pd.read_csv(
                file,
                sep=r"\s+" if self.delimiter == " " else self.delimiter,
                header=0 if self.has_header else None,
                names=list(range(len(self.names))),  # pandas would rename duplicates
                index_col=False,
                skip_blank_lines=False,  # one in the middle is a missing row, not a row less
                skipinitialspace=True,
                low_memory=False,
                na_values=["?"],  # of the UCI archive; beside pandas' own
                dtype=dtype,
            )
        frame.columns = pd.Index(self.names)
        return frame


def _read_encoded(path: Path, head: bytes, encoding: str) -> Table:
    layout = _layout(path, codecs.getincrementaldecoder(encoding)().decode(head), encoding)
    frame = layout.read(path)
    style = _number_style(path, frame)
    if style != NumberStyle():
        frame = layout.read(path, str)  # "1.234" may have been taken for a little more than one
    notes = () if layout.has_header else (f"no header: columns named {listed(layout.names)}",)
    return Table(path, frame, layout.first, style=style, notes=notes)


def _layout(path: Path, text: str, encoding: str) -> _Layout:
    """What the beginning of a file shows.

    Raises:
        DataError: it begins with an empty line, or with one that is too long or wide, or may be a
            header or a row; or a line has more cells than the header.
    """
    if not io.StringIO(text).readline().strip():
        raise DataError(f"{path}: empty, or its first line is; a header of column names is needed")
    if len(text) > HEAD_BYTES // 8 and "\n" not in text and "\r" not in text:
        raise DataError(f"{path}: line 1 is longer than {len(text):,} characters: not a table")
    samples = {delimiter: _sample(text, delimiter) for delimiter in _DELIMITERS}
    _check_width(path, max(len(rows[0]) for rows, _ in samples.values()))
    delimiter = max(_DELIMITERS, key=lambda delimiter: _score(samples[delimiter][0]))
    rows, lines = samples[delimiter]
    has_header = _has_header(path, rows)
    names = rows[0] if has_header else [f"c{i}" for i in range(len(rows[0]))]
    for row, line in zip(rows[1:], lines[:-1], strict=True):
        if len(row) > len(names):  # pandas would take the surplus for an index
            raise DataError(
                f"{path}: line {line + 1} has {len(row)} cells, the header {len(names)}"
                + ("; a decimal comma needs another delimiter" if delimiter == "," else "")
            )
    return _Layout(encoding, delimiter, names, has_header, lines[0] + 1 if has_header else 1)


def _sample(text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """The cells of the first rows, and the line on which each row ends."""
    if delimiter == " ":
        rows = [line.split() for line in itertools.islice(io.StringIO(text), SNIFFED_ROWS)]
        return rows, list(range(1, len(rows) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows, lines = [], []
    try:
        for row in itertools.islice(reader, SNIFFED_ROWS):
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
    except csv.Error:  # a cell beyond all proportion, which pandas can read
        pass
    return rows or [text.splitlines()[0].split(delimiter)], lines or [1]


def _score(rows: list[list[str]]) -> tuple[bool, float, bool, int]:
    """How well a delimiter explains the first rows: cells that make sense, as many as names.

    A delimiter that does not occur gives one cell a line, which is right for a single channel.
    """
    cells = [cell for row in rows[1:] or rows for cell in row]
    sense = sum(_kind(cell) != "text" for cell in cells) / max(len(cells), 1)
    widest, header = max((len(row) for row in rows[1:]), default=len(rows[0])), len(rows[0])
    return widest <= header and sense > 0, sense, widest == header, header


def _check_width(path: Path, width: int) -> None:
    if width > MOST_COLUMNS:
        raise DataError(f"{path}: has {width:,} columns; at most {MOST_COLUMNS:,} can be read")


def _has_header(path: Path, cells: list[list[str]]) -> bool:
    """Whether the first line holds names: it does unless all its cells are numbers or times.

    pandas numbers the columns of a bare array; such names are told from values by what is below.

    Raises:
        DataError: the first line may be either.
    """
    first, below = cells[0], [row for row in cells[1:] if row]
    kinds = [_kind(cell) for cell in first]
    numbered = [cell for cell in first if cell]
    counts = numbered in [[str(i + start) for i in range(len(numbered))] for start in (0, 1)]
    if "text" in kinds or not below:
        return True
    if counts and first[0] == "" and len(first) > 1:  # a data frame with its index
        return True
    if all(k in ("number", "empty") for k in kinds) and "time" in map(_kind, below[0]):
        return True
    whole = all(cell.lstrip("+-").isdigit() for cell in first)
    decimals = any(not cell.lstrip("+-").isdigit() for row in below for cell in row if cell)
    if not whole or decimals == counts:
        return whole and counts
    raise DataError(
        f"{path}: line 1 ({listed(first)}) may be a header of numbers or a row: put a line of "
        "names above it if it is a row, or give names that are not numbers if it is a header"
    )


def _number_style(path: Path, frame: pd.DataFrame) -> NumberStyle:
    """How the text columns that hold numbers write them.

    Raises:
        DataError: "1,234" may be a thousand or a little more than one, and no cell decides.
    """
    text = [
        column[column.notna()]
        for _, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    ]
    # Of columns of words or times, the first cells are no numbers in any style.
    text = [cells for cells in text if any(map(_NUMBER.fullmatch, map(str, cells.iloc[:100])))]
    odd = [cells[~NumberStyle().matches(cells)] for cells in text]
    counts = {style: sum(int(style.matches(cells).sum()) for cells in odd) for style in STYLES}
    best = max(counts, key=lambda style: counts[style])  # the first of equals
    rival = next(
        (s for s in STYLES if counts[s] == counts[best] and s.decimal != best.decimal), None
    )
    if not counts[best] or rival is None:
        return best
    cell = next(cells[best.matches(cells)].iloc[0] for cells in odd if best.matches(cells).any())
    one, other = (style.parse(pd.Series([cell]))[0] for style in (best, rival))
    raise DataError(
        f"{path}: '{shown(cell)}' may be {one:g} or {other:g}, and no other cell decides: "
        "write numbers with a decimal point and no thousands separators"
    )
