"""A study's progress: on stderr while it runs, and as `spec-opt status` prints it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from pydantic_core import to_jsonable_python
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn
from rich.text import Text

from spec_opt.cli.common import note, terminal_width
from spec_opt.config.outgoing import outgoing, printable
from spec_opt.config.study_file import SearchConfig
from spec_opt.errors import SpecOptError
from spec_opt.results import document
from spec_opt.results.render import COLUMNS, cells
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, table_and_rows
from spec_opt.results.verdict import Verdict
from spec_opt.results.wording import (
    described,
    left_out,
    levels_text,
    none_feasible,
    percent,
    plural,
)
from spec_opt.study.claims import Heartbeat
from spec_opt.study.progress import StudyProgress, WorkerStatus, progress
from spec_opt.study.silence import Watch
from spec_opt.study.study import Study
from spec_opt.study.worker import TrialReport

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOOKS = 1.0
SHARE_OF_TIME = 0.05
"""Reading the store takes at most this share of the time, however large the study."""
HEARTBEAT = Heartbeat()
BEATS_MISSED = 3
"""After more of them a worker is no longer called alive."""
FRONT_ROWS = 8
ERROR_ROWS = 3


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    now: StudyProgress
    table: StudyTable
    verdict: Verdict | None = None
    """None while it only runs."""


def look(study: Study, search: SearchConfig, watch: Watch | None = None) -> Snapshot:
    """The study as it is in the store, counted against `search`; its trials are read once.

    Raises:
        StoreError: the store cannot be reached.
    """
    stored = study.store.optuna_study(study.name)
    table, rows = table_and_rows(study.store, stored, search, "front")
    return Snapshot(progress(study, asked=search, watch=watch, rows=rows), table)


def document_of(snapshot: Snapshot) -> dict[str, Any]:
    """The document of `status --json`."""
    now, points = snapshot.now, snapshot.table.points
    return {
        "study": now.name,
        **to_jsonable_python(now, exclude={"name"}),
        "done": now.is_done,
        "verdict": snapshot.verdict and snapshot.verdict.document(),
        "best": {
            "acceptance_rate": _best(min(points, key=by_acceptance, default=None)),
            "mse": _best(min(points, key=by_mse, default=None)),
        },
    }


def _best(point: Point | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "trial": point.number,
        "setting": point.setting.model_dump(),
        "acceptance_rate": point.result.acceptance_rate,
        "mse": point.result.mse,
    }


def text_of(snapshot: Snapshot) -> str:
    """The text of `status`."""
    now, points = snapshot.now, snapshot.table.points
    lines = _progress_lines(now)
    if now.states.fail and now.last_error is not None and not now.given_up:
        lines.append(f"  why the last trial failed: {now.last_error}")
    if snapshot.verdict is not None:
        said = document.Text(snapshot.verdict.reason)
        lines = [document.as_text([said], terminal_width()), "", *lines]
    if points:
        lines.append(f"  highest acceptance: {described(min(points, key=by_acceptance))}")
        lines.append(f"  lowest MSE: {described(min(points, key=by_mse))}")
    remarks = (
        levels_text(snapshot.table),
        none_feasible(snapshot.table),
        left_out(snapshot.table),
    )
    lines += [f"  {remark}" for remark in remarks if remark]
    return "\n".join(lines)


def _progress_lines(now: StudyProgress) -> list[str]:
    states = now.states
    lines = [
        f"{now.name}: {now.total - now.missing} of {now.total} trials complete"
        + (", done" if now.is_done else f", {now.missing} missing"),
        f"  states: {states.complete} complete, {states.running} running, "
        f"{states.waiting} waiting, {states.fail} failed"
        + (f", {states.withdrawn} withdrawn" if states.withdrawn else ""),
    ]
    if now.ending is not None:
        lines.append(f"  ended: {now.ending}")
    if now.settings is not None:
        lines.append(f"  distinct settings measured: {now.distinct} of {now.settings}")
    if now.trials_per_minute is not None:
        lines.append(f"  rate: {', '.join(_pace(now))}")
    lines += [
        f"  {_holder(worker)}, trial {worker.trial}"
        + ("" if worker.setting is None else f" ({worker.setting})")
        for worker in now.workers
    ] or ["  no worker holds a trial"]
    return lines + [
        f"  given up after {plural(g.attempts, 'attempt')}: {g.label}: {g.error}"
        for g in now.given_up
    ]


def _holder(worker: WorkerStatus) -> str:
    seconds = f"{worker.silent_seconds:.0f} s"
    if worker.pid is None:
        return f"another client of Optuna for {seconds}"
    if worker.clock_ahead_seconds and not worker.silent_seconds:
        ahead = duration(worker.clock_ahead_seconds)
        return f"worker {worker.host}:{worker.pid}, whose clock is {ahead} ahead"
    name = f"worker {worker.host}:{worker.pid}"
    if not worker.alive:
        return f"{name} silent for {seconds}: the next worker that looks gives it up"
    if worker.silent_seconds > BEATS_MISSED * HEARTBEAT.interval:
        return f"{name} silent for {seconds}, given up at {HEARTBEAT.grace:.0f} s"
    return f"{name} alive, last sign of life {seconds} ago"


def _pace(now: StudyProgress) -> list[str]:
    """How fast the study goes and how long it will still take, as far as that is known."""
    parts = []
    if now.trials_per_minute is not None:
        parts.append(pace(now.trials_per_minute))
    if now.seconds_left is not None and not now.is_done:
        left = f"about {duration(now.seconds_left)}" if now.seconds_left >= 1 else "less than 1 s"
        parts.append(f"{left} left")
    return parts


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


def line_of(snapshot: Snapshot) -> str:
    """A snapshot as one plain line."""
    now, front = snapshot.now, snapshot.table.front
    parts = [f"{now.name}: {now.total - now.missing} of {now.total} trials done"]
    if now.states.fail:
        parts.append(f"{now.states.fail} failed")
    if now.ended not in (None, "complete"):
        parts.append(f"ended: {now.ending}")
    if not now.is_done:
        parts += [f"{now.states.running} running", *_pace(now)]
    if front:
        best = front[0].result
        parts.append(f"best so far {percent(best.acceptance_rate)} accepted at MSE {best.mse:.4f}")
    return ", ".join(parts)


def panel_of(snapshot: Snapshot) -> RenderableType:
    """A snapshot for a terminal: a bar, progress and workers, the front so far, the last errors."""
    now, table = snapshot.now, snapshot.table
    bar = Progress(BarColumn(), TaskProgressColumn())
    bar.add_task("", total=max(1, now.total), completed=now.total - now.missing)
    parts: list[RenderableType] = [bar, Text(printable("\n".join(_progress_lines(now))))]
    if table.front:
        rows = [cells(point) for point, *_ in table.distinct_front[:FRONT_ROWS]]
        parts.append(Text(f"front so far\n{document.as_text([document.Table(COLUMNS, rows)])}"))
    failed = (row for row in reversed(table.trials) if row.error is not None)
    parts += [
        Text(outgoing(f"  failed: trial {row.number} ({row.setting}): {row.error}"), style="red")
        for row in islice(failed, ERROR_ROWS)
    ]
    return Group(*parts)


def print_trial(trial: TrialReport) -> None:
    """Print a line about a trial of this process: a worker's log has one for each."""
    if trial.error is not None:
        outcome = f"failed: {trial.error}"
    else:
        acceptance, mse = trial.values[:2]
        outcome = (
            f"{trial.outcome}: {percent(acceptance)} accepted, MSE {mse:.4f}, {trial.seconds:.1f} s"
        )
    note(f"trial {trial.number} ({f'{trial.setting} {trial.variant}'.rstrip()}) {outcome}")


