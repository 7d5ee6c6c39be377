"""What a person watches while a study runs, on stderr: a panel on a terminal, else plain lines.

A study's state, for a person and for a script.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spec_opt.errors import SpecOptError
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, read_table
from spec_opt.results.wording import described, percent, plural
from spec_opt.study.progress import StudyProgress, WorkerStatus, progress
from spec_opt.study.study import Study
from spec_opt.study.worker import TrialReport


def as_document(now: StudyProgress, table: StudyTable) -> dict[str, Any]:
    """For `status --json`."""
    best = {
        "acceptance_rate": min(table.points, key=by_acceptance, default=None),
        "mse": min(table.points, key=by_mse, default=None),
    }
    return {
        "study": now.name,
        "states": asdict(now.states),
        "missing": now.missing,
        "total": now.total,
        "distinct": now.distinct,
        "done": now.is_done,
        "workers": [_worker(worker) for worker in now.workers],
        "trials_per_minute": now.trials_per_minute,
        "seconds_left": now.seconds_left,
        "given_up": [
            {"setting": g.setting.model_dump(), "attempts": g.attempts, "error": g.error}
            for g in now.given_up
        ],
        "best": {
            metric: None
            if point is None
            else {
                "trial": point.number,
                "setting": point.setting.model_dump(),
                "acceptance_rate": point.result.acceptance_rate,
                "mse": point.result.mse,
            }
            for metric, point in best.items()
        },
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    setting = None if worker.setting is None else worker.setting.model_dump()
    return asdict(worker) | {"setting": setting}


def as_text(now: StudyProgress, table: StudyTable) -> str:
    """For a terminal."""
    states = now.states
    lines = [
        f"{now.name}: {now.total - now.missing} of {now.total} trials complete"
        + (", done" if now.is_done else f", {now.missing} missing"),
        f"  states: {states.complete} complete, {states.running} running, "
        f"{states.waiting} waiting, {states.fail} failed",
    ]
    if now.settings is not None:
        lines.append(f"  distinct settings measured: {now.distinct} of {now.settings}")
    if now.trials_per_minute is not None:
        left = "" if now.seconds_left is None else f", about {duration(now.seconds_left)} left"
        lines.append(f"  rate: {pace(now.trials_per_minute)}{left}")
    lines += [worker_line(worker) for worker in now.workers] or ["  no worker holds a trial"]
    lines += [
        f"  given up after {plural(g.attempts, 'attempt')}: {g.setting}: {g.error}"
        for g in now.given_up
    ]
    if table.points:
        lines.append(f"  highest acceptance: {described(min(table.points, key=by_acceptance))}")
        lines.append(f"  lowest MSE: {described(min(table.points, key=by_mse))}")
    return "\n".join(lines)


def worker_line(worker: WorkerStatus) -> str:
    """A worker that holds a trial."""
    life = "alive" if worker.alive else "silent"
    return (
        f"  worker {worker.host}:{worker.pid} {life}, last sign of life "
        f"{worker.silent_seconds:.0f} s ago, trial {worker.trial} ({worker.setting})"
    )


def pace(trials_per_minute: float) -> str:
    """A rate as a person says it."""
    if trials_per_minute < 1.0:
        return f"{60.0 * trials_per_minute:.1f} trials an hour"
    return f"{trials_per_minute:.1f} trials a minute"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOOKS = 1.0
SHARE_OF_TIME = 0.05
"""Looking takes at most this share of the time, however large the study."""
FRONT_ROWS = 8
ERROR_ROWS = 3


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment, as it is shown."""

    now: StudyProgress
    front: tuple[Point, ...]
    """Distinct results on the Pareto front so far, highest acceptance first."""
    errors: tuple[str, ...]
    """The last trials that failed, newest first."""


def take(study: Study, table: StudyTable) -> Snapshot:
    """A study and its trials, as they are shown.

    Raises:
        StoreError: the store cannot be reached.
    """
    front = tuple(block[0] for block in table.distinct_front)
    return Snapshot(progress(study), front, _errors(table))


