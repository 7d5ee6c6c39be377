"""How noisy the difference between two trials is.

A trial's own standard error of the MSE is mostly the difference between easy and hard windows,
which all trials share: on a harder set of windows all of them rise together, and their order stays.
What two trials do not share is far smaller. It is not stored for each pair, but it is known for
target and draft; their correlation over the windows stands in for that of any two trials. Trials
are mostly closer to each other than the draft is to the target, as they are made of the same
patches and the same random numbers, so this errs on the side of noise.
"""

from __future__ import annotations

import math

from spec_opt.measurement import Baseline
from spec_opt.results.table import Point

CLEAR = 2.0
"""A difference of this many standard errors counts as clear."""


def mse_correlation(baseline: Baseline | None) -> float:
    """Correlation of the errors of target and draft over windows; 0 where it is not known."""
    if baseline is None:
        return 0.0
    target, draft = baseline.target_mse_se, baseline.draft_mse_se
    difference = baseline.draft_minus_target_mse_se
    if not target or not draft or difference is None:
        return 0.0
    correlation = (target**2 + draft**2 - difference**2) / (2 * target * draft)
    return min(max(correlation, 0.0), 1.0)


def difference_se(one: float, other: float, correlation: float) -> float:
    """Standard error of a difference from those of its two sides."""
    return math.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0))


def is_tie(one: Point, other: Point, correlation: float) -> bool:
    """Whether the two differ clearly in neither objective; False where the noise is not known."""
    a, b = one.result, other.result
    return _within(
        a.acceptance_rate - b.acceptance_rate, a.acceptance_se, b.acceptance_se, 0.0
    ) and _within(a.mse - b.mse, a.mse_se, b.mse_se, correlation)


def _within(difference: float, se: float | None, other: float | None, correlation: float) -> bool:
    if se is None or other is None:
        return False
    return abs(difference) <= CLEAR * difference_se(se, other, correlation)
