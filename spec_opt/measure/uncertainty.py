"""95 % intervals over windows that overlap, for one setting and for the difference of two.

Neighbouring windows share rows of the series, so they err together. Both results are ratios of
sums over windows (squared error per window, accepted per tested), so by the delta method the error
of a result is that of a mean of residuals. Its variance is estimated with the Bartlett kernel
(Newey and West 1987): the product of two residuals is weighted with 1 - distance / bandwidth, the
distance in rows.

Two windows depend on each other while the rows that decide them overlap, `span` rows: for the MSE
those that are forecast, the horizon; for acceptance those that the models see, the context. A span
of memory beyond that makes the bandwidth two spans. The kernel's sum is too small, because it
discounts distant products and because residuals sum to zero. It is scaled to be right on average
for windows that are correlated by their common share of the span.

With a few independent spans the estimate itself is noisy: two standard errors cover less than
95 %. The critical values of Kiefer and Vogelsang (2005) allow for that. `benchmarks/coverage.py`
measures what the intervals cover.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spec_opt.measure.measurement import Baseline, Blocks

Floats = NDArray[np.float64]

MOST_BLOCKS: Final = 20
"""Schmeiser (1982) recommends 10 to 30. A block is also the shortest memory that is allowed for."""
FEWEST_BLOCKS: Final = 4
"""With fewer windows the critical values are too small."""
ROUNDING: Final = 1e-9
"""Relative difference below which two results count as equal: they may come from processes that
sum in another order."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, estimate ± half_width."""

    estimate: float
    standard_error: float
    half_width: float

    @property
    def low(self) -> float:
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        return self.estimate + self.half_width


@dataclass(frozen=True)
class Quantity:
    """A result as a ratio of sums over blocks."""

    numerators: Callable[[Blocks], Sequence[float]]
    denominators: Callable[[Blocks], Sequence[int]]
    span: Callable[[Blocks], int]
    """Rows of the series that decide a window's share in it."""

    def residuals(self, blocks: Sequence[Blocks]) -> Floats:
        """Each block's share in the error of the result, for n settings: [n, blocks]."""
        numerators = np.array([self.numerators(one) for one in blocks], dtype=np.float64)
        denominators = np.array([self.denominators(one) for one in blocks], dtype=np.float64)
        total = denominators.sum(axis=1, keepdims=True)
        ratio = numerators.sum(axis=1, keepdims=True) / total
        shares: Floats = (numerators - ratio * denominators) / total
        return shares

    def kernel(self, blocks: Blocks) -> "Bartlett":
        return Bartlett(np.array(blocks.rows), self.span(blocks) + blocks.width)


MSE: Final = Quantity(
    numerators=lambda blocks: [m * n for m, n in zip(blocks.mse, blocks.windows, strict=True)],
    denominators=lambda blocks: blocks.windows,
    span=lambda blocks: blocks.horizon,
)
ACCEPTANCE: Final = Quantity(
    numerators=lambda blocks: blocks.accepted,
    denominators=lambda blocks: blocks.tested,
    span=lambda blocks: blocks.context,
)


@dataclass(frozen=True, eq=False)
class Bartlett:
    """The kernel for blocks at `rows` [n], each decided by `span` rows of the series."""

    rows: NDArray[np.int64]
    span: int

    def standard_error(self, residuals: Floats) -> Floats:
        """Standard error of the sum of residuals [..., n]: [...]."""
        variance = ((residuals @ self._weights) * residuals).sum(axis=-1)
        result: Floats = np.sqrt(np.maximum(variance, 0.0))
        return result

    @property
    def critical(self) -> float:
        """Half of the 95 % interval in standard errors: Kiefer and Vogelsang (2005), table 1."""
        b = min(self._bandwidth / self._covered, 1.0)
        return 1.96 + 2.9694 * b + 0.416 * b**2 - 0.5324 * b**3

    @property
    def _covered(self) -> float:
        """Rows that the blocks cover; half a distance is added at either end."""
        count = len(self.rows)
        return float(np.ptp(self.rows)) * count / (count - 1)

    @property
    def _bandwidth(self) -> float:
        return max(2.0 * self.span, self._covered / len(self.rows))

    @cached_property
    def _weights(self) -> Floats:
        distance = np.abs(self.rows[:, None] - self.rows[None, :])
        weights = np.maximum(1.0 - distance / self._bandwidth, 0.0)
        correlations = np.maximum(1.0 - distance / self.span, 0.0)
        centring = np.eye(len(self.rows)) - 1.0 / len(self.rows)
        # For blocks with these correlations: the variance of their sum, and what is estimated.
        expected = np.trace(centring @ weights @ centring @ correlations)
        result: Floats = weights * (correlations.sum() / expected)
        return result


