"""Standard errors over windows that overlap.

Forecasts of neighbouring windows share most of their horizon, so they err together. The variance
of a mean is therefore estimated with the Bartlett kernel (Newey and West 1987): the products of
two windows' deviations count with weight 1 - distance / bandwidth, the distance in rows. The
bandwidth is two horizons: one horizon of overlap, and as much again for what the series itself
remembers.

Such a sum falls short, because far products are discounted and because deviations are taken from
the windows' own mean. It is scaled so that it is right on average where the overlap is all that
makes windows err together, that is, where two windows' correlation is the share of the horizon
that they have in common. For windows far apart this is the usual s / sqrt(n).
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
        weighted = self._weighted(values - values.mean())
        return float(np.sqrt(max(weighted, 0.0) * self._scale))

    def of_ratio(self, numerators: Floats, denominators: Floats) -> float | None:
        """Standard error of sum(numerators) / sum(denominators), [W] each, by the delta method."""
        ratio = numerators.sum() / denominators.sum()
        return self.of_mean((numerators - ratio * denominators) / denominators.mean())

    @property
    def _bandwidth(self) -> int:
        return 2 * self.horizon

    def _weighted(self, values: Floats) -> float:
        """The sum over pairs of windows of weight times both values.

        The Bartlett kernel is a box convolved with itself, so the double sum is a single one over
        the places of a box as wide as the bandwidth: of the squared sum of what lies in it.
        """
        by_row = np.zeros(self._rows + 2 * self._bandwidth)
        by_row[self.starts - self.starts.min() + self._bandwidth] = values
        running = np.concatenate([[0.0], np.cumsum(by_row)])
        in_box = running[self._bandwidth :] - running[: -self._bandwidth]
        return float(np.square(in_box).sum() / self._bandwidth)

    @cached_property
    def _scale(self) -> float:
        """The variance of the mean over the expected weighted sum of deviations from it.

        With weights K, correlations R and n windows, the one is 1'R1 / n^2, and the other
        tr(K M R M) for M = I - 11' / n, written out.
        """
        count = len(self.starts)
        distance = np.arange(self._bandwidth)
        weight = 1.0 - distance / self._bandwidth
        correlation = np.maximum(1.0 - distance / self.horizon, 0.0)
        weights, correlations = self._around(weight), self._around(correlation)
        expected = (
            self._around(weight * correlation).sum()
            - 2.0 * (weights @ correlations) / count
            + weights.sum() * correlations.sum() / count**2
        )
        return float(correlations.sum() / count**2 / expected)

    def _around(self, by_distance: Floats) -> Floats:
        """The sum of `by_distance` over all windows near each window, itself included: [W]."""
        reach = len(by_distance) - 1
        kernel = np.concatenate([by_distance[:0:-1], by_distance])
        by_row = np.zeros(self._rows)
        by_row[self.starts - self.starts.min()] = 1.0
        size = self._rows + len(kernel) - 1
        transform = np.fft.rfft(by_row, size) * np.fft.rfft(kernel, size)
        summed: Floats = np.fft.irfft(transform, size)
        near: Floats = summed[self.starts - self.starts.min() + reach]
        return near

    @property
    def _rows(self) -> int:
        """From the first window's start to the last one's, both included."""
        return int(self.starts.max() - self.starts.min()) + 1
