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
from spec_opt.measure.cost_model import Cost, Costs

LEAST_REPEATS: Final = 3
"""So that the median ignores one repeat that something else on the machine delayed."""
SCRIPTED_ACCEPTANCE: Final = 0.6
"""Makes rounds end early and late, so that steps of all sizes are timed."""


class Stopwatch(Observer):
    """Times decodes, their steps, and the work inside the steps.

    The device is synchronised before each reading of the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.laps: list[tuple[Step, float]] = []
        """Seconds from the start of each step to the start of the next. The first lap includes
        what precedes its step; the last lasts to the end of the decode."""
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
) -> Costs:
    """Learn what each step costs for batches of these sizes, and for the windows left of them.

    Between the batch sizes and `ks` that are timed, costs are interpolated linearly.

    Args:
        batch_sizes: windows that are decoded together, the smallest first.
        sigma: of the noise; costs hardly depend on it.
        seconds: how long to go on repeating, once `least_repeats` are done.

    Raises:
        DecodingError: a forecast is not finite.
    """
    decodes = _Decodes(workload, batch_sizes, sigma, ks)
    decodes.run()  # the first run warms up
    decodes.clear()
    clock = Stopwatch(workload.device)
    began = clock.now()
    for repeat in itertools.count(1):
        decodes.run()
        if repeat >= least_repeats and clock.now() - began >= seconds:
            break
    return decodes.costs()


def learn_costs_quickly(
    workload: Workload, batch_size: int, *, sigma: float, ks: Sequence[int], seconds: float
) -> Costs:
    """Learn costs for batches of `batch_size` in about `seconds`.

    If batches of that size take longer, or more memory than the device has, smaller ones are timed
    instead. Single windows are always timed too.

    Raises:
        DecodingError: a forecast is not finite, or a single window does not fit into memory.
    """

    def probe(index: Tensor) -> float:
        decodes = _Decodes(workload, [len(index)], sigma, ks)
        decodes.run()  # the first run warms up
        return Stopwatch(workload.device).decode(decodes.run)

    def learn(index: Tensor) -> Costs:
        return learn_costs(workload, sorted({1, len(index)}), sigma=sigma, ks=ks, seconds=0.0)

    _, taken = next(Batches(1).run(torch.zeros(1), probe))
    # A further window never costs more than the first. `learn_costs` also warms up.
    affordable = int(seconds / max((LEAST_REPEATS + 1) * taken, 1e-9))
    size = max(1, min(batch_size, len(workload.windows), affordable))
    _, costs = next(Batches(size).run(torch.zeros(size), learn))
    return costs


def spaced(windows: int, count: int) -> Tensor:
    """`count` of the windows 0 ... `windows` - 1, evenly spaced: int64 [count]."""
    return torch.linspace(0, windows - 1, count).round().to(torch.int64)


class _Decodes:
    """The decodes that costs are learnt from. Together they take every kind of step.

    Their random numbers are the same each time. A single window may therefore show no bonus, or no
    second round, whatever the chance; so two more decodes accept everything and nothing.
    """

    def __init__(
        self, workload: Workload, batch_sizes: Sequence[int], sigma: float, ks: Iterable[int]
    ) -> None:
        self._alone, self._together = Stopwatch(workload.device), Stopwatch(workload.device)
        self._runs: list[tuple[Stopwatch, Callable[[], object]]] = []

        def add(index: Tensor, k: int, acceptance: float) -> None:
            work = replace(workload, observer=self._together, scripted_acceptance=acceptance)
            setting = Setting(sigma=sigma, bias=1.0, k=k)
            self._runs.append((self._together, partial(work.speculatively, index, setting)))

        ks = sorted(set(ks))
        batches = [spaced(len(workload.windows), size) for size in batch_sizes]
        for index in batches:
            work = replace(workload, observer=self._alone)
            setting = Setting(sigma=sigma, bias=1.0, k=1)
            self._runs.append((self._alone, partial(work.target_only, index, setting)))
            for k in ks:
                add(index, k, SCRIPTED_ACCEPTANCE)
        add(batches[0], ks[0], 1.0)
        add(batches[0], ks[0], 0.0)

    def run(self) -> None:
        """Run and time each of them once."""
        for watch, run in self._runs:
            watch.decode(run)

    def clear(self) -> None:
        """Forget the times so far."""
        self._alone.laps.clear()
        self._together.laps.clear()

    def costs(self) -> Costs:
        """What the times so far give for each kind of step."""
        target, laps = self._alone.laps, self._together.laps
        return Costs(
            target_first=_cost(target, "target", "next", first=True),
            target_next=_cost(target, "target", "next", first=False),
            draft_first=_cost(laps, "draft", "next", first=True),
            draft_next=_cost(laps, "draft", "next", first=False),
            verify_first=_cost(laps, "target", "verify", first=True),
            verify_next=_cost(laps, "target", "verify", first=False),
            bonus=_cost(laps, "target", "bonus", first=False),
        )


def _cost(laps: Iterable[tuple[Step, float]], role: str, kind: str, *, first: bool) -> Cost:
    """What a step costs, by the median time of equal steps; 0 if there was none."""
    seconds: dict[Step, list[float]] = defaultdict(list)
    for step, taken in laps:
        if (step.role, step.kind, step.first) == (role, kind, first):
            seconds[step].append(taken)
    return fit_cost([(step, statistics.median(taken)) for step, taken in seconds.items()])


def fit_cost(laps: Sequence[tuple[Step, float]]) -> Cost:
    """fixed + per_row * rows + per_proposal * proposals with no part negative.

    A least-squares fit of relative errors, so that short laps count as much as long ones.
    """
    if not laps:
        return Cost(0.0, 0.0)
    taken = np.array([seconds for _, seconds in laps])
    features = np.array([(1.0, step.rows, step.proposals) for step, _ in laps])
    parts, _ = nnls(features / taken[:, None], np.ones(len(laps)))
    return Cost(*parts.tolist())
