"""`[search] constraints`: on every trial, where Optuna's own parts find them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from spec_opt.config.limits import Constraints
from spec_opt.config.study_file import Setting
from spec_opt.measure.measurement import Measurement
from spec_opt.results.importing import import_tables, read_tables
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import front
from spec_opt.results.report import write_report
from spec_opt.results.table import StudyTable, read_table
from spec_opt.study.constraints import is_feasible
from spec_opt.study.store import Store
from spec_opt.study.study import Study
from spec_opt.study.worker import run_worker
from tests.results.studies import OLD_SWEEP
from tests.study.stand_in import BASELINE, StandIn, measurement, stand_in_study

SPACE: dict[str, Any] = {"sigma": (0.1, 0.5, 1.0), "bias": (1.0, 2.0, 5.0), "k": (1, 2, 4)}
LIMITS = Constraints(max_mse_ratio=1.05, min_acceptance=0.3)


def measured(store: Store, **search: Any) -> Study:
    study = stand_in_study(store, **(SPACE | {"constraints": LIMITS} | search))
    run_worker(study, StandIn(), threading.Event())
    return study


def table_of(study: Study) -> StudyTable:
    return read_table(study.optuna_study())


def test_every_trial_holds_what_it_misses(store: Store) -> None:
    study = measured(store)
    for trial in study.optuna_study().get_trials():
        acceptance, mse = trial.values
        over, short = trial.system_attrs["constraints"]
        assert (over <= 0) == (mse <= 1.05 * BASELINE.target_mse)
        assert over == pytest.approx(mse / BASELINE.target_mse - 1.05)
        assert short == 0.3 - acceptance


def test_best_trials_front_and_recommendations_keep_them(store: Store) -> None:
    study = measured(store)
    table, best = table_of(study), study.optuna_study().best_trials
    feasible = [p for p in table.points if p.result.feasible]
    assert 0 < len(feasible) < len(table.points)
    assert {p.number for p in table.front} == {t.number for t in best}
    assert {p.number for p in table.front} <= {p.number for p in feasible}
    for recommendation in recommend_all(table):
        assert recommendation.point in feasible


def test_copies_hold_them_too(store: Store) -> None:
    space = {"sampler": "random", "n_trials": 8, "sigma": (0.1, 1.0), "bias": (1.0,), "k": (1,)}
    trials = measured(store, **space).optuna_study().get_trials()
    assert {trial.user_attrs["source"] for trial in trials} == {"measured", "repeated"}
    assert len({tuple(trial.system_attrs["constraints"]) for trial in trials}) == 2


def test_new_limits_hold_for_old_trials(store: Store) -> None:
    measured(store)
    looser = stand_in_study(store, **SPACE, constraints=Constraints(min_acceptance=0.1))
    for trial in looser.optuna_study().get_trials():
        assert trial.system_attrs["constraints"] == [0.1 - trial.values[0]]
    without = stand_in_study(store, **SPACE)
    assert not any("constraints" in t.system_attrs for t in without.optuna_study().get_trials())
    assert {p.result.feasible for p in table_of(without).points} == {True}


def test_trials_of_other_clients_are_held_against_them(store: Store) -> None:
    study = measured(store)
    seen = study.optuna_study()
    first = seen.trials[0]
    made: dict[str, Any] = {"params": first.params, "distributions": first.distributions}
    seen.add_trial(create_trial(values=[0.9, 9.0], **made))
    seen.add_trial(create_trial(values=[0.9, float("inf")], **made))
    stand_in_study(store, **SPACE, constraints=LIMITS)
    strange = study.optuna_study().trials[-2:]
    assert [len(trial.system_attrs["constraints"]) for trial in strange] == [2, 2]
    assert not any(is_feasible(trial.system_attrs) for trial in strange)


def test_imported_rows_are_held_against_them(store: Store) -> None:
    rows, _ = read_tables([OLD_SWEEP])
    import_tables(store, "old", rows[:40], (), Constraints(max_mse_ratio=1.2))
    import_tables(store, "old", rows[40:], (), Constraints(max_mse_ratio=1.2))
    study = store.optuna_study("old")
    lowest = min(trial.values[1] for trial in study.trials)
    for trial in study.trials:
        assert is_feasible(trial.system_attrs) == (trial.values[1] <= 1.2 * lowest)
    assert {p.number for p in read_table(study).front} == {t.number for t in study.best_trials}


def test_that_nothing_is_feasible_is_said(store: Store, tmp_path: Path) -> None:
    study = measured(store, constraints=Constraints(min_acceptance=1.0, max_mse_ratio=1.001))
    table = table_of(study)
    assert study.optuna_study().best_trials == []
    assert table.front == ()
    (said,) = front(table)
    assert getattr(said, "text", "").startswith(
        "No trial keeps the constraints of the search (MSE <= 1.001 times the target's, "
        "acceptance >= 100%); the closest is trial "
    )
    written = write_report(table, tmp_path, storage="sqlite:///x.db", command="report")
    assert "No trial keeps the constraints" in written.files[0].read_text(encoding="utf-8")


class Steep(StandIn):
    """Few settings are feasible."""

    def __call__(self, setting: Setting) -> Measurement:
        rate = setting.sigma / 2
        return replace(measurement(setting), acceptance_rate=rate, mse=0.44 + 0.05 * rate)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_samplers_look_where_they_hold(
    sampler: str, tmp_path: Path, opened: Callable[..., Store]
) -> None:
    store = opened(f"sqlite:///{tmp_path}/store.db")
    n_trials = 18 if sampler == "gp" else 60
    space = {"sigma": {"low": 0.1, "high": 2.0}, "bias": {"low": 1.0, "high": 2.0}, "k": (1, 2, 3)}
    limits = Constraints(max_mse_ratio=1.05, min_acceptance=0.2)

    def feasible(sampler: str) -> int:
        search = {"sampler": sampler, "n_trials": n_trials, "constraints": limits, **space}
        study = stand_in_study(store, name=sampler, **search)
        run_worker(study, Steep(), threading.Event())
        trials = study.optuna_study().get_trials()
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        return sum(is_feasible(trial.system_attrs) for trial in trials[n_trials // 2 :])

    assert feasible(sampler) > 1.3 * feasible("random")
