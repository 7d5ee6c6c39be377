"""What the commands about results do: from a study in a store to what a person takes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_opt.config import StudyConfig
from spec_opt.config_values import Split
from spec_opt.errors import InputError, StudyError
from spec_opt.results.confirmation import Confirmation, confirm_points
from spec_opt.results.export import document_of
from spec_opt.results.front import front_text
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import as_document, render
from spec_opt.results.table import StudyTable, read_table
from spec_opt.tuning.store import open_store
from spec_opt.tuning.study import Study

if TYPE_CHECKING:
    from spec_opt.results.importing import Imported
    from spec_opt.results.report import Report


def results_of(config: StudyConfig, url: str) -> StudyTable:
    """The trials in the store, measured or imported.

    Raises:
        StudyError: there is no such store or study; nothing is made.
    """
    return read_table(open_store(url, create=False).optuna_study(config.name))


def table_of(study: Study) -> StudyTable:
    """The study's trials."""
    return read_table(study.optuna_study())


def results_text(config: StudyConfig, table: StudyTable) -> str:
    """What `run` prints at the end: the front, and the setting to use."""
    if not table.points:
        return front_text(table)
    choices = recommend_all(table, config.recommend)
    return f"{front_text(table)}\n\n{render(choices, 'text')}"


def results_document(
    config: StudyConfig, table: StudyTable, url: str, command: str
) -> dict[str, Any]:
    """The same for a script: the export of the front, and the recommendations."""
    document = document_of(table, all_trials=False, storage=url, command=command)
    choices = recommend_all(table, config.recommend)
    return document | {"recommendations": [as_document(choice) for choice in choices]}


def write_report(
    config: StudyConfig,
    table: StudyTable,
    url: str,
    command: str,
    *,
    folder: Path | None,
    png: bool,
) -> Report:
    """The report of a study, into `folder` or reports/<study>.

    Raises:
        InputError: the folder cannot be written.
    """
    # Imports plotly and pandas.
    from spec_opt.results import report

    return report.write_report(
        table,
        folder or Path("reports") / config.name,
        storage=url,
        command=command,
        thresholds=config.recommend,
        png=png,
    )


def confirm(
    config: StudyConfig, table: StudyTable, split: Split, trial: int | None = None
) -> Confirmation:
    """Measure the front's settings, or a trial's, on another split than they were tuned on.

    On the split that it was tuned on, a trial is replayed: it must give the same numbers.

    Raises:
        InputError: the front is to be measured on the split that it was tuned on.
        StudyError: no trial is there to confirm, or the study file does not give what the study
            was measured with.
    """
    # Today's file may name another split; the store knows which one the trials were tuned on.
    data = (table.config or config).data
    if trial is None and split == data.split:
        raise InputError(
            f"--split {split}: study {config.name} was tuned on it; name another split to confirm, "
            "or a --trial to replay"
        )
    points = [block[0] for block in table.distinct_front] if trial is None else [table.point(trial)]
    if not points:
        raise StudyError(
            f"study {config.name}: no trial has completed yet, so there is nothing to confirm"
        )
    from spec_opt.tuning.objective import Objective as Prepared

    elsewhere = data.model_copy(update={"split": split, "source": config.data.source})
    objective = Prepared.prepare(config.model_copy(update={"data": elsewhere}))
    stored, found = table.fingerprints, objective.fingerprints
    if split != data.split:  # other windows: a fingerprint of their own
        found = replace(found, data=found.data if stored is None else stored.data)
    if stored is not None and stored != found:
        raise StudyError(
            f"study {config.name}: was measured with other models, data or decoding than the study "
            "file gives now"
        )
    return confirm_points(table, points, (data.split, split), objective, objective.baseline)


def import_old(config: StudyConfig, url: str, tables: Sequence[Path]) -> Imported:
    """Old result tables become trials of the study.

    Raises:
        DataError: a file cannot be read, or no row of them can be believed; no store is made.
        StudyError: the study is one of measured trials.
    """
    from spec_opt.results.importing import import_tables
    from spec_opt.results.old_tables import read_tables

    results, rejected = read_tables(tables)
    return import_tables(open_store(url), config.name, results, rejected)
