"""How long a running trial has been silent: the one place where the age of a heartbeat is judged.

A heartbeat is a time by the clock that the workers share: the database server's, or with SQLite
the host's. Such a clock may jump, and processes on one host may see different ones (containers,
a clock set by hand). So whoever looks repeatedly also measures by its own monotonic clock how long
a heartbeat has not changed, and relies on that alone where the clocks disagree.
"""

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from optuna.trial import TrialState
from sqlalchemy import Connection

from spec_opt.study.trials import Trial, give_up

DRIFT_S = 5.0
"""The shared clock has jumped if it and our own differ by more than this since the first look."""


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
