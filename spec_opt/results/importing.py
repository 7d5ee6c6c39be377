"""Old sweep tables become complete trials of a study of their own, each once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from sqlalchemy import Connection, insert, select, update

from spec_opt.errors import StudyError
from spec_opt.results.old_tables import OldResult, Rejected
from spec_opt.results.quiet import quiet_optuna
from spec_opt.results.table import DIRECTIONS
from spec_opt.tuning.ledger import NewTrial, add_trials, lock_study
from spec_opt.tuning.records import IMPORTED, history
from spec_opt.tuning.space import params_of
from spec_opt.tuning.store import FINITE, Store, trial_params, trial_values, trials

METRICS = ("acceptance_rate", "mse")
MADE_BY_RUN = "config"
"""The user attribute that a study for measured trials has from its start."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    study: str
    added: int
    present: int
    """Rows that the study held already, or that stood in the tables twice."""
    rejected: tuple[Rejected, ...]


def import_tables(
    store: Store, name: str, results: Sequence[OldResult], rejected: Sequence[Rejected] = ()
) -> Imported:
    """Add rows of old result tables to the study `name`, which is made if it is missing.

    The whole import is one transaction: it happens, or nothing does. Rows that the study holds
    already are not added again, so that an import may be repeated, or halves follow one another.

    Raises:
        StudyError: the study is one of measured trials: acceptance was counted differently there,
            so imported ones need a study of their own.
        StoreError: the store cannot be reached.
    """
    with store.lock():
        study = _open(store, name)
    if MADE_BY_RUN in study.user_attrs:
        raise _mixing(name)
    added = store.transaction(lambda c: _add_missing(c, name, study._study_id, results))
    return Imported(name, added, len(results) - added, tuple(rejected))


def _open(store: Store, name: str) -> optuna.Study:
    with quiet_optuna():
        study = optuna.create_study(
            storage=store.storage, study_name=name, directions=DIRECTIONS, load_if_exists=True
        )
        if study.metric_names is None:
            study.set_metric_names(list(METRICS))
    return study


def _mixing(name: str) -> StudyError:
    return StudyError(
        f"study {name}: was not made by an import, and old results must not be mixed with measured "
        "ones; copy the study file, and give the copy another name to import into"
    )


def _add_missing(
    connection: Connection, name: str, study_id: int, results: Sequence[OldResult]
) -> int:
    """Add what the study lacks, and say how much; it is looked at under its lock.

    Others may write at the same time, and this may run again after it was committed.
    """
    lock_study(connection, study_id)
    held = history(connection, study_id)
    if any(row.source != IMPORTED for row in held):
        raise _mixing(name)
    values = _values(connection, study_id)
    present = {(*row.params, *values[row.trial_id]) for row in held}
    new = list({r.identity: r for r in results if r.identity not in present}.values())
    if new:
        settings = [tuple(params_of(result.setting).values()) for result in new]
        space = _space([*settings, *(row.params for row in held)])
        _add(connection, study_id, new, space)
    return len(new)


def _values(connection: Connection, study_id: int) -> Mapping[int, list[float]]:
    """The values of each trial, by its id."""
    query = (
        select(trial_values.c.trial_id, trial_values.c.value)
        .join(trials, trials.c.trial_id == trial_values.c.trial_id)
        .where(trials.c.study_id == study_id)
        .order_by(trial_values.c.objective)
    )
    found = defaultdict(list)
    for trial_id, value in connection.execute(query):
        found[trial_id].append(value)
    return found


def _space(settings: Sequence[Sequence[Any]]) -> Mapping[str, BaseDistribution]:
    """Distributions that hold all settings (sigma, bias, k) of the study."""
    sigmas, biases, ks = zip(*settings, strict=True)
    return {
        "sigma": FloatDistribution(min(sigmas), max(sigmas)),
        "bias": FloatDistribution(min(biases), max(biases)),
        "k": IntDistribution(int(min(ks)), int(max(ks))),
    }


def _add(
    connection: Connection,
    study_id: int,
    new: Sequence[OldResult],
    space: Mapping[str, BaseDistribution],
) -> None:
    rows = [NewTrial(params_of(result.setting), _attributes(result)) for result in new]
    ids = add_trials(connection, study_id, rows, space, TrialState.COMPLETE)
    now = datetime.now(UTC).replace(tzinfo=None)
    # Their ids rise together, and nobody else adds to the locked study.
    connection.execute(
        update(trials)
        .where(trials.c.study_id == study_id, trials.c.trial_id.between(ids[0], ids[-1]))
        .values(datetime_start=now, datetime_complete=now)
    )
    connection.execute(
        insert(trial_values),
        [
            {"trial_id": trial_id, "objective": place, "value": value, "value_type": FINITE}
            for trial_id, result in zip(ids, new, strict=True)
            for place, value in enumerate((result.acceptance_rate, result.mse))
        ],
    )
    # One distribution for all: Optuna's importances leave out a parameter with several.
    mine = trial_params.c.trial_id.in_(
        select(trials.c.trial_id).where(trials.c.study_id == study_id)
    )
    for name, distribution in space.items():
        connection.execute(
            update(trial_params)
            .where(mine, trial_params.c.param_name == name)
            .values(distribution_json=distribution_to_json(distribution))
        )


def _attributes(result: OldResult) -> dict[str, float | int | str]:
    known = {
        "mae": result.mae,
        "accepted": result.accepted,
        "tested": result.attempted,
        "total_time_s": result.total_time_s,
        "source": IMPORTED,
    }
    return {name: value for name, value in known.items() if value is not None}
