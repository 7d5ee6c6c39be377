import os
import socket
import threading
from typing import Any

import optuna
import pytest

from spec_opt.config.study_file import Setting
from spec_opt.study.claims import ClaimedTrial, Claims, Heartbeat
from spec_opt.study.progress import GivenUp, States, progress
from spec_opt.study.store import Store
from spec_opt.study.worker import run_worker
from tests.study.stand_in import StandIn, stand_in_study

SMALL: dict[str, Any] = {"sigma": (0.1, 0.5), "bias": (1.0,), "k": (1, 2)}


def claim(claims: Claims) -> ClaimedTrial:
    claimed = claims.claim()
    assert isinstance(claimed, ClaimedTrial)
    return claimed


def test_a_new_study_misses_everything(store: Store) -> None:
    seen = progress(stand_in_study(store, **SMALL))
    assert seen.states == States(complete=0, running=0, waiting=4, fail=0)
    assert (seen.total, seen.missing, seen.left, seen.distinct, seen.settings) == (4, 4, 4, 0, 4)
    assert seen.workers == ()
    assert seen.trials_per_minute is None
    assert seen.seconds_left is None
    assert not seen.is_done


def test_workers_are_seen(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claimed = claim(Claims(study))
    (worker,) = progress(study).workers
    assert (worker.host, worker.pid) == (socket.gethostname(), os.getpid())
    assert worker.trial == claimed.number
    assert worker.setting == claimed.setting
    assert worker.alive
    assert worker.silent_seconds < 10
    (silent,) = progress(study, Heartbeat(interval=1.0, grace=-1.0)).workers
    assert not silent.alive


def test_a_rate_gives_the_time_left(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claims = Claims(study)
    for _ in range(3):
        claims.finish(claim(claims), (0.5, 0.4), {"source": "measured"})
    claim(claims)
    seen = progress(study)
    assert seen.trials_per_minute is not None
    assert seen.seconds_left == pytest.approx(60 / seen.trials_per_minute)


def test_a_finished_study(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    run_worker(study, StandIn(), threading.Event())
    seen = progress(study)
    assert seen.is_done
    assert (seen.missing, seen.left, seen.distinct) == (0, 0, 4)


def test_what_was_given_up_is_named(store: Store) -> None:
    study = stand_in_study(store, sigma=(0.1,), bias=(1.0,), k=(1, 2), max_attempts=2)
    claims = Claims(study)
    claims.finish(claim(claims), (0.5, 0.4), {"source": "measured"})
    for error in ("first", "second"):
        assert progress(study).given_up == ()
        claims.fail(claim(claims), error)
    seen = progress(study)
    assert seen.given_up == (GivenUp(Setting(sigma=0.1, bias=1.0, k=2), 2, "second"),)
    assert (seen.missing, seen.left) == (1, 0)
    assert seen.is_done


def test_sampled_trials_are_counted_against_their_number(store: Store) -> None:
    study = stand_in_study(store, sampler="random", n_trials=4, sigma=(0.1,), bias=(1.0,), k=(1,))
    claims = Claims(study)
    claims.finish(claim(claims), (0.5, 0.4), {"source": "measured"})
    claims.finish(claim(claims), (0.5, 0.4), {"source": "repeated"})
    claims.fail(claim(claims), "out of memory")
    claim(claims)
    seen = progress(study)
    assert seen.states == States(complete=2, running=1, waiting=0, fail=1)
    assert (seen.total, seen.missing, seen.left, seen.distinct) == (4, 2, 1, 1)
    assert not seen.is_done


def test_a_study_that_grew_reports_its_new_size(store: Store) -> None:
    run_worker(stand_in_study(store, **SMALL), StandIn(), threading.Event())
    seen = progress(stand_in_study(store, **(SMALL | {"k": (1, 2, 3)})))
    assert (seen.total, seen.missing, seen.distinct) == (6, 2, 4)


def test_a_study_is_counted_against_what_is_asked_now(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    run_worker(study, StandIn(), threading.Event())
    grown = study.config.search.model_copy(update={"k": (1, 2, 3)})
    seen = progress(study, asked=grown)
    assert (seen.total, seen.missing, seen.distinct, seen.is_done) == (6, 2, 4, False)
    narrowed = study.config.search.model_copy(update={"k": (1,)})
    seen = progress(study, asked=narrowed)
    assert (seen.total, seen.missing, seen.distinct) == (2, 0, 2)


def test_trials_of_another_client(store: Store) -> None:
    """They count neither as settings nor for the rate, and nobody is named as their worker."""
    study = stand_in_study(store, **SMALL)
    theirs = study.optuna_study()
    for _ in range(5):
        trial = optuna.trial.create_trial(
            values=[0.5, 0.5],
            params={"x": 1.0},
            distributions={"x": optuna.distributions.FloatDistribution(0, 2)},
        )
        theirs.add_trial(trial)
    claimed = claim(Claims(study))
    seen = progress(study)
    assert seen.trials_per_minute is None
    assert (seen.missing, seen.distinct, seen.states.complete) == (4, 0, 5)
    assert [worker.trial for worker in seen.workers] == [claimed.number]


def test_a_running_trial_of_another_client(store: Store) -> None:
    study = stand_in_study(store, sampler="random", n_trials=3, sigma={"low": 0.1, "high": 1.0})
    trial = study.optuna_study().ask()
    (holder,) = progress(study).workers
    assert (holder.pid, holder.trial, holder.setting) == (None, trial.number, None)
