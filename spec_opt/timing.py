"""Stopwatches on decoding: what its steps cost, where its time goes, how fast it is.

Readings and rules are wrapped, so the decoders know nothing of it. Before each stamp the device is
made to finish what it was given.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from spec_opt.config import Setting
from spec_opt.decoding.acceptance import AcceptanceRule, Edge
from spec_opt.decoding.contexts import Contexts, EmittedBuffer, Reading
from spec_opt.decoding.noise import Draws
from spec_opt.decoding.workload import Workload
from spec_opt.models.forecaster import Forecaster, Gaussian

Answer = TypeVar("Answer")
Step = Literal["next", "verify", "bonus"]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Lap:
    """From the start of one step of decoding to the start of the next."""

    role: str
    """target or draft"""
    step: Step
    first: bool
    """Whether it is the model's first of the forecast."""
    rows: int
    proposals: int
    """That are verified; 0 in other steps."""


class Stopwatch:
    """Cuts the time of a decode into laps, and sums what happens within them by name."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.laps: list[tuple[Lap, float]] = []
        self.within: dict[str, float] = defaultdict(float)
        self._lap: Lap | None = None
        self._began = 0.0

    def now(self) -> float:
        """Seconds on a clock of its own, the device at rest."""
        synchronise(self._device)
        return time.perf_counter()

    def decode(self, work: Callable[[], object]) -> float:
        """Run a decode; its seconds. Its first lap begins with it, its last ends with it."""
        began = self._began = self.now()
        work()
        self._end()
        self._lap = None
        return self._began - began

    def start(self, lap: Lap) -> None:
        """A step begins, and with it the one before ends."""
        if self._lap is not None:
            self._end()
        self._lap = lap

    def timed(self, name: str, work: Callable[[], Answer]) -> Answer:
        """Do something within a lap."""
        began = self.now()
        answer = work()
        self.within[name] += self.now() - began
        return answer

    def _end(self) -> None:
        at = self.now()
        if self._lap is not None:
            self.laps.append((self._lap, at - self._began))
        self._began = at


class TimedContexts(Contexts):
    """Contexts with a stopwatch on their readings."""

    def __init__(self, contexts: Contexts, watch: Stopwatch, target: Forecaster) -> None:
        self._contexts, self._watch, self._target = contexts, watch, target

    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        role = "target" if model is self._target else "draft"
        return TimedReading(self._contexts.reading(model, buffer), self._watch, role)

    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        return self._contexts.forecast(model, series, observed)


class TimedReading(Reading):
    """A reading whose every use starts a lap, and whose own time is summed under its role."""

    def __init__(self, reading: Reading, watch: Stopwatch, role: str) -> None:
        super().__init__()
        self._reading, self._watch, self._role = reading, watch, role

    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        return self._timed("next", rows, 0, lambda: self._reading.next(rows, positions))

    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        proposals = int(counts.sum())
        return self._timed(
            "verify", rows, proposals, lambda: self._reading.verify(rows, first, counts)
        )

    def bonus(self, rows: Tensor, positions: Tensor) -> Tensor:
        return self._timed("bonus", rows, 0, lambda: self._reading.bonus(rows, positions))

    def rewritten(self, rows: Tensor, positions: Tensor) -> None:
        self._reading.rewritten(rows, positions)

    def _timed(
        self, step: Step, rows: Tensor, proposals: int, work: Callable[[], Answer]
    ) -> Answer:
        self._watch.start(Lap(self._role, step, self._reading.calls == 0, len(rows), proposals))
        answer = self._watch.timed(self._role, work)
        self.calls, self.evaluations = self._reading.calls, self._reading.evaluations
        return answer


class TimedRule(AcceptanceRule):
    """A rule whose time is summed under "acceptance", and whose verdict may be scripted.

    With `acceptance`, each proposal is let through with that probability (at bias 1), whatever the
    models say. All that a verdict costs is still computed, but for the tries of a residual draw.
    """

    def __init__(
        self, rule: AcceptanceRule, watch: Stopwatch, acceptance: float | None = None
    ) -> None:
        self._rule, self._watch, self._acceptance = rule, watch, acceptance

    def _timed(self, work: Callable[[], Answer]) -> Answer:
        return self._watch.timed("acceptance", work)

    def propose(self, draft: Gaussian, sigma: float, draws: Draws) -> Tensor:
        return self._timed(lambda: self._rule.propose(draft, sigma, draws))

    def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
        return self._timed(lambda: self._rule.draft_term(proposal, draft, sigma))

    def target_term(self, proposal: Tensor, target_mean: Tensor) -> Tensor:
        return self._timed(lambda: self._rule.target_term(proposal, target_mean))

    def log_ratio(self, draft_term: Tensor, target_term: Tensor, sigma: float, size: int) -> Tensor:
        ratio = self._timed(lambda: self._rule.log_ratio(draft_term, target_term, sigma, size))
        if self._acceptance is None:
            return ratio
        return torch.full_like(ratio, self._acceptance).log()

    def replace(
        self, draft: Gaussian, target_mean: Tensor, setting: Setting, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        if self._acceptance is not None:
            # A rejection that the models do not call for may leave nothing to draw a residual from.
            patch = self.bonus(target_mean, setting, draws)
            return patch, torch.zeros(len(patch), dtype=torch.bool, device=patch.device)
        return self._timed(lambda: self._rule.replace(draft, target_mean, setting, draws))

    def bonus(self, target_mean: Tensor, setting: Setting, draws: Draws) -> Tensor:
        return self._timed(lambda: self._rule.bonus(target_mean, setting, draws))

    def proposal_edge(self, sigma: float, stochastic: bool) -> Edge:
        return self._rule.proposal_edge(sigma, stochastic)

    def replacement_edge(self, setting: Setting) -> Edge:
        return self._rule.replacement_edge(setting)

    def bonus_edge(self, setting: Setting) -> Edge:
        return self._rule.bonus_edge(setting)

    def target_sigma(self, sigma: float) -> float:
        return self._rule.target_sigma(sigma)


def watched(workload: Workload, watch: Stopwatch, acceptance: float | None = None) -> Workload:
    """The same work, with a stopwatch on it."""
    return replace(
        workload,
        rule=TimedRule(workload.rule, watch, acceptance),
        contexts=TimedContexts(workload.contexts, watch, workload.target),
    )


def interleave(
    runs: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[tuple[float, ...]]:
    """Seconds of each of `runs`, taken in turns: whatever else the machine does meets them alike.

    One turn before the first is not counted: it warms up.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    watch = Stopwatch(device)
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds, strict=True):
            elapsed = watch.decode(run)
            if repeat:
                taken.append(elapsed)
    return [tuple(taken) for taken in seconds]
