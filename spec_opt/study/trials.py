"""What stands in the store about trials, read in few statements, within a caller's transaction.

What happens to trials in the store: each function is the body of one transaction.

They work on Optuna's own tables, so that every Optuna client sees the same study. A call of
Optuna's would be a transaction each; here a claim is one, and so is a result with all it holds.

What is left to do in a study, by the states of its trials alone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Table, and_, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.errors import StudyError
from spec_opt.study.space import PARAMETERS, distributions, grid_points, params_of
from spec_opt.study.store import (
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

CLAIM_KEY = "spec_opt:claim"
"""System attribute of a claimed trial: the token of the worker that claimed it."""
LONG = ("blocks", "accepted_by_position", "tested_by_position")
"""Lists of a measurement. They are system attributes: optuna-dashboard writes out each user
attribute in one line, however long. Older versions stored user attributes.
"""
LONG_PREFIX = "spec_opt:"
WORKER_KEY = "worker"
FAILURE_KEY = "failure"
ERROR_KEY = "error"
SOURCE_KEY = "source"

FAILED_BY_ITSELF = "error"
"""`failure` of a trial whose evaluation raised or gave numbers that are not finite."""
WORKER_DIED = "died"
INTERRUPTED = "interrupted"

MEASURED = "measured"
IMPORTED = "imported"
REPEATED = "repeated"
"""Told at once: the study had measured that setting already."""


@dataclass(frozen=True)
class Claimant:
    """A worker process, as it signs a trial."""

    name: str
    """host:pid"""
    token: str
    """Unlike any other process's, now or later."""


@dataclass(frozen=True)
class Row:
    """A trial in brief. Parameters are as stored (an index where the space is categorical)."""

    trial_id: int
    number: int
    state: TrialState
    params: tuple[float | None, float | None, float | None]
    """sigma, bias, k."""
    source: str | None
    failure: str | None


@dataclass(frozen=True)
class RunningRow:
    """A running trial and the last sign of life of its worker."""

    trial_id: int
    number: int
    worker: str | None
    silent_seconds: float
    """Since the last heartbeat, or since its start if it never had one."""


def has_worker() -> ColumnElement[bool]:
    """Whether a worker of ours has held a trial."""
    mine = trial_user_attributes
    return exists().where(mine.c.trial_id == trials.c.trial_id, mine.c.key == WORKER_KEY)


def running(
    connection: Connection, study_id: int, now: ColumnElement[datetime]
) -> list[RunningRow]:
    """The running trials, by number."""
    worker = trial_user_attributes
    query = (
        select(
            trials.c.trial_id,
            trials.c.number,
            trials.c.datetime_start,
            trial_heartbeats.c.heartbeat,
            worker.c.value_json,
            now,
        )
        .select_from(
            trials.outerjoin(
                trial_heartbeats, trial_heartbeats.c.trial_id == trials.c.trial_id
            ).outerjoin(
                worker, and_(worker.c.trial_id == trials.c.trial_id, worker.c.key == WORKER_KEY)
            )
        )
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING)
        .order_by(trials.c.number)
    )
    found = []
    for trial_id, number, start, heartbeat, name, clock in connection.execute(query):
        last = heartbeat or start
        silent = (clock - last) / timedelta(seconds=1) if last else float("inf")
        found.append(RunningRow(trial_id, number, json.loads(name) if name else None, silent))
    return found


def history(connection: Connection, study_id: int) -> list[Row]:
    """Every trial of the study in brief, by number."""
    columns: list[Any] = [trials.c.trial_id, trials.c.number, trials.c.state]
    table: Any = trials
    for name in PARAMETERS:
        param = trial_params.alias(name)
        table = table.outerjoin(
            param, and_(param.c.trial_id == trials.c.trial_id, param.c.param_name == name)
        )
        columns.append(param.c.param_value)
    for key in (SOURCE_KEY, FAILURE_KEY):
        attribute = trial_user_attributes.alias(key)
        table = table.outerjoin(
            attribute, and_(attribute.c.trial_id == trials.c.trial_id, attribute.c.key == key)
        )
        columns.append(attribute.c.value_json)
    query = (
        select(*columns)
        .select_from(table)
        .where(trials.c.study_id == study_id)
        .order_by(trials.c.number)
    )
    return [
        Row(trial_id, number, state, (sigma, bias, k), _loads(source), _loads(failure))
        for trial_id, number, state, sigma, bias, k, source, failure in connection.execute(query)
    ]


def _loads(text: str | None) -> str | None:
    return None if text is None else str(json.loads(text))


def find_measured(
    connection: Connection, study_id: int, params: Mapping[str, float]
) -> tuple[int, int] | None:
    """Id and number of a trial with these parameters (as stored) that was really measured here."""
    source = trial_user_attributes
    conditions: list[ColumnElement[bool]] = [
        exists().where(
            param.c.trial_id == trials.c.trial_id,
            param.c.param_name == name,
            param.c.param_value == value,
        )
        for name, value in params.items()
        for param in (trial_params.alias(),)
    ]
    query = select(trials.c.trial_id, trials.c.number).where(
        trials.c.study_id == study_id,
        trials.c.state == TrialState.COMPLETE,
        *conditions,
        exists().where(
            source.c.trial_id == trials.c.trial_id,
            source.c.key == SOURCE_KEY,
            source.c.value_json == json.dumps(MEASURED),
        ),
    )
    found = connection.execute(query.order_by(trials.c.trial_id).limit(1)).first()
    return None if found is None else (found[0], found[1])