def print_failure(trial: TrialReport) -> None:
    """Print a line about a trial of this process if it failed: the live view shows the others."""
    if trial.error is not None:
        print_trial(trial)


class LiveView:
    """Shows a study on stderr while it runs: a panel on a terminal, else a line now and then.

    A context manager. A thread reads the store, at first until the study is there: workers that
    have only just been started make it.

    Args:
        find: gives the study, or raises SpecOptError while there is none.
    """

    def __init__(self, find: Callable[[], Study]) -> None:
        self.study: Study | None = None
        """None until it is there."""
        self.done = threading.Event()
        """Set once the study is done."""
        self.find = find
        self._snapshot: Snapshot | None = None
        self._watch = Watch()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="live view", daemon=True)
        console = Console(stderr=True)
        self._on_terminal = console.is_terminal
        # Where there is no terminal this prints nothing.
        self._live = Live(
            console=console,
            get_renderable=self._panel,
            auto_refresh=self._on_terminal,
            refresh_per_second=2,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._look()
        self._live.start()
        if not self._on_terminal and not self.done.is_set():
            self._print_line()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave.set()
        self._thread.join(timeout=5.0)
        self._live.stop()
        if kind is None:  # after an error the store itself may be gone: a look would wait for it
            self._look()
            self._print_line()

    def _keep_looking(self) -> None:
        pause = SECONDS_BETWEEN_LOOKS
        while not self._leave.wait(pause):
            began = time.monotonic()
            self._look()
            interval = SECONDS_BETWEEN_LOOKS
            if not self._on_terminal and self._snapshot is not None:
                if not self.done.is_set():  # it is said at the end
                    self._print_line()
                interval = SECONDS_BETWEEN_LINES
            pause = max(interval, (time.monotonic() - began) / SHARE_OF_TIME)

    def _look(self) -> None:
        try:
            if self.study is None:
                self.study = self.find()
            self._snapshot = look(self.study, self.study.config.search, self._watch)
        except SpecOptError as error:
            if self.study is not None:  # wait for the store to come back, as the workers do
                log.warning("%s", error)
        else:
            if self._snapshot.now.is_done:
                self.done.set()

    def _print_line(self) -> None:
        if self._snapshot is not None:
            note(line_of(self._snapshot))

    def _panel(self) -> RenderableType:
        return Text("") if self._snapshot is None else panel_of(self._snapshot)
