"""What stands in the store about trials, read in few statements, within a caller's transaction."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Table, and_, exists, select

from spec_opt.tuning.space import PARAMETERS
from spec_opt.tuning.store import (
    FIXED_PARAMS_KEY,
    trial_heartbeats,
    trial_params,
    trial_system_attributes,
    trial_user_attributes,
    trial_values,
    trials,
)

CLAIM_KEY = "spec_opt:claim"
"""System attribute of a claimed trial: the token of the worker that claimed it."""
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


def params_of(connection: Connection, trial_id: int) -> dict[str, float]:
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


def user_attributes_of(connection: Connection, trial_id: int) -> dict[str, Any]:
    """A trial's user attributes."""
    return _attributes_of(connection, trial_user_attributes, trial_id)


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
