"""What is left to do in a study, by the states of its trials alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection

from spec_opt.config import SearchConfig, Setting
from spec_opt.tuning import ledger, records
from spec_opt.tuning.ledger import NewTrial
from spec_opt.tuning.records import Row
from spec_opt.tuning.space import distributions, grid_points, params_of

MAX_DEATHS = 10
"""How many workers may die over one setting before it is given up.

Far more than `search.max_attempts`: a worker mostly dies for reasons that are not its setting's
(a preempted machine, a kill), and only then is the setting at fault (out of memory, a crash).
"""

Key = tuple[float, float, float]
"""A setting as the store holds it: sigma, bias, k (an index where the space is categorical)."""


@dataclass(frozen=True)
class Outlook:
    """What is left to do in a study."""

    trials: int
    """In the store, in whatever state."""
    waiting: int
    running: int
    remaining: int
    """Trials that may still be started beside the waiting ones (none for a grid)."""

    @property
    def is_done(self) -> bool:
        return not (self.waiting or self.running or self.remaining)


def reconcile(
    connection: Connection,
    study_id: int,
    search: SearchConfig,
    now: ColumnElement[datetime],
    grace: float | None,
) -> Outlook:
    """Give up trials silent for `grace` seconds (None: leave them) and enqueue what is missing.

    Both in the caller's transaction, so that nothing is lost if this process dies in between. A
    grid point is missing if it neither waits, runs, is complete, nor was given up.
    """
    ledger.lock_study(connection, study_id)
    if grace is not None:
        ledger.fail_stale(connection, study_id, now, grace)
    rows = records.history(connection, study_id)
    states = Counter(row.state for row in rows)
    settled = settled_keys(rows, search.max_attempts)
    missing = [
        NewTrial(params_of(point), {"grid_point": index})
        for index, point in enumerate(grid_points(search))
        if key_of(point) not in settled
    ]
    ledger.add_trials(connection, study_id, missing, distributions(search), TrialState.WAITING)
    return Outlook(
        trials=len(rows) + len(missing),
        waiting=states[TrialState.WAITING] + len(missing),
        running=states[TrialState.RUNNING],
        remaining=0 if search.n_trials is None else max(0, search.n_trials - spent(rows)),
    )


def settled_keys(rows: Sequence[Row], max_attempts: int) -> set[Key]:
    """Settings that need no trial: one waits, runs or is complete, or they were given up."""
    return {key for key in map(row_key, rows) if key is not None} - _open_keys(rows, max_attempts)


def _open_keys(rows: Sequence[Row], max_attempts: int) -> set[Key]:
    """Settings with failed trials only, and attempts left."""
    active = {row_key(row) for row in rows if is_active(row)}
    faults = Counter(row_key(row) for row in rows if row.failure == records.FAILED_BY_ITSELF)
    deaths = Counter(row_key(row) for row in rows if _is_death(row))
    return {
        key
        for key in map(row_key, rows)
        if key is not None
        and key not in active
        and faults[key] < max_attempts
        and deaths[key] < MAX_DEATHS
    }


def is_active(row: Row) -> bool:
    """Whether a trial waits, runs, or is complete by a measurement of this study's own."""
    if row.state is TrialState.COMPLETE:
        return row.source != records.IMPORTED
    return row.state in (TrialState.WAITING, TrialState.RUNNING)


def _is_death(row: Row) -> bool:
    """A failure that neither the setting caused nor the user: also those by another client."""
    is_over = row.state in (TrialState.FAIL, TrialState.PRUNED)
    return is_over and row.failure not in (records.FAILED_BY_ITSELF, records.INTERRUPTED)


def spent(rows: Sequence[Row]) -> int:
    """Trials that count against `n_trials`: all but imported, interrupted and orphaned ones."""
    return sum(is_active(row) or row.failure == records.FAILED_BY_ITSELF for row in rows)


def row_key(row: Row) -> Key | None:
    """The setting of a trial; None while it has none (a sampler is choosing)."""
    sigma, bias, k = row.params
    return None if sigma is None or bias is None or k is None else (sigma, bias, k)


def key_of(setting: Setting) -> Key:
    """The setting of a grid as the store holds it."""
    return setting.sigma, setting.bias, float(setting.k)
