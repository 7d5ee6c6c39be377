"""What happens to trials in the store: each function is the body of one transaction.

They work on Optuna's own tables, so that every Optuna client sees the same study. A call of
Optuna's would be a transaction each; here a claim is one, and so is a result with all it holds.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Table, and_, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from spec_opt.errors import StudyError
from spec_opt.tuning.records import (
    CLAIM_KEY,
    ERROR_KEY,
    FAILURE_KEY,
    WORKER_DIED,
    WORKER_KEY,
    Claimant,
    running,
    signed_by,
)
from spec_opt.tuning.space import PARAMETERS
from spec_opt.tuning.store import (
    FINITE,
    FIXED_PARAMS_KEY,
    studies,
    trial_heartbeats,
    trial_params,
    trial_system_attributes,
    trial_user_attributes,
    trial_values,
    trials,
)


@dataclass(frozen=True)
class NewTrial:
    """A trial to be put into the store."""

    params: Mapping[str, float | int]
    user_attributes: Mapping[str, Any]


def lock_study(connection: Connection, study_id: int) -> None:
    """Keep out every other transaction that locks this study, until this one ends.

    Raises:
        StudyError: somebody deleted the study.
    """
    query = select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update()
    if connection.execute(query).first() is None:
        raise StudyError(f"the study (id {study_id}) is no longer in the store: it was deleted")


def add_trials(
    connection: Connection,
    study_id: int,
    new: Sequence[NewTrial],
    distributions: Mapping[str, BaseDistribution],
    state: TrialState,
) -> list[int]:
    """Put trials into the store, numbered in order; the study must be locked. Their ids."""
    if not new:
        return []
    count = select(func.count()).select_from(trials).where(trials.c.study_id == study_id)
    first = connection.execute(count).scalar_one()
    started = _utc_now() if state is TrialState.RUNNING else None
    rows = [
        {"study_id": study_id, "number": first + i, "state": state, "datetime_start": started}
        for i in range(len(new))
    ]
    statement = insert(trials).returning(trials.c.trial_id, sort_by_parameter_order=True)
    ids: list[int] = list(connection.execute(statement, rows).scalars())
    pairs = list(zip(ids, new, strict=True))
    if state is TrialState.WAITING:
        # What marks a trial of Optuna's queue.
        queue = [(i, {FIXED_PARAMS_KEY: dict(trial.params)}) for i, trial in pairs]
        _insert(connection, trial_system_attributes, _attribute_rows(queue))
    users = [(trial_id, trial.user_attributes) for trial_id, trial in pairs]
    _insert(connection, trial_user_attributes, _attribute_rows(users))
    params = [row for i, trial in pairs for row in _param_rows(i, trial.params, distributions)]
    _insert(connection, trial_params, params)
    return ids


def set_params(
    connection: Connection,
    trial_id: int,
    params: Mapping[str, float | int],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Store parameters that the trial does not have yet."""
    _insert(connection, trial_params, _param_rows(trial_id, params, distributions))


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _attribute_rows(
    attributes: Iterable[tuple[int, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for trial_id, of_trial in attributes
        for key, value in of_trial.items()
    ]


def _param_rows(
    trial_id: int,
    params: Mapping[str, float | int],
    distributions: Mapping[str, BaseDistribution],
) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]


def next_waiting(
    connection: Connection, study_id: int, sigma: float | None
) -> tuple[int, int] | None:
    """Id and number of the waiting trial to take next, locked; None if nothing waits.

    A worker keeps to the sigma it worked on, of which it has most results at hand already; else it
    takes the sigma that the fewest others work on, and there the oldest trial.
    """
    if sigma is not None:
        found = _oldest_waiting(connection, study_id, sigma)
        if found is not None:
            return found
    busy = dict(_count_by_sigma(connection, study_id, TrialState.RUNNING))
    waiting = _count_by_sigma(connection, study_id, TrialState.WAITING)
    for other, _ in sorted(waiting, key=lambda row: busy.get(row[0], 0)):
        found = _oldest_waiting(connection, study_id, other)
        if found is not None:
            return found
    return None


def _sigma_join() -> Any:
    is_sigma = and_(
        trial_params.c.trial_id == trials.c.trial_id, trial_params.c.param_name == PARAMETERS[0]
    )
    return trials.outerjoin(trial_params, is_sigma)


def _count_by_sigma(
    connection: Connection, study_id: int, state: TrialState
) -> list[tuple[float | None, int]]:
    """Sigma and the number of trials in that state, by the oldest trial."""
    query = (
        select(trial_params.c.param_value, func.count())
        .select_from(_sigma_join())
        .where(trials.c.study_id == study_id, trials.c.state == state)
        .group_by(trial_params.c.param_value)
        .order_by(func.min(trials.c.trial_id))
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def _oldest_waiting(
    connection: Connection, study_id: int, sigma: float | None
) -> tuple[int, int] | None:
    query = (
        select(trials.c.trial_id, trials.c.number)
        .select_from(_sigma_join())
        .where(
            trials.c.study_id == study_id,
            trials.c.state == TrialState.WAITING,
            trial_params.c.param_value.is_(None)
            if sigma is None
            else trial_params.c.param_value == sigma,
        )
        .order_by(trials.c.trial_id)
        .limit(1)
        # On Postgres, workers pass over what another one is just taking.
        .with_for_update(of=trials, skip_locked=True)
    )
    found = connection.execute(query).first()
    return None if found is None else (found[0], found[1])


def take(
    connection: Connection, trial_id: int, claimant: Claimant, now: ColumnElement[datetime]
) -> None:
    """Make a waiting trial, locked by `next_waiting`, the claimant's running one."""
    connection.execute(
        update(trials)
        .where(trials.c.trial_id == trial_id)
        .values(state=TrialState.RUNNING, datetime_start=_utc_now())
    )
    sign(connection, trial_id, claimant, now)


def sign(
    connection: Connection, trial_id: int, claimant: Claimant, now: ColumnElement[datetime]
) -> None:
    """The claimant's name, token and first heartbeat on a trial that begins."""
    _put(connection, trial_system_attributes, trial_id, {CLAIM_KEY: claimant.token})
    _put(connection, trial_user_attributes, trial_id, {WORKER_KEY: claimant.name})
    connection.execute(insert(trial_heartbeats).values(trial_id=trial_id, heartbeat=now))


def beat(connection: Connection, trial_id: int, now: ColumnElement[datetime]) -> bool:
    """Renew the heartbeat of a running trial; False if it is running no longer."""
    running = exists().where(trials.c.trial_id == trial_id, trials.c.state == TrialState.RUNNING)
    result = connection.execute(
        update(trial_heartbeats)
        .where(trial_heartbeats.c.trial_id == trial_id, running)
        .values(heartbeat=now)
    )
    return result.rowcount > 0


def finish(
    connection: Connection,
    trial_id: int,
    claimant: Claimant,
    state: TrialState,
    values: Sequence[float],
    attributes: Mapping[str, Any],
) -> bool:
    """Give a trial its end, if it is still running and the claimant's; False if it is not.

    A trial that was given up meanwhile keeps the end it was given: the late result is dropped.
    """
    mine = and_(trials.c.trial_id == trial_id, signed_by(claimant))
    result = connection.execute(
        update(trials)
        .where(mine, trials.c.state == TrialState.RUNNING)
        .values(state=state, datetime_complete=_utc_now())
    )
    if result.rowcount == 0:
        # If this transaction was committed once, and only the answer got lost, it holds already.
        done = select(trials.c.trial_id).where(mine, trials.c.state == state)
        return state is TrialState.COMPLETE and connection.execute(done).first() is not None
    _end(connection, trial_id, values, attributes)
    return True


def _end(
    connection: Connection, trial_id: int, values: Sequence[float], attributes: Mapping[str, Any]
) -> None:
    rows = [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": FINITE}
        for i, value in enumerate(values)
    ]
    _insert(connection, trial_values, rows)
    _put(connection, trial_user_attributes, trial_id, attributes)


def _put(
    connection: Connection, table: Table, trial_id: int, attributes: Mapping[str, Any]
) -> None:
    """Attributes in place of those of the same name: who enqueued a trial may have given it any."""
    if not attributes:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    put = statement.on_conflict_do_update(
        index_elements=["trial_id", "key"], set_={"value_json": statement.excluded.value_json}
    )
    connection.execute(put, _attribute_rows([(trial_id, attributes)]))


def fail_stale(
    connection: Connection, study_id: int, now: ColumnElement[datetime], grace: float
) -> int:
    """Fail the running trials without a sign of life for `grace` seconds; how many they were."""
    failed = 0
    for row in running(connection, study_id, now):
        if row.silent_seconds <= grace:
            continue
        result = connection.execute(
            update(trials)
            .where(trials.c.trial_id == row.trial_id, trials.c.state == TrialState.RUNNING)
            .values(state=TrialState.FAIL, datetime_complete=_utc_now())
        )
        if result.rowcount:
            reason = f"worker {row.worker} gave no sign of life for {row.silent_seconds:.0f} s"
            _end(connection, row.trial_id, (), {FAILURE_KEY: WORKER_DIED, ERROR_KEY: reason})
            failed += 1
    return failed


def _utc_now() -> datetime:
    """Optuna keeps the times of a trial as naive UTC, by the clock of the worker."""
    return datetime.now(UTC).replace(tzinfo=None)
