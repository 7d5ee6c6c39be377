"""Standard streams that are closed, full or in another encoding, and names that are not UTF-8.

Each command runs in a process of its own, because its streams are the process's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_input.case import PAIR
from tests.bad_input.series import TEXT

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
"""
PROGRAM = f"{sys.executable} -m spec_opt"
FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study in a folder whose name is Latin-1."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY)
    (folder / "plant.csv").write_text(TEXT)
    (folder / "draft.pth").write_bytes((PAIR / "tiny_draft.pth").read_bytes())
    return folder


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell's command; `spec-opt` in it is this one."""
    return subprocess.run(
        ["bash", "-c", command.replace("spec-opt", PROGRAM)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        check=False,
    )


def states(folder: Path) -> dict[str, int]:
    done = shell("spec-opt status study.toml --json", folder)
    found: dict[str, int] = json.loads(done.stdout)["states"]
    return found


def test_a_worker_without_stderr_works(folder: Path) -> None:
    assert shell("spec-opt worker study.toml 2>&-", folder).returncode == 0
    assert states(folder)["complete"] == 2


@pytest.mark.parametrize("closed", [">&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_run_works_whatever_becomes_of_its_output(folder: Path, closed: str) -> None:
    done = shell(f"spec-opt run study.toml {closed}", folder)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert (folder / "reports/case/report.html").exists()
    assert states(folder)["complete"] == 2


def test_a_worker_whose_reader_went_away_works(folder: Path) -> None:
    assert shell("spec-opt worker study.toml 2>&1 | head -0", folder).returncode == 0
    assert states(folder)["complete"] == 2


def test_results_that_cannot_be_written_are_one_line(folder: Path) -> None:
    done = shell("spec-opt run study.toml >/dev/full", folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"spec-opt: error: stdout: No space left on device"
    assert (folder / "reports/case/report.html").exists()
    for command in ("status study.toml", "export study.toml", "--help", "--version"):
        done = shell(f"spec-opt {command} >/dev/full", folder)
        assert done.returncode == 1, command
        assert done.stderr == b"spec-opt: error: stdout: No space left on device\n"
    assert shell("spec-opt status study.toml >/dev/full 2>&1", folder).returncode == 1
    assert shell("set -o pipefail; spec-opt export study.toml | true", folder).returncode == 0


def test_errors_without_stderr_keep_their_code(folder: Path) -> None:
    assert shell("spec-opt train nothing.toml 2>&-", folder).returncode == 2
    assert shell("spec-opt train nothing.toml 2>/dev/full", folder).returncode == 2


def test_an_encoding_that_lacks_characters(folder: Path) -> None:
    done = shell("spec-opt import --help", folder, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"CSV\\u2026" in done.stdout


def test_names_that_are_not_utf_8(folder: Path) -> None:
    """Here the whole path of the store, the study file and the report."""
    name = os.fsencode(folder)
    store = b"--storage sqlite:///" + name + b"/s.db"
    steps = (
        b"spec-opt run $D/study.toml -o $D/report --json $S > $D/run.json",
        b"spec-opt train $D/study.toml --json > $D/train.json",
        b"spec-opt export $D/study.toml --format json -o $D/export.json $S",
        b"spec-opt status $D/study.toml --json $S > $D/status.json",
        b"spec-opt recommend $D/study.toml --format json $S > $D/recommend.json",
        b"spec-opt report $D/study.toml -o $D/again $S",
    )
    script = b" && ".join(steps).replace(b"$S", store).replace(b"$D", name)
    done = shell(os.fsdecode(script), folder.parent)
    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0), done.stderr
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    assert "caf\\xe9" in (folder / "report" / "report.html").read_text()
    trained = json.loads((folder / "train.json").read_text())
    assert trained["draft"]["path"].endswith("caf\\xe9/draft.pth")
