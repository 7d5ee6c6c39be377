"""What the steps of decoding cost on a device: learnt from watched decodes with scripted dice.

Stopwatches on decoding: what its steps cost, where its time goes, how fast it is.

Readings and rules are wrapped, so the decoders know nothing of it. Before each stamp the device is
made to finish what it was given.
"""

import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import Contexts, EmittedBuffer, Reading
from spec_opt.decoding.philox import Draws
from spec_opt.decoding.rules import AcceptanceRule, Edge
from spec_opt.decoding.speculative import Batches, Workload
from spec_opt.measure.cost_model import Cost, Costs
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


Decode = Callable[[Tensor], object]

LEAST_REPEATS: Final = 3
"""So that the median passes over one that something else on the machine held up."""
SCRIPTED_ACCEPTANCE: Final = 0.6
"""While costs are learnt: rounds end early and late, so that steps of all sizes are seen."""


def learn_costs(
    workload: Workload,
    batches: Sequence[Tensor],
    *,
    sigma: float,
    ks: Iterable[int],
    seconds: float,
    least_repeats: int = LEAST_REPEATS,
) -> Costs:
    """What each step costs for batches of so many windows, and for the fewer that remain of them.

    Decodes are watched whose acceptance is scripted, so what is learnt does not depend on a
    setting's; between the batches and `ks` that are tried, costs are taken to be straight lines.

    Args:
        batches: windows [B] each, to be decoded together, the smallest first.
        sigma: of the noise; costs hardly depend on it.
        seconds: how long to go on repeating, once `least_repeats` are done.

    Raises:
        DecodingError: a forecast is not finite.
    """
    alone, together = Stopwatch(workload.device), Stopwatch(workload.device)
    single = watched(workload, alone)
    likely, sure = _scripts(workload, together, sigma, ks)

    def decode() -> None:
        for index in batches:
            alone.decode(partial(single.target_only, index, _setting(sigma, 1)))
            for script in likely:
                together.decode(partial(script, index))
        for script in sure:
            together.decode(partial(script, batches[0]))

    decode()  # the first warms up
    alone.laps.clear()
    together.laps.clear()
    began = alone.now()
    for repeat in itertools.count(1):
        decode()
        if repeat >= least_repeats and alone.now() - began >= seconds:
            break

    target = Laps(alone.laps)
    laps = Laps(together.laps)
    return Costs(
        target_first=target.cost("target", "next", first=True),
        target_next=target.cost("target", "next", first=False),
        draft_first=laps.cost("draft", "next", first=True),
        draft_next=laps.cost("draft", "next", first=False),
        verify_first=laps.cost("target", "verify", first=True),
        verify_next=laps.cost("target", "verify", first=False),
        bonus=laps.cost("target", "bonus", first=False),
    )


def learn_costs_quickly(
    workload: Workload, batch_size: int, *, sigma: float, ks: Sequence[int], seconds: float
) -> Costs:
    """`learn_costs` for a lockstep batch of `batch_size` in about `seconds`.

    Where a whole batch would take longer, or more memory than the device has, a smaller one stands
    for it, and one of a single window.

    Raises:
        DecodingError: a forecast is not finite, or memory does not suffice for a single window.
    """
    single = torch.zeros(1, dtype=torch.int64)
    watch = Stopwatch(workload.device)
    likely, _ = _scripts(workload, Stopwatch(workload.device), sigma, ks)

    def seconds_of(index: Tensor) -> float:
        for _ in range(2):  # the first warms up
            taken = watch.decode(partial(workload.target_only, index, _setting(sigma, 1)))
            for script in likely:
                taken += watch.decode(partial(script, index))
        return taken

    _, taken = next(Batches(1).run(single, seconds_of))
    # A second window never costs more than the first; `learn_costs` also warms up.
    affordable = int(seconds / max((LEAST_REPEATS + 1) * taken, 1e-9))
    size = max(1, min(batch_size, len(workload.windows), affordable))
    spaced = torch.linspace(0, len(workload.windows) - 1, size).round().to(torch.int64)

    def learn(batch: Tensor) -> Costs:
        batches = [batch] if len(batch) == 1 else [single, batch]
        return learn_costs(workload, batches, sigma=sigma, ks=ks, seconds=0.0)

    _, costs = next(Batches(size).run(spaced, learn))
    return costs


def _scripts(
    workload: Workload, watch: Stopwatch, sigma: float, ks: Iterable[int]
) -> tuple[list[Decode], list[Decode]]:
    """Decodes whose courses together take every step there is, even with a single window.

    Dice are the same each time: a window that always accepts shows no second round, one that is
    always rejected no bonus. So beside the likely courses stand the two that are sure.
    """
    ks = sorted(set(ks))

    def script(k: int, chance: float) -> Decode:
        return partial(watched(workload, watch, chance).speculatively, setting=_setting(sigma, k))

    likely = [script(k, SCRIPTED_ACCEPTANCE) for k in ks]
    return likely, [script(ks[0], 1.0), script(ks[0], 0.0)]


def _setting(sigma: float, k: int) -> Setting:
    return Setting(sigma=sigma, bias=1.0, k=k)


class Laps:
    """The laps of many decodes: equal ones stand together, as their median."""

    def __init__(self, laps: Iterable[tuple[Lap, float]]) -> None:
        seconds: dict[Lap, list[float]] = defaultdict(list)
        for lap, taken in laps:
            seconds[lap].append(taken)
        self._medians = {lap: statistics.median(taken) for lap, taken in seconds.items()}

    def cost(self, role: str, step: Step, *, first: bool) -> Cost:
        """What a step costs by the number of windows and proposals at it; 0 if none was seen."""
        seen = [
            (lap, taken)
            for lap, taken in self._medians.items()
            if (lap.role, lap.step, lap.first) == (role, step, first)
        ]
        return fit_cost(seen) if seen else Cost(0.0, 0.0)


def fit_cost(laps: Sequence[tuple[Lap, float]]) -> Cost:
    """fixed + per_row * rows + per_proposal * proposals, none of them negative.

    Relative errors are made small (least squares), so that short laps count as much as long ones.
    """
    taken = np.array([seconds for _, seconds in laps])
    features = np.array([(1.0, lap.rows, lap.proposals) for lap, _ in laps]) / taken[:, None]
    best, best_error = np.zeros(3), math.inf
    used = [column for column in range(3) if features[:, column].any()]
    # The best fit without negative parts is the best of the plain fits to some of the columns.
    for count in range(1, len(used) + 1):
        for columns in map(list, itertools.combinations(used, count)):
            found = np.linalg.lstsq(features[:, columns], np.ones(len(laps)), rcond=None)[0]
            error = float(np.square(features[:, columns] @ found - 1.0).sum())
            if (found >= 0.0).all() and error < best_error - 1e-9:
                best, best_error = np.zeros(3), error
                best[columns] = found
    return Cost(*best.tolist())
