"""Processes that file permissions hold for, though the tests may run as root."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

OTHER = 12345
"""Owner of the files that are given away."""
WITHOUT_PRIVILEGES = (
    "setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner",
    "--inh-caps", "-dac_override,-dac_read_search",
)  # fmt: skip


def give_away(*paths: Path) -> None:
    """Make files another user's; skips the test where that cannot be done."""
    if os.geteuid() != 0 or shutil.which(WITHOUT_PRIVILEGES[0]) is None:
        pytest.skip("needs root and setpriv")
    for path in paths:
        os.chown(path, OTHER, OTHER)


def run_unprivileged(
    command: Sequence[str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that may do with the files of others what their permissions say."""
    return subprocess.run(
        [*WITHOUT_PRIVILEGES, *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
