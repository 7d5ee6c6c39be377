"""Studies from Python: open one, run it, read its results.

    study = spec_opt.open_study("etth1_grid")
    study.run(workers=2)
    study.front()
    study.recommend("balanced")

What the command line does with a study, this does too: both share stores and results.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError
from tqdm import tqdm

from spec_opt.config.files import write_file
from spec_opt.config.messages import first_problem
from spec_opt.config.paths import ANOTHER_STORE, DEFAULT_STORAGE, STORAGE_VARIABLE
from spec_opt.config.study_file import (
    StudyConfig,
    no_such_study,
    read_study,
    shipped_studies,
    study_path,
)
from spec_opt.config.toml import toml_of
from spec_opt.errors import (
    ConfigError,
    InputError,
    OutputError,
    SpecOptError,
    StudyError,
    WorkError,
)
from spec_opt.results.bench import bench_run
from spec_opt.results.document import Block, Text, as_html
from spec_opt.results.export import selected_frame
from spec_opt.results.recommend import (
    SCENARIOS,
    Recommendation,
    Scenario,
    recommend,
    recommend_all,
)
from spec_opt.results.render import front
from spec_opt.results.table import StudyTable, load_table
from spec_opt.results.verdict import Verdict, verdict_of
from spec_opt.study.catalogue import stored_studies
from spec_opt.study.database import absolute, parse_url
from spec_opt.study.launch import cpu_environments, gpu_environments, launch, parse_gpus
from spec_opt.study.progress import StudyProgress, progress
from spec_opt.study.samplers import check_sampler
from spec_opt.study.store import look_at_store, open_store
from spec_opt.study.study import Study, check_study, load_study, package_versions
from spec_opt.study.study import open_study as open_in_store
from spec_opt.study.worker import Stop, run_worker

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    import plotly.graph_objects as go

    from spec_opt.measure.objective import StudyObjective
    from spec_opt.results.forecasting import Alone, Forecast

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "spec_opt")
FRONT_ROWS = 12
"""Of the front, in a notebook."""
SECONDS_BETWEEN_LOOKS = 1.0


def open_study(
    study: str | Path | StudyConfig | Mapping[str, Any], storage: str | None = None
) -> TuningStudy:
    """Open a study to run it or to read its results; nothing is read from the store or written.

    Args:
        study: A study file's path, the name of one that ships, the name of a study in the store,
            or the settings themselves, as a dict of a study file's tables or a StudyConfig.
        storage: URL of the store, `sqlite:///FILE` or `postgresql://…`; by default that of the
            environment variable SPEC_OPT_STORAGE, or else `sqlite:///storage/spec_opt.db`.

    Raises:
        ConfigError: there is no such study, or its file or dict holds something that is not
            allowed.
        StoreURLError: the URL is malformed or unsupported.
    """
    url = os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE if storage is None else storage
    url = absolute(url)
    if isinstance(study, Mapping):
        try:
            study = StudyConfig.model_validate(study)
        except ValidationError as error:
            raise ConfigError(f"settings: {first_problem(error, StudyConfig)}") from error
    if isinstance(study, StudyConfig):
        return TuningStudy(study, url, study.name)
    reference = os.fspath(study)
    return TuningStudy(find_settings(reference, url), url, reference)


def find_settings(reference: str, url: str) -> StudyConfig:
    """The settings of a study: from its file, or as the store holds them under that name.

    A file goes first, with or without `.toml`; then the files that ship, by their names; then the
    store, and last the names that shipped files give their studies.

    Raises:
        ConfigError: there is no such study, or its file holds something that is not allowed.
        StudyError: the store holds only results of that name, which were imported.
        StoreError: the store cannot be reached.
    """
    if study_path(reference) is not None:
        return read_study(reference)
    if any(mark in reference for mark in ("/", "\\", ".toml")):
        return read_study(reference)  # which says that there is no such file
    stored = [study.name for study in stored_studies(url)]
    if reference in stored:
        log.info("study %s: with the settings that the store holds", reference)
        with look_at_store(url) as store:
            return load_study(store, reference).config
    shipped = {read_study(name).name: name for name in shipped_studies()}
    if reference in shipped:
        return read_study(shipped[reference])
    raise no_such_study(
        reference,
        f"; or one in the store {parse_url(url).place}, which holds {', '.join(stored) or 'none'}; "
        f"{ANOTHER_STORE}",
    )


def prepare(config: StudyConfig, url: str) -> tuple[Study, StudyObjective]:
    """Everything a worker needs; bad input is found before anything is written.

    Raises:
        SpecOptError: the URL, the series, a checkpoint or the store is wrong.
    """
    from spec_opt.measure.objective import StudyObjective  # brings torch

    check_sampler(config.search)
    check_study(url, config)
    objective = StudyObjective.prepare(config)
    check_study(url, config, objective.fingerprints)  # the baseline takes its time
    baseline = objective.baseline
    store = open_store(url)
    inputs, versions = objective.inputs.as_document(), package_versions()
    try:
        study = open_in_store(store, config, objective.fingerprints, baseline, versions, inputs)
    except SpecOptError:
        store.close()
        raise
    objective.share_costs = study.shared_costs
    return study, objective


def places_for_workers(
    config: StudyConfig, url: str, workers: int | None, gpus: str | None
) -> list[dict[str, str]]:
    """The environment of each worker process: one a GPU, or else `workers` on the CPU.

    Raises:
        InputError: a GPU that does not exist, or a sampler that cannot be made.
        StudyError: the store holds the study with other settings.
    """
    check_sampler(config.search)
    check_study(url, config)
    if gpus is None:
        return cpu_environments(workers or 1)
    from spec_opt.models.device import gpu_count  # brings torch

    return gpu_environments(parse_gpus(gpus, gpu_count))


def train_apart(
    reference: str, url: str, *, stdout: int, stderr: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Make a study's models in a process of their own, so that this one holds no device.

    Args:
        stdout, stderr: as of `subprocess.run`.
    """
    return subprocess.run(
        [*PROGRAM, "train", reference],
        stdout=stdout,
        stderr=stderr,
        text=True,
        env={**os.environ, STORAGE_VARIABLE: url},  # it may hold a password: not on a command line
        check=False,
    )


