"""Standard streams as they may be: closed, full, without a reader, or in another encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO

from spec_opt.config.outgoing import mask


def prepare_streams() -> None:
    """Make stdin, stdout and stderr fit to work with; for the start of a process.

    A closed one becomes the null device: else the first file that is opened would take its place,
    and what is printed would go into that. What stderr cannot take is dropped: it only accompanies
    the work. Names of files are written as the bytes that they are; of other characters, those
    that an encoding lacks are escaped.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    codecs.register_error(ERRORS, _bytes_or_escapes)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    # Not where a test or a program put a stream of its own.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_Stdout(1, "w", closefd=False), sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Stderr(2, "w", closefd=False), sys.__stderr__, _MaskedText)


ERRORS = "spec_opt"
"""Name of the way in which characters are written that an encoding lacks."""


def _bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        wanting = error.object[error.start : error.end]
        if all("\udc80" <= character <= "\udcff" for character in wanting):
            return codecs.lookup_error("surrogateescape")(error)
    return codecs.backslashreplace_errors(error)


def _stream(
    raw: io.FileIO, before: TextIO | None, kind: type[io.TextIOWrapper] = io.TextIOWrapper
) -> TextIO:
    encoding = getattr(before, "encoding", None)
    buffer = io.BufferedWriter(raw)
    return kind(buffer, encoding, ERRORS, line_buffering=raw.isatty() or raw.name == 2)


class _MaskedText(io.TextIOWrapper):
    """Shows no password, not even in a traceback."""

    def write(self, text: str, /) -> int:
        super().write(mask(text))
        return len(text)


class _Stdout(io.FileIO):
    """Names itself in its errors."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            error.filename = "stdout"
            raise


class _Stderr(io.FileIO):
    """Drops what it cannot write."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return len(content)


def abandon_stdout() -> None:
    """Send to the null device what stdout still holds and cannot write."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
