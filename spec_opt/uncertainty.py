"""Standard errors over windows that overlap.

Forecasts of neighbouring windows share most of their horizon, so they err together. The variance
of a mean is therefore estimated with the Bartlett kernel (Newey and West 1987): the products of
two windows' deviations count with weight 1 - distance / bandwidth, the distance in rows. The
bandwidth is two horizons: one horizon of overlap, and as much again so that the kernel does not
discount the overlap itself.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Overlap:
    """How a set of windows overlaps: `starts` are distinct rows [W], `horizon` is in rows."""

    starts: NDArray[np.int64]
    horizon: int

    def of_mean(self, values: Floats) -> float | None:
        """Standard error of the mean of `values` [W]; None for a single window."""
        if len(values) < 2:
            return None
        residuals = values - values.mean()
        # For deviations from their own mean, white noise would give (1 - mean weight) of its
        # variance; with weights of 1 and 0 this is the usual n / (n - 1).
        variance = self._weighted(residuals) / len(values) ** 2 / (1.0 - self._mean_weight)
        return float(np.sqrt(max(variance, 0.0)))

    def of_ratio(self, numerators: Floats, denominators: Floats) -> float | None:
        """Standard error of sum(numerators) / sum(denominators), [W] each, by the delta method."""
        ratio = numerators.sum() / denominators.sum()
        return self.of_mean((numerators - ratio * denominators) / denominators.mean())

    @cached_property
    def _mean_weight(self) -> float:
        ones = np.ones(len(self.starts))
        return self._weighted(ones) / len(self.starts) ** 2

    def _weighted(self, values: Floats) -> float:
        """The sum over pairs of windows of weight times both values.

        The Bartlett kernel is a box convolved with itself, so the double sum is a single one over
        the places of a box as wide as the bandwidth: of the squared sum of what lies in it.
        """
        bandwidth = 2 * self.horizon
        first, last = int(self.starts.min()), int(self.starts.max())
        by_row = np.zeros(last - first + 1 + 2 * bandwidth)
        np.add.at(by_row, self.starts - first + bandwidth, values)
        running = np.concatenate([[0.0], np.cumsum(by_row)])
        in_box = running[bandwidth:] - running[:-bandwidth]
        return float(np.square(in_box).sum() / bandwidth)
