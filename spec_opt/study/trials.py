"""The trials in the store: each function is part of a transaction of its caller.

They work on Optuna's own tables, so that every Optuna client sees the same study. A call of
Optuna's would be a transaction each; here a claim is one, and so is a result with all it holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from spec_opt.errors import StudyError
from spec_opt.study.database import insert_into, utc_now
from spec_opt.study.space import PARAMETERS
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
from spec_opt.study.times import FINISHED_KEY, STARTED_KEY, as_utc, clock, stamps

CLAIM_KEY = "spec_opt:claim"
"""System attribute of a claimed trial: the token of the worker that claimed it."""
WAITS_KEY = "spec_opt:waits"
"""System attribute of a running trial that waits for another one of its setting."""
LONG = ("blocks", "accepted_by_position", "tested_by_position")
"""Lists of a measurement. They are system attributes: optuna-dashboard writes out each user
attribute in one line, however long. Older versions stored user attributes.
"""
LONG_PREFIX = "spec_opt:"
LONG_KEYS = {name: f"{LONG_PREFIX}{name}" for name in LONG}
WORKER_KEY = "worker"
FAILURE_KEY = "failure"
ERROR_KEY = "error"
SOURCE_KEY = "source"
VARIANT_KEY = "variant"
"""What the trial changes in its study file besides the setting; absent if nothing."""

ATTRIBUTES = (SOURCE_KEY, FAILURE_KEY, ERROR_KEY, WORKER_KEY, VARIANT_KEY)

FAILED_BY_ITSELF = "error"
"""`failure` of a trial whose evaluation raised or gave numbers that are not finite."""
WORKER_DIED = "died"
INTERRUPTED = "interrupted"
WITHDRAWN = "withdrawn"
"""`failure` of a trial that had not begun when the study file stopped asking for its setting."""

MEASURED = "measured"
IMPORTED = "imported"
REPEATED = "repeated"
"""`source` of a trial that was copied from another trial of the same setting."""

Key = tuple[float, float, float, str]
"""What a trial measures, as the store holds it: sigma, bias, k (an index where the space is
categorical), and the variant as JSON (empty for the study file as written)."""


@dataclass(frozen=True)
class Claimant:
    """A worker process, as it signs a trial."""

    name: str
    """host:pid"""
    token: str
    """Unlike any other process's, now or later."""


class Trial(NamedTuple):
    """A trial as the store holds it."""

    trial_id: int
    number: int
    state: TrialState
    params: Mapping[str, float]
    """As stored (an index where the space is categorical); what is not chosen yet is missing."""
    source: str | None = None
    failure: str | None = None
    error: str | None = None
    worker: str | None = None
    ended: datetime | None = None
    """By `clock`."""
    last_sign: datetime | None = None
    """Its last heartbeat, or its start if it never had one, by `utc_now`."""
    now: datetime | None = None
    """When it was read, by `utc_now`."""
    fixed: Mapping[str, Any] = MappingProxyType({})
    """Of a claimed trial that lacks parameters: those it was enqueued with."""

    variant: str = ""
    """As JSON; empty for the study file as written."""

    @property
    def key(self) -> Key | None:
        """What it measures; None while that is open (a sampler is choosing)."""
        sigma, bias, k = map(self.params.get, PARAMETERS)
        if sigma is None or bias is None or k is None:
            return None
        return sigma, bias, k, self.variant

    @property
    def is_active(self) -> bool:
        """Whether it waits, runs, or is complete by a measurement of this study's own."""
        if self.state is TrialState.COMPLETE:
            return self.source != IMPORTED
        return self.state in (TrialState.WAITING, TrialState.RUNNING)

    @property
    def is_death(self) -> bool:
        """A failure that neither the setting caused nor the user: also those by another client."""
        is_over = self.state in (TrialState.FAIL, TrialState.PRUNED)
        return is_over and self.failure not in (FAILED_BY_ITSELF, INTERRUPTED, WITHDRAWN)


