"""How often 95 % intervals hold what they estimate, and how often equal settings look different.

    python -m benchmarks.coverage                        # some minutes on one core
    python -m benchmarks.coverage --replicates 2000      # the committed table

Each replicate is a split as long as ETTh1's (2880 rows, after a context of 672), or half as long,
on which two settings of equal quality are measured as a trial is: windows, blocks, intervals.

- Squared error: mean over 7 channels of squared AR(1) errors, which the two settings share but for
  a part of their own. `memory` is the autocorrelation from one row to the next.
- Acceptance: a proposal's chance is a logistic function of a mean over the observed rows of its
  context, over its last patch only, or over none (dice alone), again of AR(1) values that the
  settings share in part; k is 3. Dice are their own.

Harder cases: squared errors of one channel, whose distribution is skewed, and the shorter split.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.environment import describe
from spec_opt.measure.measurement import Blocks
from spec_opt.measure.uncertainty import (
    ACCEPTANCE,
    MSE,
    Floats,
    Quantity,
    difference,
    interval,
    split,
)

Starts = NDArray[np.int64]
Deciding = Literal["context", "last patch", "dice"]

CONTEXT: Final = 672
PATCH: Final = 96
K: Final = 3
OWN: Final = 0.3
"""Deviation of what a setting does not share with the other, against what it does."""
AT_ONCE: Final = 20
"""Replicates in memory."""


@dataclass(frozen=True)
class Scenario:
    """A series and the windows cut from it."""

    horizon: int
    max_windows: int | None = None
    """Evenly spaced; None for every row."""
    memory: float = 0.0
    channels: int = 7
    decided_by: Deciding = "context"
    rows: int = 2880

    @property
    def starts(self) -> Starts:
        """First row of each window's context; the horizons fill the split."""
        count = self.rows - self.horizon + 1
        wanted = min(self.max_windows or count, count)
        return np.linspace(0, count - 1, wanted).round().astype(np.int64)


@dataclass
class Coverage:
    """Counts over replicates for one quantity."""

    estimates: list[float] = field(default_factory=list)
    half_widths: list[float] = field(default_factory=list)
    clear: int = 0
    """Pairs of equal settings whose difference has an interval without 0."""

    def add(self, quantity: Quantity, one: Blocks, other: Blocks) -> None:
        own, paired = interval(quantity, one), difference(quantity, one, other)
        assert own is not None
        assert paired is not None
        self.estimates.append(own.estimate)
        self.half_widths.append(own.half_width)
        self.clear += abs(paired.estimate) > paired.half_width

    def covered(self, truth: float) -> float:
        """Share of the intervals that hold `truth`."""
        return float(np.mean(np.abs(np.array(self.estimates) - truth) <= self.half_widths))

    @property
    def share_clear(self) -> float:
        return self.clear / len(self.estimates)

    @property
    def width(self) -> float:
        """Median half width over the true standard deviation of estimates."""
        return float(np.median(self.half_widths) / np.std(self.estimates))


def coverage(scenario: Scenario, replicates: int, seed: int = 0) -> tuple[Coverage, Coverage]:
    """Measure pairs of equal settings: coverage of the MSE and of the acceptance rate."""
    rng = np.random.default_rng(seed)
    mse, acceptance = Coverage(), Coverage()
    for done in range(0, replicates, AT_ONCE):
        count = min(AT_ONCE, replicates - done)
        errors = _squared_errors(scenario, count, rng)
        proposals = _proposals(scenario, count, rng)
        for index in range(count):
            one, other = (
                split(scenario.starts, CONTEXT, scenario.horizon, errors[i, index], counts[index])
                for i, counts in enumerate(proposals)
            )
            mse.add(MSE, one, other)
            acceptance.add(ACCEPTANCE, one, other)
    return mse, acceptance


def _squared_errors(scenario: Scenario, count: int, rng: np.random.Generator) -> Floats:
    """Mean squared error of each window, expected to be 1: [2, count, W]."""
    errors = _pair(scenario.memory, (count, scenario.channels, scenario.rows), rng)
    return _means(np.square(errors).mean(axis=2), scenario.starts, scenario.horizon)


