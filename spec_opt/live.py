"""What a person watches while a study runs, on stderr: a bar on a terminal, else plain lines."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from spec_opt.results.wording import percent
from spec_opt.tuning.worker import TrialReport

SECONDS_BETWEEN_LINES = 5.0


class LiveView:
    """Shows trials as they end. A context manager; `report` is called after each trial."""

    def __init__(self, name: str, done: int, total: int) -> None:
        self._name, self._done, self._total = name, done, total
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(name, completed=done, total=total, last="")
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        elif self._done < self._total:
            self.say(f"{self._name}: {self._done} of {self._total} trials done")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def report(self, trial: TrialReport) -> None:
        """Show a trial that has ended."""
        if trial.error is not None:
            self.say(f"trial {trial.number} ({trial.setting}) failed: {trial.error}")
            return
        self._done += 1
        acceptance, mse = trial.values
        last = f"{trial.setting}: {percent(acceptance)} accepted, MSE {mse:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, last=last)
        elif (
            self._done == self._total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        ):
            self._last_line = time.monotonic()
            self.say(f"{self._name}: {self._done} of {self._total} trials done; {last}")