def stored_params_of(connection: Connection, trial_id: int) -> dict[str, float]:
    """A trial's parameters as stored."""
    table = trial_params
    query = select(table.c.param_name, table.c.param_value).where(table.c.trial_id == trial_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def errors(connection: Connection, study_id: int) -> dict[int, str]:
    """Why the trials that failed did, by trial id."""
    error = trial_user_attributes
    query = (
        select(error.c.trial_id, error.c.value_json)
        .join(trials, trials.c.trial_id == error.c.trial_id)
        .where(trials.c.study_id == study_id, error.c.key == ERROR_KEY)
    )
    return {trial_id: str(json.loads(text)) for trial_id, text in connection.execute(query)}


def all_attributes(user: Mapping[str, Any], system: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's user attributes, and the long ones from its system attributes."""
    keys = {name: f"{LONG_PREFIX}{name}" for name in LONG}
    return dict(user) | {name: system[key] for name, key in keys.items() if key in system}


def stored_attributes(connection: Connection, trial_id: int) -> dict[str, Any]:
    """A trial's attributes as `finish` got them."""
    user = _attributes_of(connection, trial_user_attributes, trial_id)
    return all_attributes(user, _attributes_of(connection, trial_system_attributes, trial_id))


def fixed_params_of(connection: Connection, trial_id: int) -> dict[str, Any]:
    """The parameters with which a trial was enqueued."""
    fixed: dict[str, Any] = _attributes_of(connection, trial_system_attributes, trial_id).get(
        FIXED_PARAMS_KEY, {}
    )
    return fixed


def _attributes_of(connection: Connection, table: Table, trial_id: int) -> dict[str, Any]:
    query = select(table.c.key, table.c.value_json).where(table.c.trial_id == trial_id)
    return {key: json.loads(text) for key, text in connection.execute(query)}


def values_of(connection: Connection, trial_id: int) -> list[float]:
    """The values of a finished trial, by objective."""
    query = select(trial_values.c.value).where(trial_values.c.trial_id == trial_id)
    return list(connection.execute(query.order_by(trial_values.c.objective)).scalars())


def held_by(connection: Connection, study_id: int, claimant: Claimant) -> list[tuple[int, int]]:
    """Id and number of the running trials that the claimant signed."""
    query = select(trials.c.trial_id, trials.c.number).where(
        trials.c.study_id == study_id,
        trials.c.state == TrialState.RUNNING,
        signed_by(claimant),
    )
    return [(row[0], row[1]) for row in connection.execute(query.order_by(trials.c.trial_id))]


def signed_by(claimant: Claimant) -> ColumnElement[bool]:
    claim = trial_system_attributes
    return exists().where(
        claim.c.trial_id == trials.c.trial_id,
        claim.c.key == CLAIM_KEY,
        claim.c.value_json == json.dumps(claimant.token),
    )


@dataclass(frozen=True)
class NewTrial:
    """A trial to be put into the store."""

    params: Mapping[str, float | int]
    user_attributes: Mapping[str, Any]
    values: Sequence[float] = ()
    """By objective, if it is complete."""


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
    row = {
        "study_id": study_id,
        "state": state,
        "datetime_start": None if state is TrialState.WAITING else _utc_now(),
        "datetime_complete": _utc_now() if state is TrialState.COMPLETE else None,
    }
    rows = [row | {"number": first + i} for i in range(len(new))]
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
    _insert(
        connection, trial_values, [v for i, trial in pairs for v in _value_rows(i, trial.values)]
    )
    return ids


def _value_rows(trial_id: int, values: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": FINITE}
        for i, value in enumerate(values)
    ]


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
    _insert(connection, trial_values, _value_rows(trial_id, values))
    long = {f"{LONG_PREFIX}{name}": attributes[name] for name in LONG if name in attributes}
    _put(connection, trial_system_attributes, trial_id, long)
    user = {name: value for name, value in attributes.items() if name not in LONG}
    _put(connection, trial_user_attributes, trial_id, user)


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
    lock_study(connection, study_id)
    if grace is not None:
        fail_stale(connection, study_id, now, grace)
    rows = history(connection, study_id)
    states = Counter(row.state for row in rows)
    settled = settled_keys(rows, search.max_attempts)
    missing = [
        NewTrial(params_of(point), {"grid_point": index})
        for index, point in enumerate(grid_points(search))
        if key_of(point) not in settled
    ]
    add_trials(connection, study_id, missing, distributions(search), TrialState.WAITING)
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
    faults = Counter(row_key(row) for row in rows if row.failure == FAILED_BY_ITSELF)
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
        return row.source != IMPORTED
    return row.state in (TrialState.WAITING, TrialState.RUNNING)


def _is_death(row: Row) -> bool:
    """A failure that neither the setting caused nor the user: also those by another client."""
    is_over = row.state in (TrialState.FAIL, TrialState.PRUNED)
    return is_over and row.failure not in (FAILED_BY_ITSELF, INTERRUPTED)


def spent(rows: Sequence[Row]) -> int:
    """Trials that count against `n_trials`: all but imported, interrupted and orphaned ones."""
    return sum(is_active(row) or row.failure == FAILED_BY_ITSELF for row in rows)


def row_key(row: Row) -> Key | None:
    """The setting of a trial; None while it has none (a sampler is choosing)."""
    sigma, bias, k = row.params
    return None if sigma is None or bias is None or k is None else (sigma, bias, k)


def key_of(setting: Setting) -> Key:
    """The setting of a grid as the store holds it."""
    return setting.sigma, setting.bias, float(setting.k)
