"""`[search] objectives` with the predicted speedup as the third."""

import json
import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from spec_opt.config.study_file import Setting, StudyConfig, read_study
from spec_opt.errors import ConfigError, StudyError
from spec_opt.measure.measurement import Measurement
from spec_opt.results.document import as_text
from spec_opt.results.export import document_of
from spec_opt.results.pareto import pareto_mask
from spec_opt.results.render import front
from spec_opt.results.table import read_table
from spec_opt.study.store import open_store
from spec_opt.study.study import open_study
from spec_opt.study.worker import WorkerSummary, run_worker

from .stand_in import BASELINE, FINGERPRINTS, StandIn, measurement, study_config

THREE = ("acceptance_rate", "mse", "speedup")
SPACE: dict[str, Any] = {"sigma": (0.25, 0.5), "bias": (1.0, 2.0), "k": (1, 3)}


class Predicting(StandIn):
    """A stand-in that predicts a speedup, where it can."""

    def __call__(self, setting: Setting) -> Measurement:
        found = measurement(setting)
        speedup = (
            None if setting.k == 3 and setting.bias == 2.0 else 1.0 + setting.k * setting.sigma
        )
        return replace(found, predicted_speedup=speedup)


def measured(url: str, **search: Any) -> WorkerSummary:
    config = study_config(**(SPACE | {"objectives": THREE, "max_attempts": 1} | search))
    study = open_study(open_store(url), config, FINGERPRINTS, BASELINE, {})
    return run_worker(study, Predicting(), threading.Event())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def test_a_study_of_three(url: str) -> None:
    summary = measured(url)
    assert (summary.complete, summary.fail) == (6, 2)

    study = optuna.load_study(study_name="stand-in", storage=url)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == list(THREE)
    failed = [t for t in study.trials if t.state.name == "FAIL"]
    assert all("speedup: could not be predicted" in t.user_attrs["error"] for t in failed)

    table = read_table(study)
    assert {p.number for p in table.front} == {t.number for t in study.best_trials}
    assert table.objectives == THREE
    for point in table.points:
        expected = 1.0 + point.setting.k * point.setting.sigma
        assert point.result.predicted_speedup == pytest.approx(expected)
    document = json.loads(json.dumps(document_of(table, all_trials=True, storage=url, command="")))
    values = [t["values"] for t in document["trials"] if t["values"]]
    assert all(set(v) == set(THREE) for v in values)
    assert "predicted speedup" in as_text(front(table))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_other_samplers(url: str, sampler: str) -> None:
    space = {"sigma": {"low": 0.1, "high": 1.0}, "bias": (1.0,), "k": (1, 2)}
    measured(url, sampler=sampler, n_trials=12, **space)
    study = optuna.load_study(study_name="stand-in", storage=url)
    assert len(study.trials) == 12
    assert all(len(t.values) == 3 for t in study.trials)


def test_two_and_three_do_not_mix(url: str) -> None:
    measured(url)
    with pytest.raises(StudyError, match=r"search\.objectives.*another name"):
        measured(url, objectives=THREE[:2])


def test_the_front_in_three_dimensions() -> None:
    study = optuna.create_study(directions=["minimize"] * 3)
    points = [*list(product((0.0, 1.0, 2.0), repeat=3))[2::2], (2.0, 0.0, 0.0), (0.0, 1.0, 1.0)]
    study.add_trials(optuna.trial.create_trial(values=list(p)) for p in points)

    mask = pareto_mask(np.array(points))
    assert set(np.flatnonzero(mask).tolist()) == {t.number for t in study.best_trials}


@pytest.mark.parametrize(
    "objectives", ['["mse"]', '["mse", "acceptance_rate"]', '["acceptance_rate", "mse", "mse"]']
)
def test_objectives_that_are_not_allowed(tmp_path: Path, objectives: str) -> None:
    path = tmp_path / "study.toml"
    text = f'name = "s"\n[search]\nobjectives = {objectives}\n[data]\nsource = "synthetic"\n'
    path.write_text(text + "context = 96\nhorizon = 96\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="with 'speedup' as the third or without"):
        read_study(str(path))


def test_the_default_is_two() -> None:
    config: StudyConfig = study_config()
    assert config.search.objectives == THREE[:2]
