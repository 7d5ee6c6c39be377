"""How far a study is, and who works on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from optuna.trial import TrialState
from sqlalchemy import Connection

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.study.agenda import count_missing, key_of, measured_keys, settled_keys, spent
from spec_opt.study.claims import Heartbeat
from spec_opt.study.ending import Ending, Reason, stored_ending
from spec_opt.study.silence import Watch, seconds_ahead
from spec_opt.study.space import GridPoint, distributions, point_count, points_of, setting_of
from spec_opt.study.study import Study
from spec_opt.study.times import clock
from spec_opt.study.trials import INTERRUPTED, WITHDRAWN, Trial, history

RATE_TRIALS = 20
RATE_SECONDS = 900.0
"""The rate is that of the last trials, at most so many and so old: it forgets earlier runs."""


@dataclass(frozen=True)
class States:
    """Trials by state."""

    complete: int
    running: int
    waiting: int
    fail: int
    withdrawn: int = 0
    """Never begun: the study file stopped asking for their settings."""


@dataclass(frozen=True)
class WorkerStatus:
    """Who holds a running trial: a worker, or another client of Optuna."""

    host: str
    pid: int | None
    """None of another client, which does not say what it is."""
    trial: int
    """The trial's number."""
    setting: Setting | None
    silent_seconds: float
    """Since its last sign of life."""
    alive: bool
    """Whether that is within the grace period."""
    clock_ahead_seconds: float
    """By how much its clock is ahead of that of this process; whether it lives is then known only
    to whoever looks again."""


@dataclass(frozen=True)
class GivenUp:
    """A setting that is not tried again."""

    setting: Setting
    attempts: int
    error: str
    """Why the last attempt failed."""
    variant: Variant = AS_WRITTEN

    @property
    def label(self) -> str:
        """The setting, and the variant if that is not the study file as written."""
        return f"{self.setting} {self.variant}".rstrip()


@dataclass(frozen=True)
class StudyProgress:
    """A study at one moment."""

    name: str
    states: States
    total: int
    """Trials that the study is to have: grid points, or n_trials."""
    missing: int
    """Of those, the ones that are not complete."""
    distinct: int
    """Different settings (of different variants) among the complete trials."""
    settings: int | None
    """Of those, how many the space holds; None if a parameter is continuous."""
    given_up: tuple[GivenUp, ...]
    workers: tuple[WorkerStatus, ...]
    trials_per_minute: float | None
    """Of late; None before two trials are complete."""
    seconds_left: float | None
    """At that rate; None without a rate, or if nobody works."""

    left: int
    """Trials still to end: those missing, less what was given up."""
    last_error: str | None
    """Why the last trial that failed did."""
    ended: Reason | None
    """Why nobody works on it any more; None while somebody does, or where nobody began."""
    ending: str | None
    """The same in words."""

    @property
    def is_done(self) -> bool:
        """Whether a worker would find nothing to do."""
        return self.left == 0 and self.states.running == 0 and self.states.waiting == 0


def progress(
    study: Study,
    heartbeat: Heartbeat | None = None,
    asked: SearchConfig | None = None,
    watch: Watch | None = None,
    rows: Sequence[Trial] | None = None,
) -> StudyProgress:
    """Look at the study; nothing is written.

    Args:
        study: as it is in the store.
        heartbeat: how workers show that they live.
        asked: what it is counted against; by default what it was last run with.
        watch: of whoever looks again and again.
        rows: its trials, where they were read just now.

    Raises:
        StoreError: the store cannot be reached.
    """
    rows, stored = study.store.read(partial(_read, study_id=study.study_id, rows=rows))
    search = asked or study.config.search
    config = study.config.model_copy(update={"search": search})
    states = _states(rows)
    complete = [row for row in rows if row.state is TrialState.COMPLETE]
    counted = measured_keys(rows)
    measured = set(counted)
    points = points_of(config)
    given_up = _given_up(rows, points, search.max_attempts)
    missing = count_missing(counted, config)
    busy = states.running + states.waiting
    if search.n_trials is None:
        keys = {key_of(point) for point in points}
        measured &= keys
        total, left = len(keys), missing - len(given_up)
    elif stored is not None and stored.is_plateau_of(search):
        total, missing, left = len(counted) + busy, busy, busy
    else:
        total, left = search.n_trials, max(0, search.n_trials - spent(rows)) + busy
    ending = _ending(stored, search, left=left + busy, missing=missing, running=states.running)
    rate = _rate(complete)
    workers = _workers(study, rows, (heartbeat or Heartbeat()).grace, watch or Watch())
    return StudyProgress(
        name=study.name,
        states=states,
        total=total,
        missing=missing,
        distinct=len(measured),
        settings=point_count(config),
        given_up=given_up,
        workers=workers,
        trials_per_minute=None if rate is None else 60.0 * rate,
        seconds_left=left / rate if rate and any(w.alive and w.pid for w in workers) else None,
        left=left,
        last_error=next((row.error for row in reversed(rows) if _is_failed(row)), None),
        ended=None if ending is None else ending.reason,
        ending=None if ending is None else str(ending),
    )


