"""Processes that file permissions hold for, though the tests may run as root."""

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forked, Target

OTHER = 12345
"""Owner of the files that are given away."""
CAPABILITIES = 1 << 1 | 1 << 2 | 1 << 3
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER of Linux."""
VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3."""


def give_away(*paths: Path) -> None:
    """Make files another user's; skips the test where that cannot be done."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for path in paths:
        os.chown(path, OTHER, OTHER)


def run_unprivileged(folder: Path, target: Target, *arguments: Any) -> Forked:
    """Call a function in a process that may do with others' files what their permissions say."""
    process = Forked(folder, _unprivileged, target, arguments)
    process.wait(120.0)
    return process


def _unprivileged(target: Target, arguments: tuple[Any, ...]) -> int | str:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, and again from number 32 on
    libc.capget(header, sets)
    sets[:3] = [one & ~CAPABILITIES for one in sets[:3]]
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    return target(*arguments)