def _select_trials(*, of_one_setting: bool) -> Select[Any]:
    """Trials with their parameters, ATTRIBUTES and last sign of life, by number."""
    table: Any = trials.outerjoin(trial_heartbeats)
    columns: list[Any] = [trials, trial_heartbeats.c.heartbeat, utc_now().label("now")]
    conditions = [trials.c.study_id == bindparam("study_id")]
    for name in PARAMETERS:
        param = trial_params.alias(name)
        mine = and_(param.c.trial_id == trials.c.trial_id, param.c.param_name == name)
        table = table.outerjoin(param, mine)
        columns.append(param.c.param_value.label(name))
        if of_one_setting:
            conditions.append(param.c.param_value == bindparam(name))
    for key in ATTRIBUTES:
        attribute = trial_user_attributes.alias(key)
        mine = and_(attribute.c.trial_id == trials.c.trial_id, attribute.c.key == key)
        table = table.outerjoin(attribute, mine)
        columns.append(attribute.c.value_json.label(key))
    return select(*columns).select_from(table).where(*conditions).order_by(trials.c.number)


# Built once: that takes longer than most statements.
ALL_TRIALS = _select_trials(of_one_setting=False)
TRIALS_OF_SETTING = _select_trials(of_one_setting=True)


def history(connection: Connection, study_id: int, key: Key | None = None) -> list[Trial]:
    """The trials of the study, or those that measure the same, by number."""
    if key is None:
        rows = connection.execute(ALL_TRIALS, {"study_id": study_id})
        return [_trial(row) for row in rows]
    setting = dict(zip(PARAMETERS, key[:3], strict=True))
    rows = connection.execute(TRIALS_OF_SETTING, {"study_id": study_id, **setting})
    return [trial for trial in map(_trial, rows) if trial.key == key]


def _trial(row: Any) -> Trial:
    params = zip(PARAMETERS, (row.sigma, row.bias, row.k), strict=True)
    return Trial(
        trial_id=row.trial_id,
        number=row.number,
        state=row.state,
        params={name: value for name, value in params if value is not None},
        source=row.source and _loaded(row.source),
        failure=row.failure and _loaded(row.failure),
        error=row.error and _loaded(row.error),
        worker=row.worker and _loaded(row.worker),
        ended=row.datetime_complete,
        last_sign=row.heartbeat or (row.datetime_start and as_utc(row.datetime_start)),
        now=row.now,
        variant=row.variant or "",
    )


@lru_cache
def _loaded(text: str) -> Any:
    """Most trials have the same few texts."""
    return json.loads(text)


@dataclass(frozen=True)
class Measured:
    """What the study holds of a setting that it has measured already."""

    number: int
    values: tuple[float, ...]
    attributes: Mapping[str, Any]


def find_other(connection: Connection, study_id: int, key: Key, trial_id: int) -> Trial | None:
    """The trial that measured this setting in this study, or else that is measuring it.

    Never `trial_id`, nor a trial that only waits for another one.
    """
    others = [row for row in history(connection, study_id, key) if row.trial_id != trial_id]
    for row in sorted(others, key=lambda row: row.state is TrialState.RUNNING):
        if row.state is TrialState.COMPLETE and row.source == MEASURED:
            return row
        if row.state is TrialState.RUNNING:
            system = attributes_of(connection, trial_system_attributes, row.trial_id)
            if WAITS_KEY not in system:
                return row
    return None


def mark_waiting(connection: Connection, trial_id: int, waits: bool) -> None:
    """Note whether a running trial waits for another one that is measuring its setting."""
    table = trial_system_attributes
    if waits:
        put_attributes(connection, table, {trial_id: {WAITS_KEY: True}})
    else:
        mark = and_(table.c.trial_id == trial_id, table.c.key == WAITS_KEY)
        connection.execute(delete(table).where(mark))


def measured(connection: Connection, trial: Trial) -> Measured:
    """The measurement that a complete trial holds."""
    of_trial = trial_values.c.trial_id == trial.trial_id
    query = select(trial_values.c.value).where(of_trial).order_by(trial_values.c.objective)
    values = tuple(connection.execute(query).scalars())
    user = attributes_of(connection, trial_user_attributes, trial.trial_id)
    system = attributes_of(connection, trial_system_attributes, trial.trial_id)
    return Measured(trial.number, values, all_attributes(user, system))


