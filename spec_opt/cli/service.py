"""What the commands that make a study go do: from a study file to a finished study.

What the commands about results do: from a study in a store to what a person takes away.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_opt.cli.interrupts import stop_on_signals
from spec_opt.cli.live import LiveView, TrialLines, print_line
from spec_opt.config.study_file import StudyConfig
from spec_opt.errors import InputError, SpecOptError, StoreURLError, WorkError
from spec_opt.results.export import document_of
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import as_document, front_text, render
from spec_opt.results.table import StudyTable, read_table
from spec_opt.study.launch import (
    LaunchSummary,
    cpu_environments,
    gpu_environments,
    launch,
    parse_gpus,
)
from spec_opt.study.progress import StudyProgress, progress
from spec_opt.study.ray_cluster import RaySummary, cluster, run_tasks
from spec_opt.study.store import open_store, parse_url
from spec_opt.study.study import Study, load_study, open_study, package_versions
from spec_opt.study.worker import WorkerSummary, run_worker

if TYPE_CHECKING:
    from spec_opt.measure.objective import Objective
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


def import_old(config: StudyConfig, url: str, tables: Sequence[Path]) -> Imported:
    """Old result tables become trials of the study.

    Raises:
        DataError: a file cannot be read, or no row of them can be believed; no store is made.
        StudyError: the study is one of measured trials.
    """
    from spec_opt.results.importing import import_tables, read_tables

    results, rejected = read_tables(tables)
    return import_tables(open_store(url), config.name, results, rejected)


PROGRAM = (sys.executable, "-m", "spec_opt")
DEFAULT_STORAGE = "sqlite:///storage/spec_opt.db"


def storage_url(given: str | None) -> str:
    """The store to use: as given, else from SPEC_OPT_STORAGE, else the default file."""
    return given or os.environ.get("SPEC_OPT_STORAGE") or DEFAULT_STORAGE


def prepare(config: StudyConfig, url: str) -> tuple[Study, Objective]:
    """Everything a worker needs; bad input is found before anything is written.

    Raises:
        SpecOptError: whatever is wrong with URL, series, checkpoints or store.
    """
    # Imports torch, which the commands that only look at a study do without.
    from spec_opt.measure.objective import StudyObjective as Prepared

    parse_url(url)
    objective = Prepared.prepare(config)
    baseline = objective.baseline
    store = open_store(url)
    study = open_study(store, config, objective.fingerprints, baseline, package_versions())
    return study, objective


@dataclass(frozen=True)
class ModelFile:
    """A model and where it is."""

    role: str
    path: str
    parameters: int
    fingerprint: str


def train(config: StudyConfig) -> tuple[ModelFile, ModelFile]:
    """Target and draft of a study: loaded, or made and cached.

    Raises:
        SpecOptError: the series or a checkpoint is wrong, or training failed.
    """
    from spec_opt.data.windows import load_dataset
    from spec_opt.models.training import prepare_models

    models = prepare_models(config, load_dataset(config.data))
    target, draft = (
        ModelFile(role, str(path), sum(p.numel() for p in model.parameters()), model.fingerprint)
        for role, model, path in (
            ("target", models.target, models.target_path),
            ("draft", models.draft, models.draft_path),
        )
    )
    return target, draft


def work(study: Study, objective: Objective, view: LiveView | TrialLines) -> WorkerSummary:
    """One worker in this process, until the study is done or a signal comes."""

    def leaving() -> None:
        view.say("finishing the running trial, then leaving; again to leave at once")

    with view, stop_on_signals(leaving) as stop:
        return run_worker(study, objective, stop, on_trial=view.report)


def environments(workers: int | None, gpus: str | None) -> list[dict[str, str]]:
    """What each worker process is to see: its share of the cores, or its GPU.

    Raises:
        InputError: a GPU that is not there.
    """
    if gpus is None:
        return cpu_environments(workers or 1)
    from spec_opt.models.device import gpu_count

    return gpu_environments(parse_gpus(gpus, gpu_count))


def watch(study: Study) -> None:
    """Show the study on stderr until it is done; Ctrl-C ends the watching, nothing else."""
    with suppress(KeyboardInterrupt), LiveView(study) as view:
        while not view.done.wait(1.0):
            pass


def make_models(reference: str) -> int:
    """Train in a process of its own, so that this one holds no device; its exit code.

    Why it failed, it tells on stderr itself.

    Raises:
        WorkError: it was killed.
    """
    command = [*PROGRAM, "train", reference]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    if code < 0:
        raise WorkError(
            f"training was ended by {signal.Signals(-code).name}; the system's log may say why "
            "(memory that ran out, for one)"
        )
    return code


def run_many(
    reference: str, config: StudyConfig, url: str, places: Sequence[Mapping[str, str]]
) -> LaunchSummary:
    """One worker process per place, until the study is done or a signal comes.

    Raises:
        WorkError: workers failed too often and the study is not done; names their logs.
        InputError: the workers found the input bad; names their logs.
    """
    with ExitStack() as stack:
        tick = _ViewOnceThere(config, url, stack)

        def leaving() -> None:
            print_line("workers finish their trials, then leave; again to leave at once")

        with stop_on_signals(leaving) as stop:
            summary = launch(
                [*PROGRAM, "worker", reference],
                # The URL may hold a password: other users see a command line, not this.
                [{**place, "SPEC_OPT_STORAGE": url} for place in places],
                Path("logs") / config.name,
                stop,
                on_tick=tick,
            )
    if summary.given_up:
        logs = ", ".join(map(str, summary.given_up))
        kind, why = (InputError, "found bad input") if summary.bad_input else (WorkError, "failed")
        text = f"{len(summary.given_up)} of {len(places)} workers {why}; see {logs}"
        _tell_failure(kind(text), summary, config, url)
    return summary


def _tell_failure(
    error: SpecOptError, summary: LaunchSummary | RaySummary, config: StudyConfig, url: str
) -> None:
    """Raise it; or say it, where that would withhold what the other workers have done."""
    if not summary.interrupted and not _is_done(config, url):
        raise error
    print_line(str(error))


def _is_done(config: StudyConfig, url: str) -> bool:
    try:
        with open_store(url, create=False) as store:
            return progress(load_study(store, config.name)).is_done
    except SpecOptError:
        return False


def ray_cluster(address: str, url: str) -> AbstractContextManager[None]:
    """Connected to a Ray cluster while inside.

    Raises:
        InputError: the store is a file, Ray is not installed, or no cluster answers.
    """
    if parse_url(url).path is not None:
        raise StoreURLError(
            f"--ray: workers on other machines cannot share the file of {url}; "
            "give --storage postgresql://…"
        )
    return cluster(address)


def run_on_ray(config: StudyConfig, url: str, tasks: int | None) -> RaySummary:
    """Workers as tasks of the connected cluster, until the study is done or a signal comes.

    Raises:
        WorkError: tasks failed for good and the study is not done.
        InputError: a task found the input bad.
    """
    work = partial(_work_in_task, prepare, run_worker, config, url)
    with ExitStack() as stack:
        tick = _ViewOnceThere(config, url, stack)

        def leaving() -> None:
            print_line("workers give their trials back, then leave; again to leave at once")

        with stop_on_signals(leaving) as stop:
            summary = run_tasks(work, tasks, config.decoding.device != "cpu", stop, on_tick=tick)
    if summary.errors:
        # Bad input first: it can be mended.
        first = max(summary.errors, key=lambda error: error.exit_code)
        text = f"{len(summary.errors)} of {summary.tasks} workers failed; the first: {first}"
        error = InputError(text) if first.exit_code == 2 else WorkError(text)
        _tell_failure(error, summary, config, url)
    return summary


def _work_in_task(
    prepare: Callable[[StudyConfig, str], tuple[Study, Objective]],
    run_worker: Callable[[Study, Objective, threading.Event], WorkerSummary],
    config: StudyConfig,
    url: str,
) -> WorkerSummary:
    study, objective = prepare(config, url)
    return run_worker(study, objective, threading.Event())


class _ViewOnceThere:
    """Opens the live view as soon as the first worker has made the study."""

    def __init__(self, config: StudyConfig, url: str, stack: ExitStack) -> None:
        self._config, self._url, self._stack = config, url, stack
        self._next_look = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 1.0
        try:
            study = look(self._config, self._url)
        except SpecOptError:
            return  # not yet
        self._next_look = math.inf
        self._stack.enter_context(LiveView(study))


def look(config: StudyConfig, url: str) -> Study:
    """The study in the store, to look at.

    Raises:
        StudyError: there is no such store or study; nothing is made.
    """
    store = open_store(url, create=False)
    try:
        return load_study(store, config.name)
    except SpecOptError:
        store.close()
        raise


def status_of(study: Study) -> StudyProgress:
    """How far the study is."""
    return progress(study)