def _states(rows: Sequence[Trial]) -> States:
    """Trials by state; those that were withdrawn are no failures."""
    states = Counter(row.state for row in rows)
    withdrawn = sum(row.failure == WITHDRAWN for row in rows)
    return States(
        complete=states[TrialState.COMPLETE],
        running=states[TrialState.RUNNING],
        waiting=states[TrialState.WAITING],
        fail=states[TrialState.FAIL] + states[TrialState.PRUNED] - withdrawn,
        withdrawn=withdrawn,
    )


def _is_failed(row: Trial) -> bool:
    return row.error is not None and row.failure != WITHDRAWN


def _read(
    connection: Connection, study_id: int, rows: Sequence[Trial] | None
) -> tuple[Sequence[Trial], Ending | None]:
    found = history(connection, study_id) if rows is None else rows
    return found, stored_ending(connection, study_id)


def _ending(
    stored: Ending | None, search: SearchConfig, *, left: int, missing: int, running: int
) -> Ending | None:
    """What is stored if it still holds: trials may have been added, or asked for, since."""
    if not left:
        if stored is not None and stored.is_plateau_of(search):
            return stored
        return Ending("failed" if missing else "complete")
    return stored if stored is not None and stored.is_passing and not running else None


def _given_up(
    rows: Sequence[Trial], points: Sequence[GridPoint], max_attempts: int
) -> tuple[GivenUp, ...]:
    """The points of a grid that are not tried again."""
    if not points:
        return ()
    settled = settled_keys(rows, max_attempts) - {row.key for row in rows if row.is_active}
    found = []
    for point in points:
        if (key := key_of(point)) in settled:
            tries = [row for row in rows if row.key == key and not row.is_active]
            counted = [row for row in tries if row.failure not in (INTERRUPTED, WITHDRAWN)]
            why = counted[-1].error or ""
            found.append(GivenUp(point.setting, len(counted), why, point.variant))
    return tuple(found)


def _workers(
    study: Study, rows: Sequence[Trial], grace: float, watch: Watch
) -> tuple[WorkerStatus, ...]:
    spaces = distributions(study.config.search, study.config.written)
    found = []
    for row in rows:
        if row.state is not TrialState.RUNNING:
            continue
        name = row.worker or "unknown"
        host, _, pid = name.rpartition(":")
        silent_seconds = watch.silent_seconds(row)
        known = {name: spaces[name].to_external_repr(v) for name, v in row.params.items()}
        found.append(
            WorkerStatus(
                host=host or name,
                pid=int(pid) if pid.isdigit() else None,
                trial=row.number,
                setting=None if row.key is None else setting_of(known),
                silent_seconds=silent_seconds,
                alive=silent_seconds <= grace,
                clock_ahead_seconds=seconds_ahead(row),
            )
        )
    return tuple(found)


def _rate(complete: Sequence[Trial]) -> float | None:
    """Trials per second, of late."""
    newest = clock()
    oldest = newest - timedelta(seconds=RATE_SECONDS)
    # Other clients, which name no worker, may add trials that took no time.
    ended = (row.ended for row in complete if row.ended is not None and row.worker is not None)
    ends = sorted(end for end in ended if oldest <= end <= newest)[-RATE_TRIALS:]
    if len(ends) < 2 or ends[0] == ends[-1]:
        return None
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()
