"""Standard streams that are closed, full or in another encoding, and names that are not UTF-8.

Commands run in processes of their own, because their streams are the process's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from optuna.trial import TrialState

from spec_opt.cli import main
from spec_opt.study.store import open_store
from tests.bad_input.case import PAIR
from tests.bad_input.series import TEXT
from tests.forked import Forked

STUDY = f"""
name = "case"
[search]
sampler = "grid"
sigma = [0.5]
bias = [1.0]
k = [1, 2]
[data]
source = "plant.csv"
context = 24
horizon = 24
max_windows = 2
[target]
checkpoint = "{PAIR / "tiny_target.pth"}"
[draft]
checkpoint = "draft.pth"
[bench]
seconds = 0.1
"""
PROGRAM = f"{sys.executable} -m spec_opt"
FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study in a folder whose name is Latin-1."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "study.toml").write_text(STUDY)
    (folder / "plant.csv").write_text(TEXT)
    (folder / "draft.pth").write_bytes((PAIR / "tiny_draft.pth").read_bytes())
    return folder


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell's command; `spec-opt` in it is this one."""
    return subprocess.run(
        ["bash", "-c", command.replace("spec-opt", PROGRAM)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        check=False,
    )


def complete() -> int:
    """How many trials the study has."""
    with open_store("sqlite:///storage/spec_opt.db", create=False) as store:
        states = [trial.state for trial in store.optuna_study("case").get_trials(deepcopy=False)]
    return states.count(TrialState.COMPLETE)


def test_a_worker_without_stderr_works() -> None:
    assert shell("spec-opt worker study.toml 2>&-").returncode == 0
    assert complete() == 2


@pytest.mark.parametrize("closed", [">&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_run_works_whatever_becomes_of_its_output(folder: Path, closed: str) -> None:
    done = shell(f"spec-opt run study.toml {closed}")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert (folder / "reports/case/report.html").exists()
    assert complete() == 2


def test_a_worker_whose_reader_went_away_works() -> None:
    assert shell("spec-opt worker study.toml 2>&1 | head -0").returncode == 0
    assert complete() == 2


def test_results_that_cannot_be_written_are_one_line(folder: Path) -> None:
    done = shell("spec-opt run study.toml >/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"spec-opt: error: stdout: No space left on device"
    assert (folder / "reports/case/report.html").exists()
    assert shell("spec-opt status study.toml >/dev/full 2>&1").returncode == 1
    assert shell("set -o pipefail; spec-opt export study.toml | true").returncode == 0


def each(commands: Sequence[tuple[Path, list[str]]]) -> int:
    """Run commands, each with its stdout, and give their exit codes on stderr."""
    for stdout, arguments in commands:
        os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT), 1)
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.write(f"exit code {code}\n")
    return 0


def test_a_full_disk_is_one_line_of_every_command(tmp_path: Path) -> None:
    given = ("status study.toml", "export study.toml", "--help", "--version")
    steps = [(Path(os.devnull), ["worker", "study.toml"])]
    steps += [(FULL, command.split()) for command in given]
    process = Forked(tmp_path / "said", each, steps)
    assert process.wait(60.0) == 0
    said = "spec-opt: error: stdout: No space left on device\nexit code 1\n"
    assert process.stderr.endswith("\nexit code 0\n" + len(given) * said)


def test_errors_without_stderr_keep_their_code() -> None:
    assert shell("spec-opt train nothing.toml 2>&-").returncode == 2
    assert shell("spec-opt train nothing.toml 2>/dev/full").returncode == 2


def test_an_encoding_that_lacks_characters() -> None:
    done = shell("spec-opt import --help", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"CSV\\u2026" in done.stdout


def test_names_that_are_not_utf_8(folder: Path, tmp_path: Path) -> None:
    """Here the whole path of the store, the study file and the report."""
    study, store = f"{folder}/study.toml", ["--storage", f"sqlite:///{folder}/s.db"]
    steps = (
        ("run.json", ["run", study, "-o", f"{folder}/report", "--json", *store]),
        ("train.json", ["train", study, "--json"]),
        ("none", ["export", study, "--format", "json", "-o", f"{folder}/export.json", *store]),
        ("status.json", ["status", study, "--json", *store]),
        ("recommend.json", ["recommend", study, "--format", "json", *store]),
        ("none", ["report", study, "-o", f"{folder}/again", *store]),
    )
    process = Forked(tmp_path / "said", each, [(folder / name, step) for name, step in steps])
    assert process.wait(120.0) == 0, process.stderr
    assert process.stderr.count("exit code 0\n") == len(steps)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    assert "caf\\xe9" in (folder / "report" / "report.html").read_text()
    trained = json.loads((folder / "train.json").read_text())
    assert trained["draft"]["path"].endswith("caf\\xe9/draft.pth")
