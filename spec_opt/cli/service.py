"""Workers on a study: in this process, in processes of this machine, or on a Ray cluster.

Commands import this file only when they run, as what it imports takes a second.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spec_opt.api import places_for_workers, prepare, run_workers, train_apart
from spec_opt.cli.common import note
from spec_opt.cli.interrupts import stop_on_signals
from spec_opt.cli.live import LiveView, print_failure, print_trial
from spec_opt.config.study_file import StudyConfig
from spec_opt.errors import InputError, SpecOptError, StoreURLError, StudyError, WorkError
from spec_opt.study.database import parse_url
from spec_opt.study.ray_cluster import cluster, import_ray, run_tasks
from spec_opt.study.samplers import check_sampler
from spec_opt.study.store import Store, look_at_store, open_store
from spec_opt.study.study import Study, check_study, load_study
from spec_opt.study.worker import run_worker

if TYPE_CHECKING:
    from spec_opt.measure.objective import StudyObjective


def look(config: StudyConfig, url: str) -> Study:
    """The study in the store, only to be read.

    Raises:
        StudyError: there is no such store or study; neither is made.
    """
    return _found(look_at_store(url), config)


def find(config: StudyConfig, url: str) -> Study:
    """The study in the store as its workers open it: counted against this study file.

    Raises:
        StudyError: there is no such store or study; neither is made.
    """
    return replace(_found(open_store(url, create=False), config), config=config)


def _found(store: Store, config: StudyConfig) -> Study:
    try:
        return load_study(store, config.name)
    except SpecOptError:
        store.close()
        raise


def work(
    config: StudyConfig, url: str, *, log_trials: bool = False
) -> tuple[Study, StudyObjective, bool]:
    """One worker in this process, with the live view or, with `log_trials`, a line per trial.

    Returns the study, what measured it, and whether the work was interrupted.
    """
    study, objective = prepare(config, url)
    with ExitStack() as stack:
        if not log_trials:
            stack.enter_context(LiveView(lambda: study))
        on_first = partial(
            note, "finishing the running trial, then leaving; again to leave at once"
        )
        stop = stack.enter_context(stop_on_signals(on_first))
        report = print_trial if log_trials else print_failure
        interrupted = run_worker(study, objective, stop, on_trial=report).interrupted
        return study, objective, interrupted


def work_in_task(config: StudyConfig, url: str) -> None:
    """One worker as a Ray task; its signals are Ray's."""
    run_worker(*prepare(config, url), threading.Event())


def run_processes(
    reference: str, config: StudyConfig, url: str, workers: int | None, gpus: str | None
) -> tuple[Study, bool]:
    """One worker process per GPU, or `workers` on the CPU, until all have left.

    Returns the study and whether the work was interrupted.

    Raises:
        InputError: a GPU that does not exist, or workers found bad input; names their logs.
        WorkError: workers failed too often and the study is not done, or all of them did; names
            their logs.
        KeyboardInterrupt: interrupted before the study existed.
    """
    places, logs = places_for_workers(config, url, workers, gpus), Path("logs") / config.name
    make_models(reference, url)
    on_first = partial(note, "workers finish their trials, then leave; again to leave at once")
    with LiveView(partial(find, config, url)) as view, stop_on_signals(on_first) as stop:
        interrupted, error = run_workers(reference, url, places, logs, stop)
    return _worked_on(view, error, interrupted)


def run_on_ray(
    reference: str, config: StudyConfig, url: str, address: str, tasks: int | None
) -> tuple[Study, bool]:
    """Workers as tasks of a Ray cluster, until all have ended.

    Returns the study and whether the work was interrupted.

    Raises:
        InputError: the store is a file, Ray is not installed, no cluster answers, or a task found
            bad input.
        WorkError: tasks failed for good and the study is not done, or all of them did.
        KeyboardInterrupt: interrupted before the study existed.
    """
    if parse_url(url).path is not None:
        raise StoreURLError(
            f"--ray: workers on other machines cannot share the file of {url}; "
            "give --storage postgresql://…"
        )
    import_ray()  # a cheap check: before the store is asked, which takes its time if it is away
    check_sampler(config.search)
    check_study(url, config)
    task = partial(work_in_task, config, url)
    on_first = partial(note, "workers give their trials back, then leave; again to leave at once")
    with cluster(address):
        make_models(reference, url)
        with LiveView(partial(find, config, url)) as view, stop_on_signals(on_first) as stop:
            summary = run_tasks(task, tasks, config.decoding.device != "cpu", stop)
    error: SpecOptError | None = None
    if summary.errors:
        # Bad input first: the user can mend it.
        first = max(summary.errors, key=lambda error: error.exit_code)
        text = f"{len(summary.errors)} of {summary.tasks} workers failed; the first: {first}"
        error = InputError(text) if first.exit_code == 2 else WorkError(text)
        if len(summary.errors) == summary.tasks and not summary.interrupted:
            raise error
    return _worked_on(view, error, summary.interrupted)


def make_models(reference: str, url: str) -> None:
    """Train in a process of its own, so that this one holds no device.

    Raises:
        click.exceptions.Exit: it failed, and has said why on stderr.
        WorkError: it was killed.
    """
    code = train_apart(reference, url, stdout=subprocess.DEVNULL).returncode
    if code < 0:
        raise WorkError(
            f"training was ended by {signal.Signals(-code).name}; the system's log may say why "
            "(memory that ran out, for one)"
        )
    if code:
        raise click.exceptions.Exit(code)


def _worked_on(view: LiveView, error: SpecOptError | None, interrupted: bool) -> tuple[Study, bool]:
    """What `run_processes` and `run_on_ray` return once their workers have left.

    An error of some of them is raised only if the study is not done: the others did the work.
    """
    if error is not None:
        if not interrupted and not view.done.is_set():
            raise error
        note(str(error))
    try:
        return view.study or view.find(), interrupted
    except StudyError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