class TrialLines:
    """A line for each trial of this process: what a worker's log holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """One line."""
        print_line(text)

    def report(self, trial: TrialReport) -> None:
        """A trial has ended."""
        if trial.error is not None:
            self.say(f"trial {trial.number} ({trial.setting}) failed: {trial.error}")
            return
        acceptance, mse = trial.values[:2]
        self.say(
            f"trial {trial.number} ({trial.setting}) {trial.outcome}: "
            f"{percent(acceptance)} accepted, MSE {mse:.4f}, {trial.seconds:.1f} s"
        )


class LiveView:
    """Shows a study while it runs; a context manager. It looks at the store in a thread."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._console = Console(stderr=True)
        self._snapshot: Snapshot | None = None
        self.done = threading.Event()
        """Set once the study is seen to be done."""
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="live view", daemon=True)
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._panel,
                refresh_per_second=2,
                transient=True,
            )

    def __enter__(self) -> Self:
        self._look()
        if self._live is not None:
            self._live.start()
        elif not self.done.is_set():
            self._line()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave.set()
        self._thread.join(timeout=5.0)
        if self._live is not None:
            self._live.stop()
        if kind is None:  # else the store itself may be what failed
            self._look()
            self._line()

    def say(self, text: str) -> None:
        """One line, above the panel if there is one."""
        print_line(text, self._console)

    def report(self, trial: TrialReport) -> None:
        """A trial of this process has ended: a failure is told at once."""
        if trial.error is not None:
            self.say(f"trial {trial.number} ({trial.setting}) failed: {trial.error}")

    def _watch(self) -> None:
        # A look costs time that the work in this process could use: no more than are shown.
        interval = SECONDS_BETWEEN_LINES if self._live is None else SECONDS_BETWEEN_LOOKS
        pause = interval
        while not self._leave.wait(pause):
            began = time.monotonic()
            self._look()
            pause = max(interval, (time.monotonic() - began) / SHARE_OF_TIME)
            if self._live is None:
                self._line()

    @cached_property
    def _read(self) -> Callable[[], StudyTable]:
        """The trials, of which those that have ended are read only once."""
        return partial(read_table, self._study.optuna_study())

    def _look(self) -> None:
        try:
            self._snapshot = take(self._study, self._read())
            if self._snapshot.now.is_done:
                self.done.set()
        except SpecOptError as error:
            # The workers wait for the store to come back; so does the view.
            log.warning("%s", error)

    def _line(self) -> None:
        if self._snapshot is not None:
            self.say(line_of(self._snapshot))

    def _panel(self) -> RenderableType:
        return Text("") if self._snapshot is None else panel_of(self._snapshot)


def print_line(text: str, console: Console | None = None) -> None:
    """One line on stderr, as it is."""
    console = console or Console(stderr=True)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def line_of(snapshot: Snapshot) -> str:
    """A snapshot as one plain line."""
    now = snapshot.now
    parts = [f"{now.name}: {now.total - now.missing} of {now.total} trials done"]
    if now.states.fail:
        parts.append(f"{now.states.fail} failed")
    if not now.is_done:
        parts.append(f"{now.states.running} running")
        parts += _pace(now)
    if snapshot.front:
        best = snapshot.front[0].result
        parts.append(f"best so far {percent(best.acceptance_rate)} accepted at MSE {best.mse:.4f}")
    return ", ".join(parts)


def panel_of(snapshot: Snapshot) -> RenderableType:
    """A snapshot as a panel of lines: progress, workers, the front so far, the last errors."""
    now = snapshot.now
    head = Table.grid(padding=(0, 2))
    done = now.total - now.missing
    head.add_row(
        Text(now.name, style="bold"),
        ProgressBar(total=max(1, now.total), completed=done, width=40),
        f"{done} of {now.total}",
        ", ".join(_pace(now)),
    )
    states = now.states
    lines: list[RenderableType] = [
        head,
        f"  {states.complete} complete, {states.running} running, {states.waiting} waiting, "
        f"{states.fail} failed; distinct settings {now.distinct}",
    ]
    lines += [Text(worker_line(worker)) for worker in now.workers]
    if snapshot.front:
        front = Table(box=None, padding=(0, 2), title="front so far", title_justify="left")
        for heading in ("trial", "sigma", "bias", "k", "acceptance", "MSE"):
            front.add_column(heading, justify="right")
        for point in snapshot.front[:FRONT_ROWS]:
            setting, result = point.setting, point.result
            front.add_row(
                str(point.number),
                f"{setting.sigma:g}",
                f"{setting.bias:g}",
                str(setting.k),
                percent(result.acceptance_rate),
                f"{result.mse:.4f}",
            )
        lines.append(front)
    lines += [Text(f"  failed: {error}", style="red") for error in snapshot.errors]
    return Group(*lines)


def _pace(now: StudyProgress) -> list[str]:
    parts = []
    if now.trials_per_minute is not None:
        parts.append(pace(now.trials_per_minute))
    if now.seconds_left is not None and not now.is_done:
        parts.append(f"{duration(now.seconds_left)} left")
    return parts


def _errors(table: StudyTable) -> tuple[str, ...]:
    failed = (row for row in reversed(table.trials) if row.error is not None)
    lines = (f"trial {row.number} ({row.setting}): {row.error}" for row in failed)
    return tuple(line for line, _ in zip(lines, range(ERROR_ROWS), strict=False))
