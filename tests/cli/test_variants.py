"""A study over training keys by the command line: run, killed, and looked at by every command."""

import io
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from spec_opt.cli import main
from tests.study.kills import PROGRAM
from tests.study.stand_in_program import Options

ROOT = Path(__file__).parent.parent.parent
STUDY = """
name = "drafts"
[search]
sigma = [0.3]
bias = [1.0]
k = [1, 3]
combine = "one-at-a-time"
draft_kind = ["linear"]
teacher_noise = [0.3]
draft_epochs = [2]
[data]
source = "synthetic"
context = 48
horizon = 36
max_windows = 8
[data.synthetic]
rows = 600
[target]
patch = 12
d_model = 16
heads = 2
feedforward = 16
layers = 1
[target.training]
epochs = 1
max_windows = 32
[draft]
kind = "timer-xl"
[draft.training]
epochs = 1
max_windows = 32
[decoding]
device = "cpu"
[bench]
seconds = 0.2
"""
DRAFTS, SETTINGS = 4, 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "drafts.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([arguments[0], "drafts.toml", *arguments[1:]]) == 0
    return capsys.readouterr().out


def test_every_command_uses_the_draft_of_the_trial(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = json.loads(output(capsys, "run", "--json"))
    assert all(
        found["draft_path"] for found in ran["recommendations"] if found["trial"] is not None
    )

    frame = pd.read_csv(io.StringIO(output(capsys, "export", "--all")))
    assert frame.groupby("draft_path").size().tolist() == [SETTINGS] * DRAFTS
    assert frame["draft_mse"].nunique() == frame["draft_fingerprint"].nunique() == DRAFTS
    linear = frame[frame["draft_kind"] == "linear"]
    assert linear["draft_epochs"].isna().all()
    assert sorted(frame["draft_epochs"].dropna().unique()) == [1, 2]
    assert (frame["teacher_noise"].dropna() == 0.05).sum() == 2 * SETTINGS

    number = str(linear["number"].iloc[0])
    replayed = json.loads(
        output(capsys, "confirm", "--split", "validation", "--trial", number, "--json")
    )
    (again,) = replayed["settings"]
    assert again["tuned"]["mse"] == pytest.approx(again["confirmed"]["mse"], rel=1e-6)
    bench = ("bench", "--trial", number, "--batch-size", "4", "--repeats", "1", "--json")
    (row,) = json.loads(output(capsys, *bench))["rows"]
    assert row["acceptance_rate"] == linear["acceptance_rate"].iloc[0]
    recommended = output(capsys, "recommend", "--format", "flags")
    assert recommended.count("draft ") >= 1
    output(capsys, "report", "-o", "report")
    assert "draft_kind=linear" in (folder / "report" / "report.html").read_text(encoding="utf-8")


def test_two_workers_that_are_killed_make_each_draft_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command with SIGKILL, launcher and workers, while drafts are made."""
    options = Options(seconds=0.0, models=True, interval=0.3, grace=1.5)
    environment = os.environ | options.environment() | {"PYTHONPATH": str(ROOT)}
    command = [*PROGRAM, "run", "drafts.toml", "--workers", "2"]
    models = folder / "cache" / "models"
    for wanted in (3, None):
        with (folder / "output").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        if wanted is None:
            assert process.wait(240) == 0, (folder / "output").read_text(encoding="utf-8")
            break
        deadline = time.monotonic() + 120
        while len([*models.glob("*.safetensors")]) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill_all(folder)
        process.wait()
    text = "".join(p.read_text(encoding="utf-8") for p in [folder / "output", *logs(folder)])
    kept = Counter(re.findall(r"kept the draft: (\S+)", text))
    assert len(kept) == DRAFTS
    assert set(kept.values()) == {1}
    assert {path.suffix for path in models.iterdir()} == {".safetensors", ".lock"}
    assert not [path for path in models.iterdir() if path.name.startswith(".")]
    complete = pd.read_csv(io.StringIO(output(capsys, "export", "--all")))
    complete = complete[complete["state"] == "complete"]
    assert len(complete) == SETTINGS * DRAFTS
    assert not complete.duplicated(["sigma", "bias", "k", "draft_path"]).any()


def logs(folder: Path) -> list[Path]:
    return [*(folder / "logs").rglob("*.log")]


def kill_all(folder: Path) -> None:
    """SIGKILL to every process that works in the folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                is_ours = (entry / "cwd").resolve() == folder
            except OSError:
                continue
            if is_ours and b"drafts.toml" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
