"""`[search] from_study`: a new study begins where another was best."""

import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from spec_opt.config.limits import Constraints
from spec_opt.config.study_file import Setting
from spec_opt.errors import StudyError
from spec_opt.results.importing import import_tables, read_tables
from spec_opt.study.claims import ClaimedTrial, Claims
from spec_opt.study.space import setting_of
from spec_opt.study.store import Store, open_store
from spec_opt.study.study import Study, check_study
from spec_opt.study.worker import run_worker
from tests.results.studies import OLD_SWEEP
from tests.study.stand_in import StandIn, stand_in_study, study_config

SPACE: dict[str, Any] = {"sigma": (0.1, 0.5, 1.0), "bias": (1.0, 2.0), "k": (1, 2)}
DRAWN: dict[str, Any] = {"sampler": "tpe", "n_trials": 12, "sigma": {"low": 0.05, "high": 1.5}}


def old(store: Store, **search: Any) -> Study:
    study = stand_in_study(store, name="old", **(SPACE | search))
    run_worker(study, StandIn(), threading.Event())
    return study


def best(study: Study) -> set[Setting]:
    return {setting_of(trial.params) for trial in study.optuna_study().best_trials}


def warm(study: Study) -> list[FrozenTrial]:
    trials = study.optuna_study().get_trials()
    return [trial for trial in trials if "warm_started_from" in trial.user_attrs]


def test_a_search_begins_with_the_old_front(store: Store) -> None:
    before = old(store)
    study = stand_in_study(store, **DRAWN, from_study="old")
    begun = warm(study)
    assert [trial.number for trial in begun] == list(range(len(begun)))
    assert {trial.state for trial in begun} == {TrialState.WAITING}
    found = {setting_of(trial.system_attrs["fixed_params"]) for trial in begun}
    assert found <= best(before)
    for trial in begun:
        origin = trial.user_attrs["warm_started_from"]
        assert origin["study"] == "old"
        assert before.optuna_study().trials[origin["trial"]].params == trial.params
    run_worker(study, StandIn(), threading.Event())
    trials = study.optuna_study().get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert [t.number for t in warm(study)] == [t.number for t in begun]
    assert all(t.user_attrs["source"] in ("measured", "repeated") for t in trials)


def test_a_setting_that_is_drawn_again_is_not_marked_again(store: Store) -> None:
    old(store)
    few: dict[str, Any] = {
        "sampler": "random",
        "n_trials": 12,
        "sigma": (0.1, 0.5),
        "bias": (1.0, 2.0),
        "k": (1,),
    }
    study = stand_in_study(store, **few, from_study="old")
    begun = [trial.number for trial in warm(study)]
    run_worker(study, StandIn(), threading.Event())
    repeated = [t for t in study.optuna_study().trials if t.user_attrs["source"] == "repeated"]
    assert {trial.user_attrs["repeated_from"] for trial in repeated} & set(begun)
    assert [trial.number for trial in warm(study)] == begun


def test_only_once(store: Store) -> None:
    old(store)
    count = len(warm(stand_in_study(store, **DRAWN, from_study="old")))
    assert len(warm(stand_in_study(store, **DRAWN, from_study="old"))) == count
    # Nor does a study that is resumed need the old one any more.
    assert len(warm(stand_in_study(store, **DRAWN, from_study="nothing"))) == count


def test_at_most_half_of_the_trials_spread_over_the_front(store: Store) -> None:
    front = old(store).optuna_study().best_trials
    study = stand_in_study(store, **DRAWN | {"n_trials": 4}, from_study="old")
    rates = [t.values[0] for t in front]
    taken = [front_rate(store, trial) for trial in warm(study)]
    assert taken == [max(rates), min(rates)]


def front_rate(store: Store, trial: FrozenTrial) -> float:
    origin = trial.user_attrs["warm_started_from"]["trial"]
    return float(store.optuna_study("old").trials[origin].values[0])


def test_a_grid_is_ordered_by_it_and_whole(store: Store) -> None:
    highest = max(best(old(store)), key=lambda setting: setting.sigma)
    study = stand_in_study(store, **SPACE, from_study="old")
    claimed = Claims(study).claim()
    assert isinstance(claimed, ClaimedTrial)
    assert claimed.setting == highest
    trials = study.optuna_study().get_trials()
    assert sorted(trial.user_attrs["grid_point"] for trial in trials) == list(range(12))
    assert len({tuple(trial.params.values()) for trial in trials}) == 12


def test_settings_outside_the_new_search_are_left_out(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    old(store)
    space = DRAWN | {"sigma": {"low": 0.8, "high": 1.5}}
    assert {t.params["sigma"] for t in warm(stand_in_study(store, **space, from_study="old"))} == {
        1.0
    }
    space["sigma"] = {"low": 1.2, "high": 1.5}
    assert warm(stand_in_study(store, name="far", **space, from_study="old")) == []
    assert "none of its" in caplog.text


def test_from_another_store_and_from_imported_results(store: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    rows, _ = read_tables([OLD_SWEEP])
    with open_store(url) as elsewhere:
        import_tables(elsewhere, "sweep", rows)
    wide = DRAWN | {"sigma": {"low": 0.01, "high": 9.0}, "bias": {"low": 1.0, "high": 50.0}}
    study = stand_in_study(store, **wide, from_study=f"sweep@{url}")
    assert warm(study)
    assert study.optuna_study().user_attrs["config"]["search"]["from_study"] == f"sweep@{url}"


def test_what_is_not_there_is_said_before_any_work(store: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with pytest.raises(StudyError, match="there is no store yet; for a study elsewhere"):
        check_study(url, study_config(**DRAWN, from_study="old"))
    with pytest.raises(StudyError, match="there is none yet"):
        check_study(url, study_config(**DRAWN, from_study=f"old@{url}"))
    with pytest.raises(StudyError, match="holds no study 'old'"):
        stand_in_study(store, **DRAWN, from_study="old")
    old(store, constraints=Constraints(max_mse_ratio=0.1))
    with pytest.raises(StudyError, match="no best trials to begin with"):
        stand_in_study(store, **DRAWN, from_study="old")


def test_a_password_is_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_opt.study.study.first_trials", lambda *_: [])
    secret = "old@postgresql://me:hunter22@db.example/studies"
    study = stand_in_study(store, **DRAWN, from_study=secret)
    stored = study.optuna_study().user_attrs["config"]["search"]["from_study"]
    assert stored == "old@postgresql://me:***@db.example/studies"
