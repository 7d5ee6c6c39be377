"""The example of docs/your_model.md runs as it is written."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spec_opt.cli import main
from spec_opt.models.conformance import check_model

PAGE = Path(__file__).parents[2] / "docs" / "your_model.md"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    code, study = block("python", "my_model.py"), block("toml", 'name = "mine"')
    (tmp_path / "my_model.py").write_text(code)
    (tmp_path / "mine.toml").write_text(study)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_model")
    del sys.modules["my_model"]


def block(language: str, mark: str) -> str:
    """The one block of the page that contains `mark`."""
    blocks: list[str] = re.findall(f"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    (found,) = (text for text in blocks if mark in text)
    return found


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


class StandIn(nn.Module):
    """The last value again, with deciles around it, as Chronos-Bolt and Toto 2 shape them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.0, 1.0, 9))

    @classmethod
    def from_pretrained(cls, folder: str, **options: object) -> "StandIn":
        del folder, options
        return cls()

    @property
    def model(self) -> "StandIn":
        return self

    @model.setter
    def model(self, model: "StandIn") -> None:
        self.weight = model.weight

    def predict_quantiles(
        self, context: Tensor, prediction_length: int, quantile_levels: list[float]
    ) -> tuple[Tensor, Tensor]:
        chosen = self.weight.float()[[round(10 * level) - 1 for level in quantile_levels]]
        quantiles = context[:, -1, None, None] + chosen.expand(len(context), prediction_length, -1)
        return quantiles, quantiles.mean(dim=2)

    def forecast(
        self,
        inputs: dict[str, Tensor],
        horizon: int,
        decode_block_size: None,
        has_missing_values: bool,
    ) -> Tensor:
        assert decode_block_size is None
        assert not has_missing_values
        assert inputs["target_mask"].all()
        assert inputs["series_ids"].shape == inputs["target"].shape[:2]
        last = inputs["target"][:, :, -1:].expand(-1, -1, horizon)
        return last + self.weight[:, None, None, None]


@pytest.mark.parametrize(
    ("file", "package", "name", "patch"),
    [
        ("my_chronos.py", "chronos", "BaseChronosPipeline", 64),
        ("my_toto.py", "toto2", "Toto2Model", 32),
    ],
)
def test_wrappers_of_other_packages(
    file: str, package: str, name: str, patch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, SimpleNamespace(**{name: StandIn}))
    names: dict[str, Any] = {}
    exec(block("python", file), names)
    context = torch.randn(3, 96, 2, generator=torch.Generator().manual_seed(0))
    model = names["make"](folder="weights")
    check_model(model, context)
    answer = model.predict(context)
    torch.testing.assert_close(answer.mean, context[:, -1:].expand(-1, patch, -1))
    torch.testing.assert_close(answer.variance, torch.full_like(answer.mean, (2.0 / 2.563) ** 2))
