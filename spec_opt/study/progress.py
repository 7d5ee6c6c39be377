"""How far a study is, and who works on it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.study import trials
from spec_opt.study.claims import Heartbeat
from spec_opt.study.space import PARAMETERS, distributions, grid_points, setting_count, setting_of
from spec_opt.study.store import trials as rows
from spec_opt.study.study import Study
from spec_opt.study.trials import (
    Key,
    Row,
    RunningRow,
    is_active,
    key_of,
    row_key,
    settled_keys,
    spent,
)

NOT_KNOWN_YET = (None,) * len(PARAMETERS)
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


@dataclass(frozen=True)
class GivenUp:
    """A setting that is not tried again."""

    setting: Setting
    attempts: int
    error: str
    """Why the last attempt failed."""


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
    """Different settings among the complete trials."""
    settings: int | None
    """Settings in the space; None if a parameter is continuous."""
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

    @property
    def is_done(self) -> bool:
        """Whether a worker would find nothing to do."""
        return self.left == 0 and self.states.running == 0 and self.states.waiting == 0


def progress(
    study: Study, heartbeat: Heartbeat | None = None, asked: SearchConfig | None = None
) -> StudyProgress:
    """Look at the study; nothing is written.

    Args:
        study: as it is in the store.
        heartbeat: how workers show that they live.
        asked: what it is counted against; by default what it was last run with.

    Raises:
        StoreError: the store cannot be reached.
    """
    look = study.store.read(lambda connection: _look(connection, study))
    search = asked or study.config.search
    states = Counter(row.state for row in look.rows)
    complete = [row for row in look.rows if row.state is TrialState.COMPLETE]
    measured = {row_key(row) for row in complete if is_active(row)} - {None}
    given_up: tuple[GivenUp, ...] = ()
    if search.n_trials is None:
        points = {key_of(point): point for point in grid_points(search)}
        measured &= points.keys()
        total, missing = len(points), len(points.keys() - measured)
        given_up = _given_up(look, points, search.max_attempts)
        left = missing - len(given_up)
    else:
        busy = states[TrialState.RUNNING] + states[TrialState.WAITING]
        counted = sum(is_active(row) and row_key(row) is not None for row in complete)
        total, missing = search.n_trials, max(0, search.n_trials - counted)
        left = max(0, total - spent(look.rows)) + busy
    rate = _rate(look.ends)
    workers = _workers(study, look, (heartbeat or Heartbeat()).grace)
    return StudyProgress(
        name=study.name,
        states=States(
            complete=len(complete),
            running=states[TrialState.RUNNING],
            waiting=states[TrialState.WAITING],
            fail=states[TrialState.FAIL] + states[TrialState.PRUNED],
        ),
        total=total,
        missing=missing,
        distinct=len(measured),
        settings=setting_count(search),
        given_up=given_up,
        workers=workers,
        trials_per_minute=None if rate is None else 60.0 * rate,
        seconds_left=left / rate if rate and any(w.alive and w.pid for w in workers) else None,
        left=left,
        last_error=look.errors[max(look.errors)] if look.errors else None,
    )


@dataclass(frozen=True)
class _Look:
    """What the store holds at one moment."""

    rows: list[Row]
    running: list[RunningRow]
    ends: list[datetime]
    """When the last trials were completed, newest first."""
    errors: dict[int, str]
    """Why trials failed, by trial id."""


def _look(connection: Connection, study: Study) -> _Look:
    ended = (
        select(rows.c.datetime_complete)
        .where(rows.c.study_id == study.study_id, rows.c.state == TrialState.COMPLETE)
        .where(trials.has_worker())  # other clients may add trials that took no time
        .order_by(rows.c.datetime_complete.desc())
        .limit(RATE_TRIALS)
    )
    return _Look(
        rows=trials.history(connection, study.study_id),
        running=trials.running(connection, study.study_id, study.store.now()),
        ends=[end for end in connection.execute(ended).scalars() if end is not None],
        errors=trials.errors(connection, study.study_id),
    )


def _given_up(look: _Look, points: Mapping[Key, Setting], attempts: int) -> tuple[GivenUp, ...]:
    active = {row_key(row) for row in look.rows if is_active(row)}
    tries: dict[Key, list[Row]] = defaultdict(list)
    for row in look.rows:
        key = row_key(row)
        if key is not None and not is_active(row) and row.failure != trials.INTERRUPTED:
            tries[key].append(row)
    given_up = settled_keys(look.rows, attempts) - active
    return tuple(
        GivenUp(points[key], len(tries[key]), look.errors.get(tries[key][-1].trial_id, ""))
        for key in points
        if key in given_up
    )


def _workers(study: Study, look: _Look, grace: float) -> tuple[WorkerStatus, ...]:
    spaces = distributions(study.config.search)
    params = {row.trial_id: row.params for row in look.rows}
    found = []
    for row in look.running:
        host, _, pid = (row.worker or "unknown").rpartition(":")
        # On Postgres each query sees the store as it is then: the trial may be younger than `rows`.
        stored = zip(PARAMETERS, params.get(row.trial_id, NOT_KNOWN_YET), strict=True)
        known = {name: spaces[name].to_external_repr(v) for name, v in stored if v is not None}
        found.append(
            WorkerStatus(
                host=host or (row.worker or "unknown"),
                pid=int(pid) if pid.isdigit() else None,
                trial=row.number,
                setting=setting_of(known) if len(known) == len(PARAMETERS) else None,
                silent_seconds=row.silent_seconds,
                alive=row.silent_seconds <= grace,
            )
        )
    return tuple(found)


def _rate(ends: Sequence[datetime]) -> float | None:
    """Trials per second, of late."""
    oldest = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=RATE_SECONDS)
    late = [end for end in ends if end >= oldest]
    if len(late) < 2 or late[0] <= late[-1]:
        return None
    return (len(late) - 1) / (late[0] - late[-1]).total_seconds()
