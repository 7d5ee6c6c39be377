"""What the steps of decoding cost on a device, learnt by timing decodes.

Acceptance is scripted in these decodes, so the costs do not depend on a setting's acceptance.
"""

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.observer import Observer, Step
from spec_opt.decoding.speculative import Batches, Workload
from spec_opt.measure.cost_model import Cost, Costs, LearntCosts

LEAST_BATCH: Final = 8
"""Per window, smaller batches cost more than the larger ones that are predicted from them."""
LEAST_REPEATS: Final = 3
"""So that the median ignores one repeat that something else on the machine delayed."""
SCRIPTED_ACCEPTANCE: Final = 0.6
"""Makes rounds end early and late, so that steps of all sizes are timed."""

Lap = tuple[Step, float]
"""A step, and the seconds from its start to the start of the next."""


class Stopwatch(Observer):
    """Times decodes, their steps, and the work inside the steps.

    The device is synchronised before each reading of the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.laps: list[Lap] = []
        """The first lap of a decode includes what precedes its step."""
        self.within: dict[str, float] = defaultdict(float)
        """Seconds in calls of "target" and "draft", and in "acceptance", the work of the rule."""
        self._step: Step | None = None
        self._began = 0.0

    def now(self) -> float:
        """Seconds on an arbitrary clock."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def decode(self, work: Callable[[], object]) -> float:
        """Run a decode and return its seconds."""
        self._step = None
        began = self._began = self.now()
        work()
        ended = self.now()
        self._next_lap(None, ended)
        return ended - began

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        self._next_lap(step, self.now())
        with self._timed(step.role):
            yield

    def judging(self) -> AbstractContextManager[None]:
        return self._timed("acceptance")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.within[name] += self.now() - began

    def _next_lap(self, step: Step | None, at: float) -> None:
        if self._step is not None:
            self.laps.append((self._step, at - self._began))
            self._began = at
        self._step = step


def learn_costs(
    workload: Workload,
    batch_sizes: Sequence[int],
    *,
    sigma: float,
    ks: Iterable[int],
    seconds: float,
    least_repeats: int = LEAST_REPEATS,
) -> LearntCosts:
    """Learn what each step costs for batches of these sizes, and for the windows left of them.

    Between the batch sizes and `ks` that are timed, costs are interpolated linearly.

    Args:
        batch_sizes: windows that are decoded together, the smallest first.
        sigma: of the noise; costs hardly depend on it.
        seconds: how long to go on repeating, once `least_repeats` are done.

    Raises:
        DecodingError: a forecast is not finite.
    """
    batches = [spaced(len(workload.windows), size) for size in batch_sizes]
    decodes = _Decodes(workload, batches, sigma, ks)
    decodes.run()
    decodes.forget()  # it warmed up
    clock = Stopwatch(workload.device)
    began = clock.now()
    for repeat in itertools.count(1):
        decodes.run()
        if repeat >= least_repeats and clock.now() - began >= seconds:
            break
    return _learnt([decodes])


def learn_costs_quickly(
    workload: Workload, batch_size: int, *, sigma: float, largest_k: int, seconds: float
) -> LearntCosts:
    """Learn costs for batches of `batch_size` in about `seconds`.

    Times single windows and one larger batch, because from single windows alone the cost of a call
    cannot be told from the cost of a window. The batch is as large as time and memory allow, up to
    `batch_size`, and of at least `LEAST_BATCH` windows, even if that takes longer.

    Raises:
        DecodingError: a forecast is not finite, or a single window does not fit into memory.
    """

    def timed_once(index: Tensor) -> _Decodes:
        decodes = _Decodes(workload, [index], sigma, [largest_k])
        decodes.run()
        return decodes

    windows = len(workload.windows)
    _, single = next(Batches(1).run(spaced(windows, 1), timed_once))
    single.forget()  # it warmed up
    taken = Stopwatch(workload.device).decode(single.run)
    # A further window never costs more than the first.
    affordable = int(seconds / max((LEAST_REPEATS + 1) * taken, 1e-9))
    size = min(batch_size, windows, max(LEAST_BATCH, affordable))
    decodes = [single]
    if size > 1:
        _, batch = next(Batches(size).run(spaced(windows, size), timed_once))
        batch.forget()
        batch.run()
        decodes.append(batch)
    for _ in range(LEAST_REPEATS - 1):
        for each in decodes:
            each.run()
    return _learnt(decodes)


