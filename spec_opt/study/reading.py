"""A study's trials as Optuna's frozen trials, with only those attributes that are asked for.

Optuna's own reading takes 70 to 90 KB a trial, most of it for lists that few results need.
"""

import gc
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    func,
    literal,
    null,
    select,
)

from spec_opt.study.space import PARAMETERS
from spec_opt.study.store import (
    TIMES_ARE_UTC,
    stored_value,
    trial_params,
    trial_system_attributes,
    trial_user_attributes,
    trial_values,
    trials,
)

OWN_COLUMNS = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
PORTION = 500
"""Ids in one statement."""


@dataclass(frozen=True)
class Keys:
    """The attributes to read."""

    user: Collection[str]
    system: Collection[str]


@contextmanager
def without_collection() -> Iterator[None]:
    """No search for garbage meanwhile: among a million new objects that stay it finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def count_trials(connection: Connection, study_id: int) -> int:
    """The trials of a study in whatever state."""
    mine = trials.c.study_id == study_id
    return connection.execute(select(func.count()).where(mine)).scalar_one()


def read_trials(
    connection: Connection, study_id: int, objectives: int, keys: Keys | None = None
) -> list[FrozenTrial]:
    """The trials of a study by number, with all their attributes, or with some."""
    query = _select_trials(objectives, keys or Keys((), ()))
    found = [_frozen(row, objectives) for row in connection.execute(query.where(_is_of(study_id)))]
    if keys is None:
        add_attributes(connection, found)
    return found


def _is_of(study_id: int) -> ColumnElement[bool]:
    return trials.c.study_id == study_id


def _select_trials(objectives: int, keys: Keys) -> Select[Any]:
    """A row a trial: its own columns, then parameters, values and attributes."""
    columns: list[Any] = [trials.c[name] for name in OWN_COLUMNS]
    table: Any = trials
    for name in PARAMETERS:
        param = trial_params.alias(name)
        mine = and_(param.c.trial_id == trials.c.trial_id, param.c.param_name == name)
        table = table.outerjoin(param, mine)
        columns += [param.c.param_value, param.c.distribution_json]
    for objective in range(objectives):
        value = trial_values.alias(f"value_{objective}")
        mine = and_(value.c.trial_id == trials.c.trial_id, value.c.objective == objective)
        table = table.outerjoin(value, mine)
        columns += [value.c.value, value.c.value_type]
    columns.append(_joined(trial_user_attributes, keys.user))
    columns.append(_joined(trial_system_attributes, keys.system))
    return select(*columns).select_from(table).order_by(trials.c.number)


def _joined(table: Table, keys: Collection[str]) -> ColumnElement[Any]:
    """Some attributes of a trial as the inside of a JSON object: one row is read for them all."""
    if not keys:
        return null()
    pair = literal('"') + table.c.key + '":' + table.c.value_json
    mine = and_(table.c.trial_id == trials.c.trial_id, table.c.key.in_(sorted(keys)))
    inside = select(func.aggregate_strings(pair, ",")).where(mine)
    return inside.correlate(trials).scalar_subquery()


def _frozen(row: Any, objectives: int) -> FrozenTrial:
    trial_id, number, state, started, finished, *rest = row
    params = {}
    for index, name in enumerate(PARAMETERS):
        stored, text = rest[2 * index], rest[2 * index + 1]
        if text is not None:
            params[name] = _distribution(text).to_external_repr(stored)
    first = 2 * len(PARAMETERS)
    pairs = [rest[i : i + 2] for i in range(first, first + 2 * objectives, 2)]
    values = [stored_value(value, kind) for value, kind in pairs if kind is not None]
    user, system = rest[-2:]
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        values=values or None,
        datetime_start=_local(started),
        datetime_complete=_local(finished),
        params=params,
        distributions={},
        user_attrs=json.loads(f"{{{user}}}") if user else {},
        system_attrs=json.loads(f"{{{system}}}") if system else {},
        intermediate_values={},
        trial_id=trial_id,
    )


def add_attributes(connection: Connection, some: Sequence[FrozenTrial]) -> None:
    """Give trials all their attributes, whatever they have already."""
    for trial in some:
        trial._user_attrs, trial._system_attrs = {}, {}
    for start in range(0, len(some), PORTION):
        found = {trial._trial_id: trial for trial in some[start : start + PORTION]}
        for table in (trial_user_attributes, trial_system_attributes):
            query = select(table.c.trial_id, table.c.key, table.c.value_json)
            mine = table.c.trial_id.in_([*found])
            for trial_id, key, text in connection.execute(query.where(mine)):
                trial = found[trial_id]
                is_user = table is trial_user_attributes
                held = trial._user_attrs if is_user else trial._system_attrs
                held[key] = json.loads(text)


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(stored: datetime | None) -> datetime | None:
    """As Optuna gives it: naive local time."""
    if stored is None or not TIMES_ARE_UTC:
        return stored
    return stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
