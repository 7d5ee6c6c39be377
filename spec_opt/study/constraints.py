"""`[search] constraints` on each trial, where Optuna's samplers and its dashboard read them.

A trial holds by how much it misses each limit, as Optuna's own `constraints_func` stores it: values
above 0 are violations. Optuna 5 also has a constraint with a name (`Trial.set_constraint`), which
neither Optuna 4 nor optuna-dashboard 0.21 reads.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, and_, delete, select

from spec_opt.config.limits import Constraints
from spec_opt.study.store import (
    CONSTRAINTS_KEY,
    trial_system_attributes,
    trial_values,
    trials,
)
from spec_opt.study.trials import put_attributes

UNMEASURED = 1.0
"""Violation of each limit by a trial whose values are not finite."""


def violations(
    constraints: Constraints, values: Sequence[float | None], reference_mse: float
) -> list[float]:
    """By how much a trial misses each limit that is set; at most 0 where it keeps it.

    Args:
        values: acceptance rate and MSE, and perhaps more; None for what is not finite.
        reference_mse: of the target alone.
    """
    acceptance, mse = values[:2]
    limit, least = constraints.max_mse_ratio, constraints.min_acceptance
    found = []
    if limit is not None:
        # The sign must be that of the recommendation's comparison, to the last digit.
        excess = None if mse is None else (mse - limit * reference_mse) / reference_mse
        found.append(UNMEASURED if excess is None else excess)
    if least is not None:
        found.append(UNMEASURED if acceptance is None else least - acceptance)
    return found


def as_stored(trial: FrozenTrial) -> tuple[float, ...]:
    """What a trial holds of its constraints, by our name or by any other client's."""
    return _violations_in(trial.system_attrs)


def is_feasible(system_attributes: Mapping[str, Any]) -> bool:
    """Whether a trial keeps all limits that it was held against, as Optuna sees it."""
    return all(value <= 0 for value in _violations_in(system_attributes))


def _violations_in(system_attributes: Mapping[str, Any]) -> tuple[float, ...]:
    """Those in a list, and those that Optuna 5 keeps by their names."""
    named = (v for key, v in system_attributes.items() if key.startswith(f"{CONSTRAINTS_KEY}:"))
    return (*system_attributes.get(CONSTRAINTS_KEY, ()), *named)


def put_violations(
    connection: Connection,
    constraints: Constraints,
    values: Mapping[int, Sequence[float | None]],
    reference_mse: float,
) -> None:
    """Store the violations of trials, by id."""
    if constraints.are_set:
        found = {
            trial_id: {CONSTRAINTS_KEY: violations(constraints, of_trial, reference_mse)}
            for trial_id, of_trial in values.items()
        }
        put_attributes(connection, trial_system_attributes, found)


def hold_against(
    connection: Connection, study_id: int, constraints: Constraints, reference_mse: float | None
) -> None:
    """Hold every complete trial of a study against these limits, and no others.

    For a study whose limits may be new, and for trials that other clients added: Optuna's GP
    sampler needs as many constraints of each. The study must be locked.

    Args:
        reference_mse: of the target alone; where it is not known, the lowest of the study, as in a
            recommendation.
    """
    values = values_of(connection, study_id)
    known = [mse for _, mse, *_ in values.values() if mse is not None]
    reference = reference_mse or min(known, default=1.0)
    held = _held(connection, study_id)
    if not constraints.are_set:
        table = trial_system_attributes
        mine = and_(table.c.trial_id.in_(held), table.c.key == CONSTRAINTS_KEY)
        if held:
            connection.execute(delete(table).where(mine))
        return
    changed = {
        trial_id: of_trial
        for trial_id, of_trial in values.items()
        if held.get(trial_id) != violations(constraints, of_trial, reference)
    }
    put_violations(connection, constraints, changed, reference)


def _held(connection: Connection, study_id: int) -> dict[int, Any]:
    """What the trials of a study hold of their constraints, by id."""
    table = trial_system_attributes
    query = (
        select(table.c.trial_id, table.c.value_json)
        .join(trials, trials.c.trial_id == table.c.trial_id)
        .where(trials.c.study_id == study_id, table.c.key == CONSTRAINTS_KEY)
    )
    return {trial_id: json.loads(text) for trial_id, text in connection.execute(query)}


def values_of(connection: Connection, study_id: int) -> dict[int, list[Any]]:
    """The values of each complete trial, by its id, in the order in which they ended."""
    query = (
        select(trial_values.c.trial_id, trial_values.c.value)
        .join(trials, trials.c.trial_id == trial_values.c.trial_id)
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.COMPLETE)
        .order_by(trials.c.datetime_complete, trials.c.trial_id, trial_values.c.objective)
    )
    found: dict[int, list[Any]] = {}
    for trial_id, value in connection.execute(query):
        found.setdefault(trial_id, []).append(value)
    return found
