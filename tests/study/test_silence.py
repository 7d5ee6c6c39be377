"""Clocks that disagree: dead workers are given up all the same, and living ones are not."""

from datetime import UTC, datetime, timedelta

import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, func, select, update

from spec_opt.cli.live import _holder
from spec_opt.study import silence
from spec_opt.study.claims import Claims, Heartbeat, Idle
from spec_opt.study.progress import progress
from spec_opt.study.silence import Watch
from spec_opt.study.store import Store, trial_heartbeats, trials
from spec_opt.study.study import Study
from spec_opt.study.trials import Trial
from tests.study.stand_in import stand_in_study
from tests.study.test_claims import ONE, SMALL, claim, complete, states

DAY = timedelta(days=1)
NOON = datetime(2026, 1, 1, 12)


class Clock:
    """Our own clock, which the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(silence, "time", made)
    return made


def beats(study: Study, change: timedelta) -> None:
    """Move the heartbeats of all trials, as if their workers had another clock."""

    def work(connection: Connection) -> None:
        column = trial_heartbeats.c.heartbeat
        moved = [(last, last + change) for (last,) in connection.execute(select(column))]
        for last, new in moved:
            connection.execute(update(trial_heartbeats).where(column == last).values(heartbeat=new))

    study.store.transaction(work)


def seen(last_sign: datetime, now: datetime, trial_id: int = 1) -> Trial:
    return Trial(trial_id, 0, TrialState.RUNNING, {}, last_sign=last_sign, now=now)


def test_a_worker_that_died_under_a_clock_a_day_ahead_is_given_up(
    store: Store, clock: Clock
) -> None:
    study = stand_in_study(store, **ONE)
    lost = claim(Claims(study))
    beats(study, DAY)
    other = Claims(study, Heartbeat(interval=5, grace=30))
    assert other.claim() is Idle.WAIT
    clock.seconds += 29
    assert other.claim() is Idle.WAIT
    clock.seconds += 2
    assert claim(other).setting == lost.setting


def test_a_living_worker_whose_clock_is_a_day_behind_keeps_its_trial(
    store: Store, clock: Clock
) -> None:
    study = stand_in_study(store, **SMALL)
    busy, other = Claims(study), Claims(study, Heartbeat(interval=5, grace=30))
    complete(other, claim(other))
    beats(study, DAY)  # of the other one: what follows is a day behind
    claimed = claim(busy)
    while (taken := other.claim()) is not Idle.WAIT:
        assert not isinstance(taken, Idle)
        complete(other, taken)
    for _ in range(3):
        clock.seconds += 20
        assert busy.beat(claimed.trial_id)
        assert other.claim() is Idle.WAIT
    assert complete(busy, claimed)
    assert states(study) == {"COMPLETE": 4}


def test_a_heartbeat_follows_all_others(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    ahead, behind = Claims(study), Claims(study)
    claim(ahead)
    beats(study, DAY)
    mine = claim(behind)
    signs = store.read(lambda c: c.execute(select(trial_heartbeats.c.heartbeat)).scalars().all())
    assert signs == sorted(set(signs))
    assert behind.beat(mine.trial_id)


def test_silence_is_never_negative() -> None:
    watch = Watch()
    assert watch.silent_seconds(seen(NOON + DAY, NOON)) >= 0.0
    assert watch.silent_seconds(seen(NOON, NOON)) >= 0.0


def test_a_heartbeat_that_is_renewed_counts_from_when_that_was_seen(clock: Clock) -> None:
    watch, second = Watch(), timedelta(seconds=1)
    assert watch.silent_seconds(seen(NOON - DAY, NOON)) == 86400.0
    clock.seconds += 4
    assert watch.silent_seconds(seen(NOON - DAY + second, NOON + 4 * second)) == 0.0
    clock.seconds += 7
    assert watch.silent_seconds(seen(NOON - DAY + second, NOON + 11 * second)) == 7.0


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_after_a_jump_of_the_clock_only_what_was_watched_counts(
    clock: Clock, jump: timedelta
) -> None:
    watch, second = Watch(), timedelta(seconds=1)
    watch.silent_seconds(seen(NOON, NOON))
    clock.seconds += 1
    assert watch.silent_seconds(seen(NOON, NOON + second + jump)) == 1.0
    assert watch.silent_seconds(seen(NOON, NOON + second + jump, trial_id=2)) == 0.0


def test_where_clocks_agree_the_age_of_a_heartbeat_counts_at_once() -> None:
    assert Watch().silent_seconds(seen(NOON - DAY, NOON)) >= 86400.0


def test_status_says_whose_clock_is_ahead(store: Store) -> None:
    study = stand_in_study(store, **ONE)
    claim(Claims(study))
    beats(study, DAY)
    (worker,) = progress(study).workers
    assert worker.silent_seconds == pytest.approx(0.0, abs=1.0)
    assert _holder(worker).endswith("whose clock is 24.0 h ahead")


def test_times_of_a_study_whose_clock_jumped_give_no_odd_rate(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    claims = Claims(study)
    complete(claims, claim(claims))
    complete(claims, claim(claims))
    ahead = datetime.now(UTC).replace(tzinfo=None) + DAY

    def postpone(connection: Connection) -> None:
        last = connection.execute(select(func.max(trials.c.datetime_complete))).scalar_one()
        row = update(trials).where(trials.c.datetime_complete == last)
        connection.execute(row.values(datetime_complete=ahead))

    complete(claims, claim(claims))
    store.transaction(postpone)
    rate = progress(study).trials_per_minute
    assert rate is not None
    assert rate > 1.0
