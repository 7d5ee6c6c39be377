"""Every case of the corpus, through the command line in this process.

Whatever is brought: exit code 0 or 2, of bad input one line that says what is wrong, never a
traceback, and nothing written.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spec_opt.cli import main
from tests.bad_input import (
    checkpoints,
    flags,
    machines,
    old_tables,
    series,
    stores,
    study_files,
)
from tests.bad_input.case import Case
from tests.other_user import WITHOUT_PRIVILEGES

ROOMS = (checkpoints, flags, machines, old_tables, series, stores, study_files)
CASES = [case for room in ROOMS for case in room.CASES]
LONGEST_LINE = 700
"""Beside the paths of the working folder."""


def test_ids_are_distinct() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def main_of(command: str) -> int:
    return main(shlex.split(command))


def run_script(script: str) -> int:
    """Its output goes where that of this process goes."""
    if "other" in script.split() and (os.geteuid() or not shutil.which(WITHOUT_PRIVILEGES[0])):
        pytest.skip("needs root and setpriv")
    program = [sys.executable, "-m", "spec_opt"]
    functions = (
        f'spec-opt() {{ {shlex.join(program)} "$@"; }}; '
        f'other() {{ shift; {shlex.join([*WITHOUT_PRIVILEGES, *program])} "$@"; }}; '
    )
    return subprocess.run(["bash", "-c", functions + script], check=False).returncode


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 0.1)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    case.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    code = (run_script if case.is_script else main_of)(case.command)

    out, err = capfd.readouterr()
    assert code == case.exit_code, out + err
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("spec-opt: error: ")]
    said = errors[0] if errors else out + err
    for word in case.words:
        assert word in said
    if code == 0:
        assert errors == []
    else:
        assert err.splitlines()[-1:] == errors  # one line, the last
        assert len(errors[0].replace(str(tmp_path), "")) < LONGEST_LINE
        assert sorted(tmp_path.rglob("*")) == before
