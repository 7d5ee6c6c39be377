"""What a study has left to do: trials given up, enqueued, withdrawn; each in a transaction."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from optuna.trial import TrialState
from sqlalchemy import Connection, update

from spec_opt.config.study_file import StudyConfig
from spec_opt.study.ending import Reason, is_on_plateau
from spec_opt.study.reading import count_trials
from spec_opt.study.silence import Patience
from spec_opt.study.space import (
    GridPoint,
    distributions,
    params_of,
    points_of,
    text_of,
    variant_params,
)
from spec_opt.study.store import Store, trial_user_attributes, trials
from spec_opt.study.times import clock
from spec_opt.study.trials import (
    FAILED_BY_ITSELF,
    VARIANT_KEY,
    WITHDRAWN,
    Key,
    NewTrial,
    Trial,
    add_trials,
    failure,
    history,
    lock_study,
    put_attributes,
)

log = logging.getLogger(__name__)

PORTION = 10_000
"""Settings that one transaction enqueues."""
WITHDRAWN_AT_ONCE = 500
"""Trials that one statement ends."""
MAX_DEATHS = 10
"""How many workers may die over one setting before it is given up.

Far more than `search.max_attempts`: a worker mostly dies for reasons that are not its setting's
(a preempted machine, a kill), and only rarely because of it (out of memory, a crash).
"""


@dataclass(frozen=True)
class Outlook:
    """What is left to do in a study."""

    trials: int
    """In the store, in whatever state."""
    waiting: int
    running: int
    remaining: int
    """Trials that may still be started beside the waiting ones (none for a grid)."""
    missing: int
    """Settings of a grid, or trials, that are not complete; on a plateau none."""

    @property
    def is_done(self) -> bool:
        return not (self.waiting or self.running or self.remaining)

    @property
    def end(self) -> Reason:
        """How the study ended, if it is done."""
        return "failed" if self.missing else "complete"


def reconcile(
    connection: Connection, study_id: int, config: StudyConfig, patience: Patience | None
) -> Outlook:
    """Fail the trials that were silent for too long (None: none); enqueue what is missing.

    Of a large grid it enqueues a portion; `enqueue_rest` goes on.

    Both in the caller's transaction, so that nothing is lost if this process dies in between. A
    grid point is missing if it neither waits, runs, is complete, nor was given up.
    """
    lock_study(connection, study_id)
    rows = history(connection, study_id)
    if patience is not None:
        rows = [patience.give_up_silent(connection, row) for row in rows]
    search = config.search
    missing = _missing(rows, config)[:PORTION]
    _enqueue(connection, study_id, config, missing)
    states = Counter(row.state for row in rows)
    has_ended = is_on_plateau(connection, study_id, search, rows)
    asked = 0 if search.n_trials is None or has_ended else search.n_trials
    return Outlook(
        trials=len(rows) + len(missing),
        waiting=states[TrialState.WAITING] + len(missing),
        running=states[TrialState.RUNNING],
        remaining=max(0, asked - spent(rows)),
        missing=0 if has_ended else count_missing(measured_keys(rows), config),
    )


def measured_keys(rows: Sequence[Trial]) -> list[Key]:
    """What this study has measured itself, for each of its complete trials."""
    complete = (row for row in rows if row.state is TrialState.COMPLETE and row.is_active)
    return [key for row in complete if (key := row.key) is not None]


def count_missing(complete: Sequence[Key], config: StudyConfig) -> int:
    """Settings of a grid, or of `n_trials` trials those, that are not `complete`."""
    n_trials = config.search.n_trials
    if n_trials is None:
        return len({key_of(point) for point in points_of(config)} - set(complete))
    return max(0, n_trials - len(complete))


def settled_keys(rows: Sequence[Trial], max_attempts: int) -> set[Key]:
    """Settings that need no trial: one waits, runs or is complete, or they were given up."""
    active = {row.key for row in rows if row.is_active}
    faults = Counter(row.key for row in rows if row.failure == FAILED_BY_ITSELF)
    deaths = Counter(row.key for row in rows if row.is_death)
    given_up = {key for key, count in faults.items() if count >= max_attempts}
    given_up |= {key for key, count in deaths.items() if count >= MAX_DEATHS}
    return {key for key in active | given_up if key is not None}


def spent(rows: Sequence[Trial]) -> int:
    """Trials that count against `n_trials`: all but imported, interrupted and orphaned ones."""
    return sum(row.is_active or row.failure == FAILED_BY_ITSELF for row in rows)


def key_of(point: GridPoint) -> Key:
    """The point of a grid as the store holds it."""
    setting = point.setting
    return setting.sigma, setting.bias, float(setting.k), text_of(point.variant)


def withdraw(connection: Connection, study_id: int, config: StudyConfig) -> int:
    """End the waiting trials of settings that a grid no longer asks for; how many there were.

    What other clients enqueued waits on. The study must be locked.
    """
    if config.search.sampler != "grid":
        return 0
    asked = {key_of(point) for point in points_of(config)}
    waiting = (r for r in history(connection, study_id) if r.state is TrialState.WAITING)
    stale = [row.trial_id for row in waiting if row.key is not None and row.key not in asked]
    for start in range(0, len(stale), WITHDRAWN_AT_ONCE):
        ids = stale[start : start + WITHDRAWN_AT_ONCE]
        end = {"state": TrialState.FAIL, "datetime_complete": clock()}
        connection.execute(update(trials).where(trials.c.trial_id.in_(ids)).values(end))
        about = failure(WITHDRAWN, "the study file does not ask for this setting any more")
        put_attributes(connection, trial_user_attributes, dict.fromkeys(ids, about))
    return len(stale)


@dataclass(frozen=True)
class _Queue:
    """What is still to be enqueued."""

    missing: Sequence[tuple[int, GridPoint]]
    trials: int
    """In the store when that was found; with others there it is to be found again."""


def enqueue_rest(store: Store, study_id: int, config: StudyConfig) -> None:
    """Enqueue what a large grid lacks, portion after portion, so that others can work meanwhile."""
    queue = _Queue((), -1)
    while True:
        portion = partial(_enqueue_portion, study_id=study_id, config=config, queue=queue)
        queue = store.transaction(portion)
        if not queue.missing:
            return
        log.info("%s settings enqueued, %s to go", f"{queue.trials:,}", f"{len(queue.missing):,}")


def _enqueue_portion(
    connection: Connection, study_id: int, config: StudyConfig, queue: _Queue
) -> _Queue:
    lock_study(connection, study_id)
    count = count_trials(connection, study_id)
    known = count == queue.trials
    missing = queue.missing if known else _missing(history(connection, study_id), config)
    _enqueue(connection, study_id, config, missing[:PORTION])
    return _Queue(missing[PORTION:], count + len(missing[:PORTION]))


def _missing(rows: Sequence[Trial], config: StudyConfig) -> list[tuple[int, GridPoint]]:
    """The points of a grid that need a trial, with their places in the grid."""
    settled = settled_keys(rows, config.search.max_attempts)
    points = enumerate(points_of(config))
    return [(index, point) for index, point in points if key_of(point) not in settled]


def _enqueue(
    connection: Connection,
    study_id: int,
    config: StudyConfig,
    missing: Sequence[tuple[int, GridPoint]],
) -> None:
    new = [_trial_of(config, point, index) for index, point in missing]
    spaces = distributions(config.search, config.written)
    add_trials(connection, study_id, new, spaces, TrialState.WAITING)


def _trial_of(config: StudyConfig, point: GridPoint, index: int) -> NewTrial:
    variant, setting = point
    about = {"grid_point": index} | ({VARIANT_KEY: variant.given} if variant.given else {})
    return NewTrial(params_of(setting) | variant_params(config, variant), about)
