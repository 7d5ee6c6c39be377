"""The example of docs/your_model.md runs as it is written."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spec_opt.cli import main
from spec_opt.models.conformance import check_model

PAGE = Path(__file__).parents[2] / "docs" / "your_model.md"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    text = PAGE.read_text(encoding="utf-8")
    (code, _), (study,) = (re.findall(f"```{kind}\n(.*?)```", text, re.S) for kind in LANGUAGES)
    (tmp_path / "my_model.py").write_text(code)
    (tmp_path / "mine.toml").write_text(study)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_model")
    del sys.modules["my_model"]


LANGUAGES = ("python", "toml")


def test_the_example_conforms(module: Any, tmp_path: Path) -> None:
    context = torch.randn(4, 168, 3, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    model, changed = module.make(), module.make()
    with torch.no_grad():
        changed.network.weight[0, 0] += 1.0
    check_model(model, context, changed=changed)
    torch.save(changed.network.state_dict(), tmp_path / "weights.pth")
    again = module.make(weights=tmp_path / "weights.pth")
    assert again.fingerprint == changed.fingerprint


@pytest.mark.parametrize(
    "draft", ["", '[draft]\nkind = "timer-xl"\n[draft.training]\nepochs = 1\n']
)
def test_the_example_runs(
    module: Any, tmp_path: Path, draft: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "mine.toml"
    search = "[search]\nsigma = [0.1, 0.3]\nbias = [1.0]\nk = [2]\n[bench]\nseconds = 0\n"
    study.write_text(study.read_text() + search + draft)
    assert main(["run", str(study)]) == 0
    captured = capsys.readouterr()
    assert "Pareto front of mine: of 2 completed trials" in captured.out
    assert "target: MyModel, from my_model:make" in captured.err


def test_an_error_is_told_by_its_line(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "mine.toml"
    study.write_text(study.read_text().replace("points = 168", "points = 100"))
    assert main(["run", str(study)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'my_model.py'}:" in error
    assert "RuntimeError" in error


def test_train_says_what_a_model_is(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path / "mine.toml")]) == 0
    text = capsys.readouterr().out
    assert "target: my_model:make\n  MyModel, fingerprint " in text
    assert "  4,032 parameters, fingerprint " in text  # the linear draft's matrix
