"""The conformance suite of claiming: the same for every kind of store."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, delete, select, update

from spec_opt.errors import StudyError
from spec_opt.study.agenda import MAX_DEATHS
from spec_opt.study.claims import ClaimedTrial, Claims, Heartbeat, Idle
from spec_opt.study.store import Store, trial_heartbeats, trials
from spec_opt.study.study import Study
from spec_opt.study.trials import WORKER_DIED, all_attributes
from tests.study.stand_in import stand_in_study

SMALL: dict[str, Any] = {"sigma": (0.1, 0.5), "bias": (1.0,), "k": (1, 2)}
ONE: dict[str, Any] = {"sigma": (0.1,), "bias": (1.0,), "k": (1,)}
PATIENT = Heartbeat(interval=60.0, grace=600.0)
HASTY = Heartbeat(interval=0.01, grace=0.0)
"""Gives every running trial up that is not its own."""


def claim(claims: Claims) -> ClaimedTrial:
    claimed = claims.claim()
    assert isinstance(claimed, ClaimedTrial)
    return claimed


def complete(claims: Claims, claimed: ClaimedTrial, **attributes: Any) -> bool:
    return claims.finish(claimed, (0.5, 0.4), {"source": "measured"} | attributes)


def trials_of(study: Study) -> list[FrozenTrial]:
    return study.optuna_study().get_trials(deepcopy=False)


def states(study: Study) -> Counter[str]:
    return Counter(trial.state.name for trial in trials_of(study))


def test_a_claimed_trial_runs_and_is_signed(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claims = Claims(study)
    claimed = claim(claims)
    trial = trials_of(study)[0]
    assert trial.state is TrialState.RUNNING
    assert trial.number == claimed.number == 0
    assert trial.params == claimed.setting.model_dump()
    assert trial.user_attrs["worker"] == claims.claimant.name
    assert trial.datetime_start is not None


def test_a_result_is_recorded_whole(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claims = Claims(study)
    attributes = {
        "mae": 0.1,
        "accepted_by_position": [1, 2],
        "commit": None,
        "versions": {"a": "1"},
    }
    assert complete(claims, claim(claims), **attributes)
    trial = trials_of(study)[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.values == [0.5, 0.4]
    assert attributes.items() <= all_attributes(trial.user_attrs, trial.system_attrs).items()
    assert trial.datetime_complete is not None


def test_every_trial_goes_to_one_worker(store_url: str, opened: Callable[..., Store]) -> None:
    search: dict[str, Any] = {"sigma": (0.1, 0.2, 0.3), "bias": (1.0, 2.0), "k": (1, 2, 3, 4)}
    study = stand_in_study(opened(store_url), **search)
    numbers: list[int] = []

    def work(store: Store) -> None:
        claims = Claims(stand_in_study(store, **search), PATIENT)
        while not isinstance(claimed := claims.claim(), Idle):
            numbers.append(claimed.number)
            assert complete(claims, claimed)

    threads = [threading.Thread(target=work, args=(opened(store_url),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(24))
    assert states(study) == {"COMPLETE": 24}


def test_idle_until_the_others_have_finished(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    first, second = Claims(study, PATIENT), Claims(study, PATIENT)
    claimed = claim(first)
    assert second.claim() is Idle.WAIT
    assert complete(first, claimed)
    assert second.claim() is Idle.DONE
    assert first.claim() is Idle.DONE


def test_a_worker_keeps_to_its_sigma(store: Store) -> None:
    study = stand_in_study(store, **(SMALL | {"sigma": (0.1, 0.2, 0.3)}))
    first = Claims(study, PATIENT)
    for expected in (0.1, 0.1, 0.2, 0.2, 0.3):
        claimed = claim(first)
        assert claimed.setting.sigma == expected
        complete(first, claimed)


def test_workers_at_the_same_time_take_different_sigmas(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    first, second = Claims(study, PATIENT), Claims(study, PATIENT)
    assert claim(first).setting.sigma == 0.1
    assert claim(second).setting.sigma == 0.5


def test_a_claim_whose_answer_got_lost_is_found_again(store: Store) -> None:
    claims = Claims(stand_in_study(store, **SMALL), PATIENT)
    assert claim(claims) == claim(claims)


def test_a_silent_trial_is_given_up_and_its_late_result_dropped(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    slow, other = Claims(study, PATIENT), Claims(study, HASTY)
    given_up = claim(slow)
    taken = claim(other)
    assert taken.setting == given_up.setting
    assert taken.number == 1
    assert not slow.beat(given_up.trial_id)
    assert not complete(slow, given_up)
    assert complete(other, taken)
    assert states(study) == {"FAIL": 1, "COMPLETE": 1}
    lost = trials_of(study)[0]
    assert lost.user_attrs["failure"] == "died"
    assert slow.claimant.name in lost.user_attrs["error"]
    assert "source" not in lost.user_attrs


def test_a_sign_of_life_keeps_a_trial(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    busy, other = Claims(study), Claims(study, Heartbeat(interval=60, grace=30))
    claimed = claim(busy)
    age(study, seconds=40)
    assert busy.beat(claimed.trial_id)
    assert other.claim() is Idle.WAIT
    age(study, seconds=40)
    assert claim(other).setting == claimed.setting


def age(study: Study, seconds: float) -> None:
    """Make every heartbeat so much older."""
    table = trial_heartbeats

    def work(connection: Connection) -> None:
        for trial_id, last in connection.execute(select(table.c.trial_id, table.c.heartbeat)).all():
            older = last - timedelta(seconds=seconds)
            row = update(table).where(table.c.trial_id == trial_id)
            connection.execute(row.values(heartbeat=older))

    study.store.transaction(work)


def test_a_running_trial_without_any_sign_of_life_is_given_up_too(store: Store) -> None:
    """As another Optuna client leaves one that was killed."""
    study = stand_in_study(store, **ONE)
    lost = claim(Claims(study))
    study.store.transaction(lambda connection: connection.execute(delete(trial_heartbeats)))
    assert Claims(study, PATIENT).claim() is Idle.WAIT
    study.store.transaction(
        lambda connection: connection.execute(update(trials).values(datetime_start=None))
    )
    assert claim(Claims(study, PATIENT)).setting == lost.setting


def test_nothing_is_given_up_right_after_the_store_was_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = stand_in_study(store, **ONE)
    claim(Claims(study))
    age(study, seconds=100)
    other = Claims(study)
    monkeypatch.setattr(Store, "seconds_since_recovery", lambda _: 10.0)
    assert other.claim() is Idle.WAIT
    monkeypatch.setattr(Store, "seconds_since_recovery", lambda _: 40.0)
    assert isinstance(other.claim(), ClaimedTrial)


def test_a_setting_at_fault_is_tried_so_often_and_no_more(store: Store) -> None:
    study = stand_in_study(store, **ONE, max_attempts=3)
    claims = Claims(study)
    for _ in range(3):
        assert claims.fail(claim(claims), "mse = nan is not finite")
    assert claims.claim() is Idle.DONE
    assert states(study) == {"FAIL": 3}
    assert trials_of(study)[0].user_attrs["error"] == "mse = nan is not finite"
    assert stand_in_study(store, **ONE, max_attempts=3)
    assert states(study) == {"FAIL": 3}
    stand_in_study(store, **ONE, max_attempts=4)
    assert states(study) == {"FAIL": 3, "WAITING": 1}


def test_a_setting_over_which_workers_die_is_tried_more_often(store: Store) -> None:
    study = stand_in_study(store, **ONE, max_attempts=1)
    for _ in range(MAX_DEATHS):
        claims = Claims(study)
        claims.fail(claim(claims), "CUDA error: an illegal memory access", WORKER_DIED)
    assert Claims(study).claim() is Idle.DONE
    assert states(study) == {"FAIL": MAX_DEATHS}


def test_a_failed_setting_is_tried_after_the_others(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claims = Claims(study)
    failed = claim(claims)
    claims.fail(failed, "out of memory")
    order = []
    for _ in range(4):
        claimed = claim(claims)
        order.append(claimed.setting)
        complete(claims, claimed)
    assert order[-1] == failed.setting
    assert claims.claim() is Idle.DONE


def test_a_released_trial_waits_again_and_was_no_attempt(store: Store) -> None:
    study = stand_in_study(store, **ONE, max_attempts=1)
    for _ in range(MAX_DEATHS + 1):
        claims = Claims(study)
        claim(claims)
        assert claims.release() == 1
        assert claims.release() == 0
    assert states(study) == {"FAIL": MAX_DEATHS + 1, "WAITING": 1}
    last = Claims(study)
    assert complete(last, claim(last))
    assert last.claim() is Idle.DONE


def test_only_ones_own_trials_are_released(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    first, second = Claims(study, PATIENT), Claims(study, PATIENT)
    claimed = claim(first)
    claim(second)
    assert second.release() == 1
    assert complete(first, claimed)


def test_imported_trials_do_not_stand_for_a_measurement(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    claims = Claims(study)
    claims.finish(claim(claims), (0.5, 0.4), {"source": "imported"})
    assert claim(claims).setting.sigma == 0.1


def test_what_another_client_enqueued_is_run(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    study.optuna_study().enqueue_trial({"sigma": 0.7, "bias": 3.0, "k": 2})
    claims = Claims(study)
    seen = []
    while isinstance(claimed := claims.claim(), ClaimedTrial):
        seen.append(claimed.setting.model_dump())
        complete(claims, claimed)
    assert {"sigma": 0.7, "bias": 3.0, "k": 2} in seen
    assert trials_of(study)[1].params == {"sigma": 0.7, "bias": 3.0, "k": 2}


@pytest.mark.parametrize("params", [{"sigma": 0.7}, {"sigma": "x", "bias": 1.0, "k": 1}, {}])
def test_an_enqueued_trial_that_does_not_fit_fails(params: dict[str, Any], store: Store) -> None:
    study = stand_in_study(store, **ONE)
    study.optuna_study().enqueue_trial(params)
    claims = Claims(study)
    assert complete(claims, claim(claims))
    assert claims.claim() is Idle.DONE
    unfit = trials_of(study)[1]
    assert unfit.state is TrialState.FAIL
    assert "do not fit" in unfit.user_attrs["error"]


def test_a_deleted_study_is_said(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    claims = Claims(study)
    optuna.delete_study(study_name=study.name, storage=store.storage)
    with pytest.raises(StudyError, match="deleted"):
        claims.claim()


SAMPLED: dict[str, Any] = {"sampler": "random", "n_trials": 6}


def test_sampled_trials_end_at_their_number(store: Store) -> None:
    study = stand_in_study(store, **SAMPLED)
    first, second = Claims(study, PATIENT), Claims(study, PATIENT)
    held = claim(second)
    for _ in range(5):
        assert complete(first, claim(first))
    assert first.claim() is Idle.WAIT
    assert complete(second, held)
    assert first.claim() is Idle.DONE
    assert states(study) == {"COMPLETE": 6}


def test_what_died_or_was_interrupted_is_replaced(store: Store) -> None:
    study = stand_in_study(store, **SAMPLED)
    claim(Claims(study, PATIENT))
    released = Claims(study, PATIENT)
    claim(released)
    released.release()
    hasty = Claims(study, HASTY)
    for _ in range(6):
        assert complete(hasty, claim(hasty))
    assert hasty.claim() is Idle.DONE
    assert states(study) == {"COMPLETE": 6, "FAIL": 2}


def test_a_sampled_trial_at_fault_counts(store: Store) -> None:
    study = stand_in_study(store, **SAMPLED)
    claims = Claims(study)
    for _ in range(6):
        claims.fail(claim(claims), "mse = nan is not finite")
    assert claims.claim() is Idle.DONE


def test_a_repeated_setting_brings_its_measurement(store: Store) -> None:
    study = stand_in_study(store, **(SAMPLED | {"sigma": (0.1,), "bias": (1.0,), "k": (1,)}))
    claims = Claims(study)
    first = claim(claims)
    assert first.stored is None
    complete(claims, first, mae=0.3)
    second = claim(claims)
    assert second.stored is not None
    assert second.stored.number == 0
    assert second.stored.values == (0.5, 0.4)
    assert second.stored.attributes["mae"] == 0.3


TWO: dict[str, Any] = SAMPLED | {"sigma": (0.1, 0.2), "bias": (1.0,), "k": (1,), "n_trials": 40}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_workers_at_the_same_time_run_different_settings(sampler: str, store: Store) -> None:
    """As long as the sampler finds one that nobody else runs."""
    study = stand_in_study(store, **(TWO | {"sampler": sampler}), seed=3)
    for _ in range(10):
        first, second = Claims(study, PATIENT), Claims(study, PATIENT)
        one, two = claim(first), claim(second)
        assert one.stored is not None or one.setting != two.setting or two.waits
        for claims, claimed in ((first, one), (second, two)):
            if not claimed.waits:
                complete(claims, claimed)
            claims.release()


def measuring_and_waiting(store: Store, **search: Any) -> tuple[Claims, ClaimedTrial, Claims]:
    """A worker that measures the only setting, its trial, and a worker that waits for it."""
    study = stand_in_study(store, **(TWO | {"sigma": (0.1,)} | search))
    first, second = Claims(study, PATIENT), Claims(study, PATIENT)
    return first, claim(first), second


def test_a_trial_waits_for_another_of_its_setting_and_copies_it(store: Store) -> None:
    first, measuring, second = measuring_and_waiting(store)
    waiting = claim(second)
    assert waiting.waits
    assert second.look_again(waiting) == waiting
    complete(first, measuring, mae=0.3)
    ready = second.look_again(waiting)
    assert ready is not None
    assert ready.stored is not None
    assert (ready.stored.number, ready.stored.values) == (measuring.number, (0.5, 0.4))
    assert ready.stored.attributes["mae"] == 0.3


def test_of_those_that_wait_one_measures_if_the_other_fails(store: Store) -> None:
    first, measuring, second = measuring_and_waiting(store)
    third = Claims(second.study, PATIENT)
    waiting, also_waiting = claim(second), claim(third)
    first.fail(measuring, "out of memory")
    ready = third.look_again(also_waiting)
    assert ready is not None
    assert (ready.waits, ready.stored) == (False, None)
    assert second.look_again(waiting) == waiting
    # A claim whose answer got lost is not in its own way.
    assert claim(third) == ready
    complete(third, ready)
    last = second.look_again(waiting)
    assert last is not None
    assert last.stored is not None


def test_who_waits_gives_up_a_silent_worker_and_measures(store: Store) -> None:
    first, measuring, second = measuring_and_waiting(store)
    waiting = claim(second)
    age(first.study, seconds=1000)
    second.beat(waiting.trial_id)
    ready = second.look_again(waiting)
    assert ready is not None
    assert (ready.waits, ready.stored) == (False, None)
    assert not complete(first, measuring)
    assert complete(second, ready)
    assert states(first.study) == {"FAIL": 1, "COMPLETE": 1}


def test_a_trial_given_up_while_it_waits(store: Store) -> None:
    first, measuring, second = measuring_and_waiting(store)
    waiting = claim(second)
    age(first.study, seconds=1000)
    first.beat(measuring.trial_id)
    assert second.look_again(waiting) is None
    assert states(first.study) == {"FAIL": 1, "RUNNING": 1}


def test_an_enqueued_setting_that_another_worker_runs_is_waited_for(store: Store) -> None:
    first, measuring, second = measuring_and_waiting(store, sigma=(0.1, 0.2))
    first.study.optuna_study().enqueue_trial(measuring.setting.model_dump())
    waiting = claim(second)
    assert (waiting.setting, waiting.waits) == (measuring.setting, True)


def test_an_enqueued_trial_may_carry_attributes_of_ours(store: Store) -> None:
    """As a copy of an old trial does, attributes and all."""
    study = stand_in_study(store, **SAMPLED)
    params = {"sigma": 0.25, "bias": 1.0, "k": 1}
    old = {"worker": "elsewhere:1", "source": "measured", "mae": 7.0}
    study.optuna_study().enqueue_trial(params, user_attrs=old)
    claims = Claims(study)
    complete(claims, claim(claims), mae=0.5)
    (trial,) = trials_of(study)
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs["worker"] == claims.claimant.name
    assert trial.user_attrs["mae"] == 0.5


@pytest.mark.parametrize(
    "sampler",
    [("tpe", TPESampler), ("gp", GPSampler), ("nsga2", NSGAIISampler), ("random", RandomSampler)],
)
def test_a_trial_given_up_while_its_sampler_thinks(
    sampler: tuple[str, type[BaseSampler]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, kind = sampler
    study = stand_in_study(store, sampler=name, n_trials=6)
    slow, other = Claims(study, PATIENT), Claims(study, HASTY)
    taken: list[ClaimedTrial] = []
    original = kind.sample_relative

    def sample_relative(self: BaseSampler, *arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(kind, "sample_relative", original)
        taken.append(claim(other))
        return original(self, *arguments)

    monkeypatch.setattr(kind, "sample_relative", sample_relative)
    assert claim(slow).number == 2
    assert taken[0].number == 1
    assert states(study) == {"FAIL": 1, "RUNNING": 2}


def test_a_parameter_that_the_study_does_not_know(store: Store) -> None:
    """Stored by another program: no such trial can be run, and the work goes on."""
    study = stand_in_study(store, **SAMPLED)
    strange = FloatDistribution(0.0, 1.0)
    foreign = create_trial(
        state=TrialState.WAITING, params={"width": 0.5}, distributions={"width": strange}
    )
    study.optuna_study().add_trial(foreign)
    assert claim(Claims(study)).number == 1
    assert trials_of(study)[0].state is TrialState.FAIL


def test_an_imported_measurement_is_not_repeated(store: Store) -> None:
    study = stand_in_study(store, **(SAMPLED | {"sigma": (0.1,), "bias": (1.0,), "k": (1,)}))
    claims = Claims(study)
    complete(claims, claim(claims), source="imported")
    assert claim(claims).stored is None


def test_the_rest_of_an_enqueued_trial_is_sampled(store: Store) -> None:
    study = stand_in_study(store, **SAMPLED)
    study.optuna_study().enqueue_trial({"sigma": 0.25})
    claimed = claim(Claims(study))
    assert claimed.setting.sigma == 0.25
    assert trials_of(study)[0].params == claimed.setting.model_dump()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_the_seed_makes_choices_repeatable(
    sampler: str, tmp_path: Path, opened: Callable[..., Store]
) -> None:
    store = opened(f"sqlite:///{tmp_path}/store.db")

    def choices(name: str, seed: int) -> list[str]:
        few = {"n_trials": 8, "options": {"n_startup_trials": 5}} if sampler == "gp" else {}
        search = {"n_trials": 20, "sampler": sampler, "seed": seed, **few}
        study = stand_in_study(store, name=name, **search)
        claims = Claims(study)
        settings = []
        while isinstance(claimed := claims.claim(), ClaimedTrial):
            settings.append(str(claimed.setting))
            claims.finish(claimed, (claimed.setting.sigma, 0.4), {"source": "measured"})
        return settings

    first = choices("a", 0)
    assert len(first) == (8 if sampler == "gp" else 20)
    assert choices("b", 0) == first
    assert choices("c", 1) != first
