"""Every case of the corpus, through the command line in this process.

Whatever is brought: exit code 0 or 2, of bad input one line that says what is wrong, never a
traceback, and nothing written.
"""

import os
import shlex
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
from tests.other_user import run_unprivileged

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
    program = f'spec-opt() {{ {sys.executable} -m spec_opt "$@"; }}; '
    return subprocess.run(["bash", "-c", program + script], check=False).returncode


def run_as_other_user(case: Case, folder: Path) -> int:
    """Its output goes where that of this process goes."""
    if os.geteuid():
        pytest.skip("needs root")
    subprocess.run(["bash", "-c", case.before], check=True)
    done = run_unprivileged(folder, main, shlex.split(case.command))
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.wait(0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(
    case: Case,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 0.1)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    case.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    if case.before:
        code = run_as_other_user(case, tmp_path_factory.getbasetemp() / f"said-{tmp_path.name}")
    else:
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