def split(
    starts: NDArray[np.int64], context: int, horizon: int, mse: Floats, counts: Floats | None = None
) -> Blocks:
    """Summarise W windows in at most `MOST_BLOCKS` runs of consecutive ones.

    Args:
        starts: first row of each window [W], distinct, in any order.
        context, horizon: their lengths in rows.
        mse: mean squared error of each window [W].
        counts: accepted and tested proposals of each window [W, 2]; None for a model alone.
    """
    parts = np.array_split(np.argsort(starts), min(MOST_BLOCKS, len(starts)))
    proposals = np.zeros((len(parts), 2)) if counts is None else [counts[p].sum(0) for p in parts]
    accepted, tested = np.array(proposals, dtype=np.int64).T.tolist()
    return Blocks(
        rows=tuple(int(starts[part].mean()) for part in parts),
        windows=tuple(len(part) for part in parts),
        width=int(max(np.ptp(starts[part]) for part in parts)),
        context=context,
        horizon=horizon,
        mse=tuple(float(mse[part].mean()) for part in parts),
        accepted=tuple(accepted),
        tested=tuple(tested),
    )


def seed_error(numerators: Floats, denominators: Floats) -> float | None:
    """Standard error of a ratio of sums [S, W] from the random numbers of S seeds alone.

    Every seed and window has its own numbers, so the variances within windows add up. None for a
    single seed, which does not show them.
    """
    seeds = len(numerators)
    if seeds == 1:
        return None
    total = denominators.sum()
    shares = (numerators - numerators.sum() / total * denominators) / total
    return math.sqrt(seeds * float(shares.var(axis=0, ddof=1).sum()))


def interval(quantity: Quantity, blocks: Blocks) -> Interval | None:
    """A setting's result with its 95 % interval; None for fewer than `FEWEST_BLOCKS` windows."""
    if len(blocks.rows) < FEWEST_BLOCKS:
        return None
    return _interval(quantity, blocks, _estimate(quantity, blocks), quantity.residuals([blocks])[0])


def difference(quantity: Quantity, one: Blocks, other: Blocks) -> Interval | None:
    """`one` minus `other` with its 95 % interval.

    Pairing removes what both share, easy and hard windows above all. None for fewer than
    `FEWEST_BLOCKS` windows, or if the two were not measured on the same windows.
    """
    if len(one.rows) < FEWEST_BLOCKS or not one.same_windows(other):
        return None
    values = [_estimate(quantity, blocks) for blocks in (one, other)]
    residuals = quantity.residuals([one, other])
    found = _interval(quantity, one, values[0] - values[1], residuals[0] - residuals[1])
    rounding = ROUNDING * max(map(abs, values))
    return Interval(found.estimate, found.standard_error, max(found.half_width, rounding))


def _estimate(quantity: Quantity, blocks: Blocks) -> float:
    return float(np.sum(quantity.numerators(blocks)) / np.sum(quantity.denominators(blocks)))


def _interval(quantity: Quantity, blocks: Blocks, estimate: float, residuals: Floats) -> Interval:
    kernel = quantity.kernel(blocks)
    standard_error = float(kernel.standard_error(residuals))
    return Interval(estimate, standard_error, kernel.critical * standard_error)


def difference_to_target(blocks: Blocks, baseline: Baseline) -> Interval | None:
    """A setting's MSE minus the target's own; None if it is not known block by block."""
    if len(baseline.target_blocks) != len(blocks.mse):
        return None
    return difference(MSE, blocks, replace(blocks, mse=baseline.target_blocks))


Comparison = Literal["better", "equivalent", "worse", "not distinguishable"]


def compare(difference: Interval | None, margin: float) -> Comparison:
    """Judge a difference in error, the contender's minus the reference's.

    better: the whole interval is below 0. equivalent: it ends below `margin`, so that any loss is
    too small to matter. worse: all of it is above 0. Otherwise, or for None, these windows do not
    settle it.
    """
    if difference is None:
        return "not distinguishable"
    if difference.high < 0.0:
        return "better"
    if difference.high < margin:
        return "equivalent"
    return "worse" if difference.low > 0.0 else "not distinguishable"


def draft_against_target(baseline: Baseline, margin: float) -> Comparison:
    """Judge the MSE of the draft alone; `margin` is a share of the target's MSE."""
    half_width = baseline.draft_minus_target_mse_ci95
    return against_target(baseline, baseline.draft_mse, half_width, margin)


def against_target(
    baseline: Baseline, mse: float, half_width: float | None, margin: float
) -> Comparison:
    """Judge an MSE by its paired difference to the target's, of which `half_width` is known."""
    if half_width is None:
        return compare(None, margin)
    difference = Interval(mse - baseline.target_mse, math.nan, half_width)
    return compare(difference, margin * baseline.target_mse)
