"""Studies of a small Timer and a small TimesFM, each with a fitted and with a distilled draft."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from spec_opt.cli import main

from .published import timer_folder, timesfm_module

STUDY = """
name = "published"
[data]
source = "synthetic"
context = 104
horizon = 60
max_windows = 8
synthetic = {rows = 1200, channels = 2}
[target]
checkpoint = "published"
[search]
sigma = [0.3, 3.0]
bias = [2.0]
k = [2]
[decoding]
context = "growing"
device = "cpu"
[bench]
seconds = 0
[draft]
"""
DRAFTS = {
    "linear": "kind = 'linear'\n",
    "timer-xl": (
        "kind = 'timer-xl'\ncontext = 96\ntraining = {epochs = 1, max_windows = 32}\n"
        "scale = {d_model = 0.1, heads = 0.25, feedforward = 0.1, layers = 0.5}\n"
    ),
}


def ran(study: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.toml").write_text(study)
    assert main(["run", "study.toml"]) == 0
    captured = capsys.readouterr()
    assert "of 2 completed trials" in captured.out
    assert f"target: {name} 16/2/24/2, " in captured.err


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", DRAFTS)
def test_timer(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    timer_folder(Path("published"))
    ran(STUDY.replace("104", "96") + DRAFTS[kind], "Timer", capsys)


@pytest.mark.parametrize("kind", DRAFTS)
def test_timesfm(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its context is whole input patches, of 8 points, but not whole forecast patches, of 24."""
    pytest.importorskip("timesfm", reason="the package timesfm is not installed")
    module: Any = timesfm_module()
    Path("published").mkdir()
    safetensors.torch.save_file(module.state_dict(), "published/model.safetensors")
    ran(STUDY + DRAFTS[kind], "TimesFM 2.5", capsys)


def test_a_distilled_draft_that_cannot_see_the_whole_context(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("timesfm", reason="the package timesfm is not installed")
    safetensors.torch.save_file(timesfm_module().state_dict(), "published")
    Path("study.toml").write_text(STUDY + DRAFTS["timer-xl"].replace("context = 96\n", ""))
    assert main(["run", "study.toml"]) == 2
    assert "draft.context = 96 is the next smaller one" in capsys.readouterr().err