def spaced(windows: int, count: int) -> Tensor:
    """`count` of the windows 0 ... `windows` - 1, evenly spaced: int64 [count]."""
    return torch.linspace(0, windows - 1, count).round().to(torch.int64)


class _Decodes:
    """The decodes that costs are learnt from; each batch [B] of windows takes every step in them.

    Random numbers are the same each time, so a few windows may show no bonus, or no second round,
    at the likely acceptance. Therefore one decode accepts all proposals, and another one none.
    """

    def __init__(
        self, workload: Workload, batches: Sequence[Tensor], sigma: float, ks: Iterable[int]
    ) -> None:
        self.batch_sizes = [len(index) for index in batches]
        self._watch = Stopwatch(workload.device)
        self._runs: list[Callable[[], object]] = []
        self._totals: list[tuple[float, ...]] = []
        observed = replace(workload, observer=self._watch)
        scripts = [*((k, SCRIPTED_ACCEPTANCE) for k in sorted(set(ks))), (1, 1.0), (1, 0.0)]
        settings = {k: Setting(sigma=sigma, bias=1.0, k=k) for k, _ in scripts}
        for index in batches:
            self._runs.append(partial(observed.target_only, index, settings[1]))
            for k, acceptance in scripts:
                scripted = replace(observed, scripted_acceptance=acceptance)
                self._runs.append(partial(scripted.speculatively, index, settings[k]))

    @property
    def laps(self) -> list[Lap]:
        """All steps so far, and their seconds."""
        return self._watch.laps

    @property
    def spreads(self) -> list[float]:
        """Of each decode, the slowest repeat over the fastest, less 1."""
        return [max(repeats) / min(repeats) - 1.0 for repeats in zip(*self._totals, strict=True)]

    def run(self) -> None:
        """Run and time each decode once."""
        self._totals.append(tuple(self._watch.decode(run) for run in self._runs))

    def forget(self) -> None:
        """Drop what was timed so far."""
        self.laps.clear()
        self._totals.clear()


def _learnt(decodes: Sequence[_Decodes]) -> LearntCosts:
    spread = statistics.median(spread for each in decodes for spread in each.spreads)
    costs = _costs([lap for each in decodes for lap in each.laps])
    return LearntCosts(costs, spread, tuple(size for each in decodes for size in each.batch_sizes))


def _costs(laps: Sequence[Lap]) -> Costs:
    # Only target-only decoding asks the target for the next patch.
    return Costs(
        target_first=_cost(laps, "target", "next", first=True),
        target_next=_cost(laps, "target", "next", first=False),
        draft_first=_cost(laps, "draft", "next", first=True),
        draft_next=_cost(laps, "draft", "next", first=False),
        verify_first=_cost(laps, "target", "verify", first=True),
        verify_next=_cost(laps, "target", "verify", first=False),
        bonus=_cost(laps, "target", "bonus", first=False),
    )


def _cost(laps: Sequence[Lap], role: str, kind: str, *, first: bool) -> Cost:
    """What a step costs, by the median time of equal steps; 0 if there was none."""
    seconds: dict[Step, list[float]] = defaultdict(list)
    for step, taken in laps:
        if (step.role, step.kind, step.first) == (role, kind, first):
            seconds[step].append(taken)
    return fit_cost([(step, statistics.median(taken)) for step, taken in seconds.items()])


def fit_cost(laps: Sequence[Lap]) -> Cost:
    """fixed + per_row * rows + per_proposal * proposals with no part negative.

    A least-squares fit of relative errors, so that short laps count as much as long ones.
    """
    if not laps:
        return Cost(0.0, 0.0)
    taken = np.array([seconds for _, seconds in laps])
    features = np.array([(1.0, step.rows, step.proposals) for step, _ in laps])
    parts, _ = nnls(features / taken[:, None], np.ones(len(laps)))
    return Cost(*parts.tolist())