def all_attributes(user: Mapping[str, Any], system: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's user attributes, and the long ones from its system attributes."""
    return dict(user) | {name: system[key] for name, key in LONG_KEYS.items() if key in system}


def attributes_of(connection: Connection, table: Table, owner_id: int) -> dict[str, Any]:
    """All attributes of a trial (or study) that a table holds."""
    owner = table.c["study_id" if "study_id" in table.c else "trial_id"]
    query = select(table.c.key, table.c.value_json).where(owner == owner_id)
    return {key: json.loads(text) for key, text in connection.execute(query)}


def held_by(connection: Connection, study_id: int, claimant: Claimant) -> list[tuple[int, int]]:
    """Id and number of the running trials that the claimant signed."""
    running = and_(trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING)
    query = select(trials.c.trial_id, trials.c.number).where(running, _signed_by(claimant))
    return [(row[0], row[1]) for row in connection.execute(query.order_by(trials.c.trial_id))]


def _signed_by(claimant: Claimant) -> ColumnElement[bool]:
    claim = trial_system_attributes
    return exists().where(
        claim.c.trial_id == trials.c.trial_id,
        claim.c.key == CLAIM_KEY,
        claim.c.value_json == json.dumps(claimant.token),
    )


def claimed(connection: Connection, trial_id: int, number: int, variant: str) -> Trial:
    """A trial that runs in our name, perhaps without all its parameters yet."""
    params = stored_params_of(connection, trial_id)
    fixed: Mapping[str, Any] = {}
    if not params.keys() >= {*PARAMETERS}:
        system = attributes_of(connection, trial_system_attributes, trial_id)
        fixed = system.get(FIXED_PARAMS_KEY, {})
    return Trial(trial_id, number, TrialState.RUNNING, params, fixed=fixed, variant=variant)


def stored_variant(connection: Connection, trial_id: int) -> str:
    """The variant of a trial as JSON; empty for the study file as written."""
    user = attributes_of(connection, trial_user_attributes, trial_id)
    return json.dumps(user[VARIANT_KEY]) if VARIANT_KEY in user else ""


def stored_params_of(connection: Connection, trial_id: int) -> dict[str, float]:
    """A trial's parameters as stored."""
    table = trial_params
    query = select(table.c.param_name, table.c.param_value).where(table.c.trial_id == trial_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def finish(
    connection: Connection,
    trial_id: int,
    claimant: Claimant,
    state: TrialState,
    values: Sequence[float],
    attributes: Mapping[str, Any],
) -> bool:
    """End a trial, if it is still running and the claimant's; False if it is not.

    A trial that was given up meanwhile keeps the end it was given: the late result is dropped.
    """
    mine = and_(trials.c.trial_id == trial_id, _signed_by(claimant))
    result = connection.execute(
        update(trials)
        .where(mine, trials.c.state == TrialState.RUNNING)
        .values(state=state, datetime_complete=clock())
    )
    if result.rowcount == 0:
        # If this transaction was committed before and only the answer got lost, it holds already.
        done = select(trials.c.trial_id).where(mine, trials.c.state == state)
        return state is TrialState.COMPLETE and connection.execute(done).first() is not None
    _set_values(connection, {trial_id: values})
    long = {LONG_KEYS[name]: attributes[name] for name in LONG if name in attributes}
    system = {trial_id: long | stamps(FINISHED_KEY)}
    put_attributes(connection, trial_system_attributes, system)
    user = {name: value for name, value in attributes.items() if name not in LONG}
    put_attributes(connection, trial_user_attributes, {trial_id: user})
    return True


def give_up(connection: Connection, trial: Trial, silent_seconds: float) -> Trial:
    """The trial as it is now: failed, unless it ended just now."""
    result = connection.execute(
        update(trials)
        .where(trials.c.trial_id == trial.trial_id, trials.c.state == TrialState.RUNNING)
        .values(state=TrialState.FAIL, datetime_complete=clock())
    )
    if result.rowcount == 0:
        return trial
    reason = f"worker {trial.worker} gave no sign of life for {silent_seconds:.0f} s"
    attributes = {trial.trial_id: failure(WORKER_DIED, reason)}
    put_attributes(connection, trial_user_attributes, attributes)
    end = {trial.trial_id: stamps(FINISHED_KEY)}
    put_attributes(connection, trial_system_attributes, end)
    return trial._replace(state=TrialState.FAIL, failure=WORKER_DIED, error=reason)


def failure(kind: str, error: str) -> dict[str, str]:
    """The attributes of a trial that failed."""
    return {FAILURE_KEY: kind, ERROR_KEY: error}


def lock_study(connection: Connection, study_id: int) -> None:
    """Keep out every other transaction that locks this study, until this one ends.

    Raises:
        StudyError: somebody deleted the study.
    """
    query = select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update()
    if connection.execute(query).first() is None:
        raise StudyError(f"the study (id {study_id}) is no longer in the store: it was deleted")


@dataclass(frozen=True)
class NewTrial:
    """A trial to be put into the store."""

    params: Mapping[str, float | int]
    user_attributes: Mapping[str, Any]
    values: Sequence[float] = ()
    """By objective, if it is complete."""


def add_trials(
    connection: Connection,
    study_id: int,
    new: Sequence[NewTrial],
    distributions: Mapping[str, BaseDistribution],
    state: TrialState,
) -> list[int]:
    """Add trials, numbered in order, and return their ids; the study must be locked."""
    if not new:
        return []
    count = select(func.count()).select_from(trials).where(trials.c.study_id == study_id)
    first = connection.execute(count).scalar_one()
    row = {
        "study_id": study_id,
        "state": state,
        "datetime_start": None if state is TrialState.WAITING else clock(),
        "datetime_complete": clock() if state is TrialState.COMPLETE else None,
    }
    rows = [row | {"number": first + i} for i in range(len(new))]
    statement = insert(trials).returning(trials.c.trial_id, sort_by_parameter_order=True)
    ids: list[int] = list(connection.execute(statement, rows).scalars())
    by_id = dict(zip(ids, new, strict=True))
    if state is TrialState.WAITING:
        # What marks a trial of Optuna's queue.
        queue = {i: {FIXED_PARAMS_KEY: dict(trial.params)} for i, trial in by_id.items()}
        put_attributes(connection, trial_system_attributes, queue)
    elif state is TrialState.COMPLETE:
        now = dict.fromkeys(ids, stamps(STARTED_KEY, FINISHED_KEY))
        put_attributes(connection, trial_system_attributes, now)
    attributes = {i: trial.user_attributes for i, trial in by_id.items()}
    put_attributes(connection, trial_user_attributes, attributes)
    set_params(connection, {i: trial.params for i, trial in by_id.items()}, distributions)
    _set_values(connection, {i: trial.values for i, trial in by_id.items()})
    return ids


def set_params(
    connection: Connection,
    params: Mapping[int, Mapping[str, float | int]],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Store parameters, by trial id; those that a trial has stay as they are."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(of_trial[name]),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for trial_id, of_trial in params.items()
        for name in distributions
        if name in of_trial
    ]
    if rows:
        connection.execute(insert_into(connection, trial_params).on_conflict_do_nothing(), rows)


def _set_values(connection: Connection, values: Mapping[int, Sequence[float]]) -> None:
    """Store the values of finished trials, by trial id."""
    rows = [
        {"trial_id": trial_id, "objective": i, "value": value, "value_type": FINITE}
        for trial_id, of_trial in values.items()
        for i, value in enumerate(of_trial)
    ]
    if rows:
        connection.execute(insert(trial_values), rows)


def put_attributes(
    connection: Connection, table: Table, attributes: Mapping[int, Mapping[str, Any]]
) -> None:
    """Set attributes of trials (or studies), by id, in place of any of the same name."""
    owner = "study_id" if "study_id" in table.c else "trial_id"
    rows = [
        {owner: i, "key": key, "value_json": json.dumps(value)}
        for i, of_one in attributes.items()
        for key, value in of_one.items()
    ]
    if rows:
        statement = insert_into(connection, table)
        new = {"value_json": statement.excluded.value_json}
        put = statement.on_conflict_do_update(index_elements=[owner, "key"], set_=new)
        connection.execute(put, rows)
