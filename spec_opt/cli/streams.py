"""Standard streams as they may be: closed, full, without a reader, or in another encoding."""

from __future__ import annotations

import io
import os
import sys


def prepare_streams() -> None:
    """Make stdin, stdout and stderr fit to work with; for the start of a process.

    A closed one becomes the null device: else the first file that is opened would take its place,
    and what is printed would go into that. What stderr cannot take is dropped: it only accompanies
    the work. Characters that an encoding lacks are escaped.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Lossy(2, "w", closefd=False)),
            encoding=getattr(sys.stderr, "encoding", None),
            errors="backslashreplace",
            line_buffering=True,
        )


class _Lossy(io.FileIO):
    """Drops what it cannot write."""

    def write(self, content: object, /) -> int:
        try:
            return super().write(content)  # type: ignore[arg-type]
        except OSError:
            return len(content)  # type: ignore[arg-type]


def abandon_stdout() -> bool:
    """Send to the null device what stdout holds and cannot write; whether there was any."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
