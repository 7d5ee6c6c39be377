"""What the commands do, as functions: from a study file to a finished study."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_opt.config import Setting, Split, StudyConfig
from spec_opt.errors import InputError, SpecOptError, StudyError, WorkError
from spec_opt.interrupts import stop_on_signals
from spec_opt.live import LiveView, TrialLines, print_line
from spec_opt.results.confirmation import Confirmation, confirm_front
from spec_opt.results.export import document_of
from spec_opt.results.front import front_text
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import as_document, render
from spec_opt.results.table import StudyTable, read_table
from spec_opt.tuning.launch import (
    LaunchSummary,
    cpu_environments,
    gpu_environments,
    launch,
    parse_gpus,
)
from spec_opt.tuning.progress import StudyProgress, progress
from spec_opt.tuning.protocol import Objective
from spec_opt.tuning.provenance import package_versions
from spec_opt.tuning.store import open_store
from spec_opt.tuning.store_url import parse_url
from spec_opt.tuning.study import Study, load_study, open_study
from spec_opt.tuning.worker import WorkerSummary, run_worker

if TYPE_CHECKING:
    from spec_opt.results.benchmark import Bench
    from spec_opt.results.importing import Imported
    from spec_opt.results.report import Report

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
    from spec_opt.tuning.objective import Objective as Prepared

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
    from spec_opt.data import load_dataset
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
    import torch

    return gpu_environments(parse_gpus(gpus, torch.cuda.device_count))


def make_models(reference: str) -> int:
    """Train in a process of its own, so that this one holds no device; its exit code.

    Why it failed, it tells on stderr itself.
    """
    command = [*PROGRAM, "train", reference]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


def run_many(
    reference: str, config: StudyConfig, url: str, places: Sequence[Mapping[str, str]]
) -> LaunchSummary:
    """One worker process per place, until the study is done or a signal comes.

    Raises:
        WorkError: workers failed too often; names their logs.
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
        if summary.bad_input:
            raise InputError(f"a worker found bad input; see {logs}")
        raise WorkError(f"{len(summary.given_up)} of {len(places)} workers failed; see {logs}")
    return summary


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
    return load_study(open_store(url, create=False), config.name)


def results_of(config: StudyConfig, url: str) -> StudyTable:
    """The trials in the store, measured or imported.

    Raises:
        StudyError: there is no such store or study; nothing is made.
    """
    return read_table(open_store(url, create=False).optuna_study(config.name))


def table_of(study: Study) -> StudyTable:
    """The study's trials."""
    return read_table(study.optuna_study())


def status_of(study: Study) -> StudyProgress:
    """How far the study is."""
    return progress(study)


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


def confirm(config: StudyConfig, table: StudyTable, split: Split) -> Confirmation:
    """Measure the front's settings on another split than the study's.

    Raises:
        InputError: it is the split that the study was tuned on.
        StudyError: the models are not those of the study.
    """
    if split == config.data.split:
        raise InputError(
            f"--split {split}: study {config.name} was tuned on it; name another split to confirm"
        )
    from spec_opt.tuning.objective import Objective as Prepared

    elsewhere = config.model_copy(update={"data": config.data.model_copy(update={"split": split})})
    objective = Prepared.prepare(elsewhere)
    stored = table.fingerprints
    if stored is not None and (stored.target, stored.draft) != (
        objective.fingerprints.target,
        objective.fingerprints.draft,
    ):
        raise StudyError(
            f"study {config.name}: was measured with other models than the study file names now"
        )
    return confirm_front(table, config.data.split, split, objective, objective.baseline)


def bench(
    config: StudyConfig,
    url: str,
    *,
    trial: int | None,
    setting: Setting | None,
    batch_sizes: Sequence[int],
    repeats: int,
) -> Bench:
    """Speculative against target-only decoding, timed; see `spec_opt.bench.bench_study`.

    Raises:
        SpecOptError: the study, a trial of it, or what it names is not there or does not fit.
    """
    # Imports torch.
    from spec_opt.bench import bench_study

    return bench_study(
        config, url, trial=trial, setting=setting, batch_sizes=batch_sizes, repeats=repeats
    )


def import_old(config: StudyConfig, url: str, tables: Sequence[Path]) -> Imported:
    """Old result tables become trials of the study.

    Raises:
        DataError: a file cannot be read.
        StudyError: the study holds measured trials.
    """
    from spec_opt.results.importing import import_tables
    from spec_opt.results.old_tables import read_tables

    read_tables(tables)  # Bad files are found before a store is made.
    return import_tables(open_store(url), config.name, tables)


def serve_dashboard(
    config: StudyConfig | None, url: str, host: str, port: int, on_ready: Callable[[str], None]
) -> None:
    """optuna-dashboard until interrupted.

    Raises:
        InputError: host or port will not do.
        StudyError: there is no such store or study.
    """
    from spec_opt.results.dashboard import serve

    names = () if config is None else (config.name,)
    serve(url, names, host=host, port=port, on_ready=on_ready)