def run_workers(
    reference: str,
    url: str,
    places: Sequence[Mapping[str, str]],
    folder: Path,
    stop: Stop,
    on_tick: Callable[[], None] = lambda: None,
) -> tuple[bool, SpecOptError | None]:
    """A worker process in each place, until all have left; their logs are in `folder`.

    Returns whether they were interrupted, and an error if some were given up.

    Raises:
        InputError, WorkError: none worked to the end: whatever study the store holds, it was not
            found to be the one that is asked for.
    """
    # The URL may hold a password, and other users see command lines.
    environments = [{**place, STORAGE_VARIABLE: url} for place in places]
    command = [*PROGRAM, "worker", reference]
    summary = launch(command, environments, folder, stop, on_tick=on_tick)
    if not summary.given_up:
        return summary.interrupted, None
    logs = ", ".join(map(str, summary.given_up))
    kind, why = (InputError, "found bad input") if summary.bad_input else (WorkError, "failed")
    reason = f": {summary.reason}" if summary.reason else ""
    text = f"{len(summary.given_up)} of {len(places)} workers {why}{reason}; see {logs}"
    if len(summary.given_up) == len(places) and not summary.interrupted:
        raise kind(text)
    return summary.interrupted, kind(text)


@dataclass(frozen=True, repr=False)
class TuningStudy:
    """A study: what is tuned, and the store that keeps its trials. `open_study` makes one.

    In a notebook it shows its Pareto front.
    """

    config: StudyConfig
    """Its settings."""
    storage: str
    """URL of its store; a file's path in it is absolute."""
    reference: str
    """As it was named, for commands to paste."""

    def __repr__(self) -> str:
        """Name, store and number of trials; the store's password is not shown."""
        store = parse_url(self.storage).masked
        try:
            states = self.table().states
        except StudyError:
            found = "not run yet"
        except SpecOptError as error:
            found = str(error)
        else:
            found = f"{states.get('complete', 0)} of {sum(states.values())} trials complete"
        return f"<TuningStudy {self.name} in {store}: {found}>"

    def _repr_html_(self) -> str:
        """The verdict and the front, for notebooks."""
        try:
            table = self.table()
        except StudyError as error:
            return as_html([Text(str(error))])
        blocks: list[Block] = [Text(self._verdict(table).reason)]
        return as_html([*blocks, *front(table, FRONT_ROWS)])

    @property
    def name(self) -> str:
        """Under which the store keeps it."""
        return self.config.name

    def run(
        self, workers: int | None = None, *, gpus: str | None = None, show_progress: bool = True
    ) -> Self:
        """Run the study to its end, then time what it recommends; run again, it resumes.

        Makes the models first if need be. Interrupted, it keeps what was finished.

        Args:
            workers: Processes on the CPU, which log to `logs/<study>`; by default one worker, in
                this process.
            gpus: Instead one process per GPU, "0,1" or "all".
            show_progress: On stderr, as a bar.

        Raises:
            InputError: the series, a checkpoint, a GPU or the store's URL is wrong.
            StudyError: the store holds the study with other models, data or decoding.
            WorkError: training, the store or a worker failed.
        """
        if workers is not None and gpus is not None:
            raise InputError("workers and gpus exclude each other: give one of them")
        objective = None
        with _Bar(self, show_progress) as bar:
            if workers is None and gpus is None:
                objective = self._run_here(bar)
            else:
                self._run_processes(workers, gpus, bar)
        now = self.progress()
        if now.is_done:
            try:
                with open_store(self.storage, create=False) as store:
                    bench_run(self.config, store, objective, self.reference)
            except SpecOptError as error:
                log.warning("no speedup was measured: %s", error)
        if now.missing:
            log.warning("study %s: %d of %d missing", self.name, now.missing, now.total)
        return self

    def _run_here(self, bar: _Bar) -> StudyObjective:
        study, objective = prepare(self.config, self.storage)
        with study.store:
            bar.look(study)
            summary = run_worker(
                study, objective, threading.Event(), on_trial=lambda _: bar.look(study)
            )
            bar.look(study, now=True)
        if summary.interrupted:
            raise KeyboardInterrupt
        return objective

    def _run_processes(self, workers: int | None, gpus: str | None, bar: _Bar) -> None:
        places = places_for_workers(self.config, self.storage, workers, gpus)
        folder, stop = Path("logs") / self.name, threading.Event()
        file = folder / "study.toml"
        try:
            write_file(file, toml_of(self.config).encode())
        except OutputError as error:
            raise OutputError(f"{error}; work in another folder") from error
        _train(file, self.storage)
        interrupted, failure = run_workers(str(file), self.storage, places, folder, stop, bar.find)
        if interrupted:
            raise KeyboardInterrupt
        bar.find(now=True)
        if failure is not None and not self.progress().is_done:
            raise failure

    def progress(self) -> StudyProgress:
        """How far it is, and who works on it.

        Raises:
            StudyError: it was not run yet.
        """
        with look_at_store(self.storage) as store:
            return progress(load_study(store, self.name), asked=self.config.search)

    def table(self) -> StudyTable:
        """All trials, and what the study holds about itself; the other results rest on it.

        Raises:
            StudyError: it was not run yet.
        """
        return load_table(self.storage, self.config)

    def frame(self) -> pd.DataFrame:
        """One row a trial, by number, with the columns of docs/export.md."""
        return selected_frame(self.table(), all_trials=True)

    def front(self) -> pd.DataFrame:
        """The Pareto trials, best acceptance first; columns as in `frame`."""
        return selected_frame(self.table(), all_trials=False)

    def verdict(self) -> Verdict:
        """Whether speculation pays, with which setting, and what that rests on."""
        return self._verdict(self.table())

    def _verdict(self, table: StudyTable) -> Verdict:
        return verdict_of(table, self.reference)

    def recommend(self, scenario: Scenario = "balanced") -> Recommendation:
        """The setting to use, and why.

        Args:
            scenario: "speed", "quality" or "balanced".

        Raises:
            InputError: there is no such scenario.
        """
        if scenario not in SCENARIOS:
            raise InputError(f"scenario {scenario!r}: must be one of {', '.join(SCENARIOS)}")
        return recommend(self.table(), scenario)

    def figures(self) -> dict[str, go.Figure]:
        """The report's figures by name."""
        from spec_opt.results.figures import figures  # brings plotly

        table = self.table()
        return figures(table, recommend_all(table))

    def forecast(
        self,
        source: str | Path | None = None,
        *,
        trial: int | None = None,
        scenario: Scenario | None = None,
        alone: Alone | None = None,
        horizon: int | None = None,
    ) -> Forecast:
        """What follows a series, in its own units (`frame`), how and why (`plan`), and `remarks`.

        As `spec-opt forecast` does it: by the verdict unless one of trial, scenario and alone is
        given.

        Args:
            source: The series' file, CSV or Parquet; by default the study's own.
            trial: Speculate with its setting.
            scenario: Speculate with the setting recommended for it.
            alone: "target", "draft" or "linear": forecast with that model alone.
            horizon: Points; by default the study's.

        Raises:
            InputError: the series cannot be read or used, or what is asked excludes each other.
            StudyError: it was not run yet, or has no such trial.
        """
        from spec_opt.results.forecasting import forecast_study, plan_of

        if sum(given is not None for given in (trial, scenario, alone)) > 1:
            raise InputError("trial, scenario and alone exclude each other: give one of them")
        table = load_table(self.storage, self.config, also=() if trial is None else (trial,))
        plan = plan_of(table, self.reference, trial, scenario, alone)
        path = None if source is None else Path(source)
        return forecast_study(self.config, table, plan, path, horizon)

    @property
    def optuna(self) -> optuna.Study:
        """The study as Optuna's own, for everything else.

        Raises:
            StudyError: it was not run yet.
        """
        return open_store(self.storage, create=False).optuna_study(self.name)


class _Bar:
    """A study's trials as a bar on stderr, which looks at the store now and then."""

    def __init__(self, study: TuningStudy, shown: bool) -> None:
        self._study = study
        self._bar = tqdm(desc=study.name, unit=" trials", disable=not shown)
        self._looked = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def look(self, study: Study, *, now: bool = False) -> None:
        self._show(lambda: progress(study), now)

    def find(self, *, now: bool = False) -> None:
        """As `look`, but the study may not be there yet."""
        try:
            self._show(self._study.progress, now)
        except StudyError:
            return

    def _show(self, read: Callable[[], StudyProgress], now: bool) -> None:
        began = time.monotonic()
        if began - self._looked < SECONDS_BETWEEN_LOOKS and not now:
            return
        self._looked = began
        found = read()
        self._bar.total, self._bar.n = found.total, found.total - found.missing
        self._bar.refresh()


def _train(file: Path, url: str) -> None:
    """Make the models before workers start, or raise what they said last."""
    done = train_apart(str(file), url, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        kind = InputError if done.returncode == 2 else WorkError
        raise kind(f"making the models failed: {last.removeprefix('spec-opt: error: ')}")
