"""Grids that shrink, and grids that are large."""

import logging
from typing import Any

import pytest
from optuna.trial import TrialState

from spec_opt.config.study_file import SearchConfig
from spec_opt.results.table import table_of
from spec_opt.study import agenda
from spec_opt.study.claims import Claims, Idle
from spec_opt.study.progress import progress
from spec_opt.study.store import Store
from spec_opt.study.study import Study
from tests.study.stand_in import stand_in_study, study_config
from tests.study.test_claims import claim, complete

SIX: dict[str, Any] = {"sigma": (0.1, 0.2, 0.5), "bias": (1.0,), "k": (1, 2)}
TWO: dict[str, Any] = {**SIX, "sigma": (0.1,)}


def run(study: Study) -> int:
    claims, count = Claims(study), 0
    while not isinstance(claimed := claims.claim(), Idle):
        complete(claims, claimed)
        count += 1
    return count


def test_what_a_grid_no_longer_asks_for_is_not_run(store: Store) -> None:
    claims = Claims(stand_in_study(store, **SIX))
    done = claim(claims)
    complete(claims, done)
    smaller = stand_in_study(store, **TWO)
    now = progress(smaller)
    assert (now.states.withdrawn, now.states.fail, now.states.waiting) == (4, 0, 1)
    assert (now.total, now.missing, now.last_error) == (2, 1, None)
    assert run(smaller) == 1
    assert progress(smaller).is_done
    table = table_of(store, study_config(**TWO))
    assert table.states == {"complete": 2, "withdrawn": 4}
    assert len(table.points) == 2


def test_what_is_asked_for_again_is_enqueued_again(store: Store) -> None:
    stand_in_study(store, **SIX)
    stand_in_study(store, **TWO)
    whole = stand_in_study(store, **SIX, max_attempts=1)
    assert progress(whole).states.waiting == 6
    assert run(whole) == 6


def test_a_running_trial_and_what_others_enqueued_are_not_withdrawn(store: Store) -> None:
    study = stand_in_study(store, **SIX)
    claims = Claims(study)
    running = claim(claims)
    while running.setting.sigma == 0.1:
        complete(claims, running)
        running = claim(claims)
    study.optuna_study().enqueue_trial({"sigma": 0.5, "bias": 1.0, "k": 2})
    now = progress(stand_in_study(store, **TWO))
    assert (now.states.running, now.states.waiting, now.states.withdrawn) == (1, 1, 3)
    assert complete(claims, running)


@pytest.mark.parametrize("portion", [1, 2, 5])
def test_a_large_grid_is_enqueued_in_portions(
    portion: int,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agenda, "PORTION", portion)
    caplog.set_level(logging.INFO, "spec_opt")
    study = stand_in_study(store, **SIX)
    assert "settings enqueued, " in caplog.text or portion == 5
    trials = study.optuna_study().get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.WAITING] * 6
    assert [t.user_attrs["grid_point"] for t in trials] == list(range(6))
    assert run(study) == 6


def test_what_others_enqueue_meanwhile_is_not_enqueued_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agenda, "PORTION", 2)
    add, added = agenda._enqueue, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal added
        add(*arguments)
        added += 1
        if added == 2:
            raise ZeroDivisionError

    monkeypatch.setattr(agenda, "_enqueue", interrupted)
    with pytest.raises(ZeroDivisionError):
        stand_in_study(store, **SIX)
    study = stand_in_study(store, **SIX)
    assert progress(study).states.waiting == 6


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            {name: tuple(float(n + 1) for n in range(1000)) for name in ("sigma", "bias")}
            | {"k": tuple(range(1, 1001))},
            "1,000 sigma x 1,000 bias x 1,000 k = 1,000,000,000 settings, more than "
            "max_settings = 100,000",
        ),
        ({**SIX, "max_settings": 5}, "= 6 settings, more than max_settings = 5"),
        ({"sampler": "tpe", "n_trials": 200_000}, "n_trials = 200,000 is more than"),
    ],
)
def test_a_study_that_is_too_large_is_refused(search: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SearchConfig(**search)


def test_the_limit_can_be_lifted() -> None:
    assert SearchConfig(sampler="tpe", n_trials=200_000, max_settings=200_000).n_trials == 200_000
    assert SearchConfig(**SIX, max_settings=6).max_settings == 6
