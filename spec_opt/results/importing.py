"""Old sweep tables become complete trials of a study of their own, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from sqlalchemy import Connection, insert, select, update

from spec_opt.config import Setting
from spec_opt.errors import StudyError
from spec_opt.results.old_tables import OldResult, Rejected, read_tables
from spec_opt.results.quiet import quiet_optuna
from spec_opt.results.table import DIRECTIONS, StudyTable, read_table
from spec_opt.tuning.ledger import NewTrial, add_trials, lock_study
from spec_opt.tuning.space import params_of
from spec_opt.tuning.store import FINITE, Store, trial_params, trial_values, trials

METRICS = ("acceptance_rate", "mse")


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    study: str
    added: int
    present: int
    """Rows that the study held already, or that stood in the tables twice."""
    rejected: tuple[Rejected, ...]


def import_tables(store: Store, name: str, paths: Sequence[Path]) -> Imported:
    """Add the rows of old result tables to the study `name`, which is made if it is missing.

    The whole import is one transaction: it happens, or nothing does. Rows that the study holds
    already are not added again, so that an import may be repeated, or halves follow one another.

    Raises:
        DataError: a file cannot be read, or lacks a column that is needed; nothing is written.
        StudyError: the study holds measured trials: acceptance was counted differently there, so
            imported ones need a study of their own.
        StoreError: the store cannot be reached.
    """
    results, rejected = read_tables(paths)
    with store.lock():
        study = _open(store, name)
        held = read_table(study)
        _check_unmixed(held)
        present = {_identity(held, index) for index in range(len(held.points))}
        new = list({r.identity: r for r in results if r.identity not in present}.values())
        settings = [r.setting for r in new] + [p.setting for p in held.points]
        if new:
            space = _space(settings)
            store.transaction(lambda c: _add(c, study._study_id, new, space))
    return Imported(name, len(new), len(results) - len(new), rejected)


def _open(store: Store, name: str) -> optuna.Study:
    with quiet_optuna():
        study = optuna.create_study(
            storage=store.storage, study_name=name, directions=DIRECTIONS, load_if_exists=True
        )
        if study.metric_names is None:
            study.set_metric_names(list(METRICS))
    return study


def _check_unmixed(table: StudyTable) -> None:
    if table.imported < len(table.trials):
        raise StudyError(
            f"study {table.name}: holds {len(table.trials) - table.imported} trials that were not "
            "imported, and old results must not be mixed with them; copy the study file, and give "
            "the copy another name to import into"
        )


def _identity(table: StudyTable, index: int) -> tuple[float, ...]:
    point = table.points[index]
    setting, result = point.setting, point.result
    return (setting.sigma, setting.bias, setting.k, result.acceptance_rate, result.mse)


def _space(settings: Sequence[Setting]) -> Mapping[str, BaseDistribution]:
    """Distributions that hold all settings of the study."""
    sigmas, biases = [s.sigma for s in settings], [s.bias for s in settings]
    ks = [s.k for s in settings]
    return {
        "sigma": FloatDistribution(min(sigmas), max(sigmas)),
        "bias": FloatDistribution(min(biases), max(biases)),
        "k": IntDistribution(min(ks), max(ks)),
    }


def _add(
    connection: Connection,
    study_id: int,
    new: Sequence[OldResult],
    space: Mapping[str, BaseDistribution],
) -> None:
    lock_study(connection, study_id)
    rows = [NewTrial(params_of(result.setting), _attributes(result)) for result in new]
    ids = add_trials(connection, study_id, rows, space, TrialState.COMPLETE)
    now = datetime.now(UTC).replace(tzinfo=None)
    of_study = trials.c.study_id == study_id
    connection.execute(
        update(trials)
        .where(of_study, trials.c.datetime_complete.is_(None))
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
    mine = trial_params.c.trial_id.in_(select(trials.c.trial_id).where(of_study))
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
        "source": "imported",
    }
    return {name: value for name, value in known.items() if value is not None}
