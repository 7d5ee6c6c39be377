"""A study whose windows are decoded with several seeds, from the study file to its replay."""

import json
from pathlib import Path

import pytest

from spec_opt.cli import main
from tests.cli.test_bench import UNTIMED


def test_a_study_with_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("tiny.toml")
    file.write_text(f"{UNTIMED}seeds = 3\n", encoding="utf-8")
    assert main(["run", "tiny.toml"]) == 0
    assert "seeds 0 to 2" in Path("reports/tiny/report.html").read_text(encoding="utf-8")
    capsys.readouterr()

    assert main(["export", "tiny.toml", "--all", "--format", "json"]) == 0
    attributes = json.loads(capsys.readouterr().out)["trials"][0]["attributes"]
    assert (attributes["windows"], attributes["seeds"]) == (20, 3)
    assert attributes["patches"] == 20 * 3 * 3
    assert attributes["mse_seed_se"] > 0.0

    replay = ["confirm", "tiny.toml", "--trial", "0", "--split", "validation", "--json"]
    assert main(replay) == 0
    assert json.loads(capsys.readouterr().out)["settings"][0]["same"]

    file.write_text(f"{UNTIMED}seeds = 2\n", encoding="utf-8")
    assert main(["run", "tiny.toml"]) == 2
    assert "decoding" in capsys.readouterr().err
