"""A study's trials with only those attributes that are asked for.

Optuna's own reading takes 70 to 90 KB a trial, most of it for lists that few results need.
"""

import gc
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Self

from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from pydantic_core import from_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    func,
    literal,
    select,
)

from spec_opt.study.database import utc_now
from spec_opt.study.space import PARAMETERS
from spec_opt.study.store import (
    stored_value,
    trial_heartbeats,
    trial_params,
    trial_system_attributes,
    trial_user_attributes,
    trial_values,
    trials,
)
from spec_opt.study.times import as_stored, as_utc
from spec_opt.study.trials import (
    ATTRIBUTES,
    ERROR_KEY,
    FAILURE_KEY,
    LONG,
    SOURCE_KEY,
    VARIANT_KEY,
    WORKER_KEY,
    Trial,
)

OWN_COLUMNS = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
_VALUES = 2 * len(PARAMETERS)
"""Columns of the parameters, which precede those of the values."""
PORTION = 500
"""Ids in one statement, and rows in one answer."""


@dataclass(frozen=True)
class Keys:
    """The attributes to read, besides those that progress is counted by."""

    user: Collection[str] | None
    """None: all but the long ones of older versions."""
    system: Collection[str]


@dataclass(slots=True)
class StoredTrial:
    """A trial, and those of its attributes that were read."""

    row: Trial
    params: dict[str, Any]
    values: list[float] | None
    started: datetime | None
    """As Optuna's column keeps it: see `times`."""
    user_attributes: dict[str, Any]
    system_attributes: dict[str, Any]

    @classmethod
    def of(cls, trial: FrozenTrial) -> Self:
        """A trial as Optuna gives it, whose row lacks its parameters and last sign of life."""
        user, started = trial.user_attrs, as_stored(trial.datetime_start)
        row = _row(trial._trial_id, trial.number, trial.state, {}, user)
        row = row._replace(ended=as_stored(trial.datetime_complete))
        return cls(row, trial.params, trial.values, started, user, trial.system_attrs)

    @property
    def number(self) -> int:
        return self.row.number

    @property
    def is_complete(self) -> bool:
        return self.row.state is TrialState.COMPLETE


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
) -> list[StoredTrial]:
    """The trials of a study by number, with all their attributes, or with some."""
    query = _select_trials(objectives, keys or Keys((), ())).where(trials.c.study_id == study_id)
    rows = chain.from_iterable(connection.execute(query).partitions(PORTION))
    found = sorted(map(_stored, rows), key=attrgetter("number"))
    if keys is None:
        add_attributes(connection, found)
    return found


def _select_trials(objectives: int, keys: Keys) -> Select[Any]:
    """A row a trial: its own columns, then attributes, parameters and values."""
    columns: list[Any] = [trials.c[name] for name in OWN_COLUMNS]
    columns += [trial_heartbeats.c.heartbeat, utc_now()]
    user, system = trial_user_attributes.c.key, trial_system_attributes.c.key
    # For many keys, a scan of a trial's attributes is faster than a search for each of them.
    own = user.not_in(LONG) if keys.user is None else user.in_({*keys.user, *ATTRIBUTES})
    columns.append(_joined(trial_user_attributes, own))
    columns.append(_joined(trial_system_attributes, system.in_(keys.system)))
    table: Any = trials.outerjoin(trial_heartbeats)
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
    return select(*columns).select_from(table)


def _joined(table: Table, chosen: ColumnElement[bool]) -> ColumnElement[Any]:
    """Some attributes of a trial as the inside of a JSON object: one row is read for them all."""
    pair = literal('"') + table.c.key + '":' + table.c.value_json
    mine = and_(table.c.trial_id == trials.c.trial_id, chosen)
    inside = select(func.aggregate_strings(pair, ",")).where(mine)
    return inside.correlate(trials).scalar_subquery()


def _stored(row: Any) -> StoredTrial:
    trial_id, number, state, started, ended, heartbeat, now, user, system, *rest = row
    held = zip(PARAMETERS, rest[:_VALUES:2], rest[1:_VALUES:2], strict=True)
    stored = {name: (value, text) for name, value, text in held if text is not None}
    params = {name: _external(text)(value) for name, (value, text) in stored.items()}
    pairs = zip(rest[_VALUES::2], rest[_VALUES + 1 :: 2], strict=True)
    values = [stored_value(value, kind) for value, kind in pairs if kind is not None]
    user, system = _attributes(user), _attributes(system)
    trial = _row(
        trial_id,
        number,
        state,
        {name: value for name, (value, _) in stored.items()},
        user,
        ended=ended,
        last_sign=heartbeat or (started and as_utc(started)),
        now=now,
    )
    return StoredTrial(trial, params, values or None, started, user, system)


def _attributes(inside: str | None) -> dict[str, Any]:
    """The attributes that `_joined` gives."""
    if not inside:
        return {}
    text = f"{{{inside}}}"
    try:
        found: dict[str, Any] = from_json(text)
    except ValueError:  # it is stricter than Python about texts that are no Unicode
        found = json.loads(text)
    return found


def _row(
    trial_id: int,
    number: int,
    state: TrialState,
    params: Mapping[str, float],
    user: Mapping[str, Any],
    **times: Any,
) -> Trial:
    return Trial(
        trial_id,
        number,
        state,
        params,
        source=user.get(SOURCE_KEY),
        failure=user.get(FAILURE_KEY),
        error=user.get(ERROR_KEY),
        worker=user.get(WORKER_KEY),
        variant=json.dumps(user[VARIANT_KEY]) if VARIANT_KEY in user else "",
        **times,
    )


def add_attributes(connection: Connection, some: Sequence[StoredTrial]) -> None:
    """Give trials all their attributes, whatever they have already."""
    for start in range(0, len(some), PORTION):
        found = {trial.row.trial_id: trial for trial in some[start : start + PORTION]}
        for trial in found.values():
            trial.user_attributes, trial.system_attributes = {}, {}
        for table in (trial_user_attributes, trial_system_attributes):
            query = select(table.c.trial_id, table.c.key, table.c.value_json)
            mine = table.c.trial_id.in_([*found])
            for trial_id, key, text in connection.execute(query.where(mine)):
                trial = found[trial_id]
                is_user = table is trial_user_attributes
                held = trial.user_attributes if is_user else trial.system_attributes
                held[key] = json.loads(text)


@cache
def _external(text: str) -> Callable[[float], Any]:
    """What gives a parameter of this distribution as it is, from what is stored of it."""
    return json_to_distribution(text).to_external_repr
