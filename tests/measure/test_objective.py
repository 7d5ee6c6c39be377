"""The objective of a study file, with the tiny pair."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.errors import WorkError
from spec_opt.measure import cost_model
from spec_opt.measure.cost_model import LearntCosts
from spec_opt.measure.objective import StudyObjective
from tests.conftest import DATA

SETTING = Setting(sigma=1.5, bias=1.0, k=2)


@pytest.fixture(autouse=True)
def any_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy."""
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", 1e9)


def prepare(speedup: bool = False, **decoding: Any) -> StudyObjective:
    objectives = ["acceptance_rate", "mse", *(["speedup"] if speedup else [])]
    return StudyObjective.prepare(
        StudyConfig.model_validate_json(
            json.dumps({
                "name": "tiny",
                "search": {
                    "sigma": [1.5], "bias": [1.0], "k": [1, 2], "objectives": objectives
                },
                "data": {
                    "source": "synthetic", "context": 96, "horizon": 72, "max_windows": 12,
                    "synthetic": {"rows": 1000},
                },
                "target": {"checkpoint": str(DATA / "tiny_target.pth")},
                "draft": {"checkpoint": str(DATA / "tiny_draft.pth")},
                "decoding": {"device": "cpu", "batch_size": 5} | decoding,
            })
        )
    )  # fmt: skip


class Shelf:
    """Keeps costs, as a study does."""

    def __init__(self, spread: float = 0.1) -> None:
        self.kept: dict[str, LearntCosts] = {}
        self.learnt = 0
        self._spread = spread

    def __call__(self, key: str, learn: Callable[[], LearntCosts]) -> LearntCosts:
        if key not in self.kept:
            self.learnt += 1
            self.kept[key] = replace(learn(), spread=self._spread)
        return self.kept[key]


def test_two_workers_predict_from_the_same_costs() -> None:
    shelf = Shelf()
    one, other = prepare(), prepare()
    one.share_costs = other.share_costs = shelf

    first, second = one(SETTING), other(SETTING)

    assert shelf.learnt == 1
    assert first.predicted_speedup == second.predicted_speedup is not None


def test_costs_belong_to_a_device_and_a_batch_size() -> None:
    shelf = Shelf()
    for objective in (prepare(), prepare(batch_size=2), prepare(context="growing")):
        objective.share_costs = shelf
        objective(SETTING)

    assert shelf.learnt == 3
    assert any("cpu, float32, rolling context, batch size 5, " in key for key in shelf.kept)


def test_no_speedup_is_predicted_from_timings_that_disagree(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", 0.5)
    objective = prepare()
    objective.share_costs = Shelf(spread=0.8)

    assert objective(SETTING).predicted_speedup is None
    assert "varied by 80%" in caplog.text


def test_a_speedup_that_is_an_objective_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", 0.5)
    objective = prepare(speedup=True)
    objective.share_costs = Shelf(spread=0.8)

    with pytest.raises(WorkError, match=r"varied by 80%.*idle machine"):
        objective(SETTING)


def test_speedups_of_other_batch_sizes_are_no_numbers_of_the_same_study() -> None:
    assert prepare().fingerprints == prepare(batch_size=2).fingerprints
    one, other = prepare(speedup=True), prepare(speedup=True, batch_size=2)
    assert one.fingerprints.decoding != other.fingerprints.decoding
    assert one.fingerprints == prepare(speedup=True).fingerprints