def _proposals(scenario: Scenario, count: int, rng: np.random.Generator) -> Floats:
    """Accepted and tested proposals of each window: [2, count, W, 2]."""
    starts, series = scenario.starts, _pair(scenario.memory, (count, CONTEXT + scenario.rows), rng)
    full = _means(series, starts, CONTEXT).std()
    recent = _means(series, starts + CONTEXT - PATCH, PATCH)
    accepted, tested, so_far = (np.zeros((2, count, len(starts))) for _ in range(3))
    for first in range(0, scenario.horizon, PATCH):
        # The context slides: what of it was observed becomes less.
        observed = max(CONTEXT - first, PATCH)
        values = {
            "context": _means(series, starts + CONTEXT - observed, observed) / full,
            "last patch": recent / recent.std(),
            "dice": np.zeros_like(recent),
        }[scenario.decided_by]
        accepts = rng.random(values.shape) < 1.0 / (1.0 + np.exp(-2.0 * values))
        bonus = so_far == K
        tested += ~bonus
        accepted += ~bonus & accepts
        so_far = np.where(bonus | ~accepts, 0, so_far + 1)
    return np.stack([accepted, tested], axis=-1)


def _pair(memory: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """AR(1) along the last axis with unit variance, for two settings: [2, *shape]."""
    shared, *own = rng.normal(size=(3, *shape))
    noise = (shared + OWN * np.stack(own)) / np.sqrt(1.0 + OWN**2)
    noise[..., 1:] *= np.sqrt(1.0 - memory**2)
    values: Floats = lfilter([1.0], [1.0, -memory], noise)
    return values


def _means(values: Floats, starts: Starts, rows: int) -> Floats:
    """Means over `rows` rows from each start: [..., W]."""
    running = np.cumsum(values, axis=-1)
    running = np.concatenate([np.zeros_like(running[..., :1]), running], axis=-1)
    means: Floats = (running[..., starts + rows] - running[..., starts]) / rows
    return means


HEADINGS: Final = (
    "horizon", "rows", "windows", "memory", "channels",
    "MSE covered", "half width / s.d.", "equal, clear",
    "acceptance decided by", "covered", "half width / s.d.", "equal, clear",
)  # fmt: skip


def _row(scenario: Scenario, replicates: int, seed: int) -> list[str]:
    mse, acceptance = coverage(scenario, replicates, seed)
    return [
        f"{scenario.horizon}",
        f"{scenario.rows}",
        f"{len(scenario.starts)}",
        f"{scenario.memory:g}",
        f"{scenario.channels}",
        *_cells(mse, 1.0),
        scenario.decided_by,
        *_cells(acceptance, float(np.mean(acceptance.estimates))),
    ]


def _cells(found: Coverage, truth: float) -> list[str]:
    covered, clear = 100 * found.covered(truth), 100 * found.share_clear
    return [f"{covered:.1f}", f"{found.width:.1f}", f"{clear:.1f}"]


def scenarios() -> Iterator[Scenario]:
    rows_decide: tuple[Deciding, ...] = ("context", "last patch")
    for horizon in (96, 336, 720):
        for decided_by, memory in itertools.product(rows_decide, (0.0, 0.9, 0.98)):
            yield Scenario(horizon, 256, memory, decided_by=decided_by)
        yield Scenario(horizon, 256, 0.98, decided_by="dice")
        yield Scenario(horizon, None, 0.98)
        yield Scenario(horizon, 256, 0.98, channels=1)
        yield Scenario(horizon, 256, 0.98, rows=1440)
        yield Scenario(horizon, 256, 0.98, decided_by="dice", rows=1440)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    replicates = parser.parse_args().replicates
    print(f"{describe()}\n")
    error = 100 * np.sqrt(0.95 * 0.05 / replicates)
    print(f"{replicates} replicates a row: a coverage of 95 % has a standard error of {error:.2f}.")
    print(
        "Covered: share of the 95 % intervals that hold the true value, in %. Half width: median, "
        "over the standard deviation of estimates. Equal, clear: pairs of equal settings that are "
        "told apart, in %.\n"
    )
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---" * len(HEADINGS) + "|")
    for seed, scenario in enumerate(scenarios()):
        print("| " + " | ".join(_row(scenario, replicates, seed)) + " |", flush=True)


if __name__ == "__main__":
    main()
