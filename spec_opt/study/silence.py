"""Signs of life of running trials, in Optuna's own table, and how long a trial has been silent.

A heartbeat is a time by the clock that the workers share: the database server's, or with SQLite
the host's. Such a clock may jump, and processes on one host may see different ones (containers,
a clock set by hand). So whoever looks repeatedly also measures by its own monotonic clock how long
a heartbeat has not changed, and relies on that alone where the clocks disagree.
"""

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from optuna.trial import TrialState
from sqlalchemy import Connection, exists, func, select, update

from spec_opt.study.database import utc_now
from spec_opt.study.store import trial_heartbeats, trials
from spec_opt.study.trials import Trial, give_up

DRIFT_S = 5.0
"""The shared clock has jumped if it and our own differ by more than this since the first look."""
RECENT = 1000
"""A new heartbeat follows those of so many trials, the ones that began last."""
_beats = trial_heartbeats.c
_recent = select(_beats.heartbeat).order_by(_beats.trial_heartbeat_id.desc()).limit(RECENT)
# Built once, as it is asked for all the time.
_LAST = select(utc_now(), func.max(_recent.subquery().c.heartbeat))


def next_beat(connection: Connection) -> datetime:
    """Now, but after every heartbeat before: one of a clock that is behind must not look old."""
    now: datetime
    last: datetime | None
    now, last = connection.execute(_LAST).one()
    return now if last is None else max(now, last + timedelta(milliseconds=1))


def beat(connection: Connection, trial_id: int) -> bool:
    """Renew the heartbeat of a running trial; False if it is running no longer."""
    running = exists().where(trials.c.trial_id == trial_id, trials.c.state == TrialState.RUNNING)
    mine = _beats.trial_id == trial_id
    renew = update(trial_heartbeats).where(mine, running).values(heartbeat=next_beat(connection))
    return connection.execute(renew).rowcount > 0


@dataclass
class _Seen:
    """What was seen of one trial."""

    heartbeat: datetime | None
    since: float
    """When this heartbeat was first seen, by our own clock."""
    moved: bool = False
    """Whether it was seen to be renewed."""


@dataclass
class Watch:
    """One reader's looks at the heartbeats of others."""

    _seen: dict[int, _Seen] = field(default_factory=dict)
    _offset: float | None = None
    """The shared clock less our own, at the first look."""
    _jumped: bool = False

    def silent_seconds(self, trial: Trial) -> float:
        """Seconds since the last sign of life of a running trial; never negative.

        Infinite for a trial of another program that has neither a heartbeat nor a start.
        """
        now = time.monotonic()
        self._compare_clocks(trial, now)
        heartbeat = trial.last_sign
        seen = self._seen.setdefault(trial.trial_id, _Seen(heartbeat, now))
        if heartbeat is None or trial.now is None:
            return math.inf
        if seen.heartbeat is None or heartbeat > seen.heartbeat:
            seen = self._seen[trial.trial_id] = _Seen(heartbeat, now, moved=True)
        watched = now - seen.since
        age = (trial.now - heartbeat).total_seconds()
        clocks_disagree = self._jumped or seen.moved or age < 0.0
        return watched if clocks_disagree else max(age, watched)

    def _compare_clocks(self, trial: Trial, now: float) -> None:
        if trial.now is None:
            return
        offset = trial.now.replace(tzinfo=UTC).timestamp() - now
        if self._offset is None:
            self._offset = offset
        self._jumped = self._jumped or abs(offset - self._offset) > DRIFT_S


def seconds_ahead(trial: Trial) -> float:
    """By how much the clock of a trial's worker is ahead of ours, as far as its heartbeat shows."""
    if trial.last_sign is None or trial.now is None:
        return 0.0
    ahead = (trial.last_sign - trial.now).total_seconds()
    return ahead if ahead > DRIFT_S else 0.0


@dataclass(frozen=True)
class Patience:
    """When a silent trial is given up."""

    watch: Watch
    grace: float
    """Seconds of silence."""

    def give_up_silent(self, connection: Connection, trial: Trial) -> Trial:
        """The trial as it is now: failed, if it was running and silent for too long."""
        if trial.state is not TrialState.RUNNING:
            return trial
        silent_seconds = self.watch.silent_seconds(trial)
        return trial if silent_seconds <= self.grace else give_up(connection, trial, silent_seconds)
