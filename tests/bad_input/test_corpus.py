"""Every case of the corpus, through the command line in this process.

Whatever is brought: exit code 0 or 2, of bad input one line that says what is wrong, never a
traceback, and nothing written.
"""

import shlex
from pathlib import Path

import pytest

from spec_opt.cli import main
from tests.bad_input import checkpoints, flags, old_tables, series, study_files
from tests.bad_input.case import Case

ROOMS = (checkpoints, flags, old_tables, series, study_files)
CASES = [case for room in ROOMS for case in room.CASES]
LONGEST_LINE = 700
"""Beside the paths of the working folder."""


def test_ids_are_distinct() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    case.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    code = main(shlex.split(case.command))

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
