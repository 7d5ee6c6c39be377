"""95 % intervals over windows that overlap, for one setting and for the difference of two.

Neighbouring windows share rows of the series, so they err together. Both results are ratios of
sums over windows (squared error per window, accepted per tested), so by the delta method the error
of a result is that of a mean of residuals. Its variance is estimated from slow cosines over the
blocks (EWC: Müller 2007; Lazarus, Lewis, Stock and Watson 2018): each gives an estimate of it, and
with the mean of ν estimates the error has Student's distribution with ν degrees of freedom. If
blocks are independent, this is exact with any ν.

Blocks that err together vary less in fast cosines than in their mean. Two windows depend on each
other while the rows that decide them overlap, `span` rows: for the MSE those that are forecast, the
horizon; for acceptance at most those that the models see, the context. So ν is as large as this
loss of variance stays small, and the estimate is scaled by the loss: fully for the MSE, whose
windows are sure to share their rows, and half (the geometric mean) for acceptance, which may depend
on the whole context, on its last days, or on chance alone. `benchmarks/coverage.py` measures what
the intervals cover.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spec_opt.measure.measurement import Baseline, Blocks

Floats = NDArray[np.float64]

MOST_BLOCKS: Final = 20
"""Schmeiser (1982) recommends 10 to 30. A block is also the shortest memory that is allowed for."""
FEWEST_BLOCKS: Final = 4
"""With fewer windows there is no interval."""
FEWEST_COSINES: Final = 2
"""With one, intervals would be three times as wide."""
LARGEST_LOSS: Final = (1.35, 2.0)
"""Of variance, as a factor: with more than three cosines; with three, where one less costs most."""
STUDENT: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)
"""97.5 % of Student's t with 1, 2, … degrees of freedom; importing scipy would take 0.1 s."""
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


def wilson(rate: float, half_width: float) -> float:
    """From a rate to the farther end of its interval by Wilson (1927).

    It allows for the variance of a rate p, which falls as p (1 - p) towards 0 and 1: a rate that
    came out too far there has too small a standard error.
    """
    spread = rate * (1.0 - rate)
    if half_width == 0.0 or spread <= 0.0:
        return half_width
    ratio = half_width**2 / spread
    return (abs(rate - 0.5) * ratio + math.sqrt(half_width**2 + ratio**2 / 4.0)) / (1.0 + ratio)


def logarithmic(mse: float, half_width: float) -> float:
    """From an MSE to the farther end of its interval on a logarithmic scale, to second order.

    It allows for standard errors in proportion to the MSE: one that came out too small has too
    small a standard error.
    """
    return half_width + half_width**2 / (2.0 * mse) if mse > 0.0 else half_width


@dataclass(frozen=True)
class Quantity:
    """A result as a ratio of sums over blocks."""

    numerators: Callable[[Blocks], Sequence[float]]
    denominators: Callable[[Blocks], Sequence[int]]
    span: Callable[[Blocks], int]
    """Rows of the series that decide a window's share in it, at most."""
    correction: float
    """For the overlap of these rows, as a power: 1 where it makes windows err together, ½ where it
    may do so."""
    reach: Callable[[float, float], float]
    """Half width of the interval of a result, from that of a difference."""

    def residuals(self, blocks: Sequence[Blocks]) -> Floats:
        """Each block's share in the error of the result, for n settings: [n, blocks]."""
        numerators = np.array([self.numerators(one) for one in blocks], dtype=np.float64)
        denominators = np.array([self.denominators(one) for one in blocks], dtype=np.float64)
        total = denominators.sum(axis=1, keepdims=True)
        ratio = numerators.sum(axis=1, keepdims=True) / total
        shares: Floats = (numerators - ratio * denominators) / total
        return shares

    def cosines(self, blocks: Blocks) -> "Cosines":
        rows = np.array(blocks.rows)
        widths = np.minimum(np.gradient(rows), blocks.width)
        return Cosines.of(rows, self.span(blocks) + widths, self.correction)


MSE: Final = Quantity(
    numerators=lambda blocks: [m * n for m, n in zip(blocks.mse, blocks.windows, strict=True)],
    denominators=lambda blocks: blocks.windows,
    span=lambda blocks: blocks.horizon,
    correction=1.0,
    reach=logarithmic,
)
ACCEPTANCE: Final = Quantity(
    numerators=lambda blocks: blocks.accepted,
    denominators=lambda blocks: blocks.tested,
    span=lambda blocks: blocks.context,
    correction=0.5,
    reach=wilson,
)


@dataclass(frozen=True, eq=False)
class Cosines:
    """What the error of a sum over n blocks is estimated from."""

    waves: Floats
    """[ν, n], scaled so that squared sums over residuals add up to the variance."""

    @classmethod
    def of(cls, rows: NDArray[np.int64], spans: Floats, correction: float) -> "Cosines":
        """For blocks at `rows` [n], each decided by `spans` [n] rows of the series."""
        count, number = len(rows), np.arange(1, len(rows))
        phases = np.pi * (np.arange(count) + 0.5) / count
        waves = math.sqrt(2.0 / count) * np.cos(number[:, None] * phases)
        distances, spanned = np.abs(rows[:, None] - rows), (spans[:, None] + spans) / 2.0
        correlations = np.maximum(1.0 - distances / spanned, 0.0)
        variances = np.cumsum(((waves @ correlations) * waves).sum(axis=1)) / number
        losses = correlations.sum() / count / variances
        small = losses <= np.where(number > 3, *LARGEST_LOSS)
        kept = int(np.max(number[small], initial=FEWEST_COSINES))
        return cls(waves[:kept] * math.sqrt(count * losses[kept - 1] ** correction / kept))

    @property
    def critical(self) -> float:
        """Half of the 95 % interval in standard errors."""
        return STUDENT[len(self.waves) - 1]

    def standard_error(self, residuals: Floats) -> Floats:
        """Standard error of the sum of residuals [..., n]: [...]."""
        result: Floats = np.sqrt(np.square(residuals @ self.waves.T).sum(axis=-1))
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
    estimate = _estimate(quantity, blocks)
    found = _interval(quantity, blocks, estimate, quantity.residuals([blocks])[0])
    return replace(found, half_width=quantity.reach(estimate, found.half_width))


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
    cosines = quantity.cosines(blocks)
    standard_error = float(cosines.standard_error(residuals))
    return Interval(estimate, standard_error, cosines.critical * standard_error)


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
