"""What the steps of decoding cost on a device: learnt from watched decodes with scripted dice."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from spec_opt.config import Setting
from spec_opt.decoding.batches import Batches
from spec_opt.decoding.workload import Workload
from spec_opt.speed import Cost, Costs
from spec_opt.timing import Lap, Step, Stopwatch, watched

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
