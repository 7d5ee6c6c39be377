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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spec_opt.measure.measurement import Blocks

Floats = NDArray[np.float64]

MOST_BLOCKS: Final = 32
"""Enough to estimate a variance by (an eighth of a standard error either way), few to keep."""


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
        return self.of_mean(linearised(numerators, denominators))

    def blocks(self, squared_error: Floats, accepted: Floats, tested: Floats) -> Blocks:
        """What a trial keeps of its windows' values [W], in at most `MOST_BLOCKS` blocks.

        `of_blocks` takes a block for one long window. Lost is where in a block an error stands:
        of neighbouring blocks only as much is known to err together as windows of their length
        would. Standard errors from blocks lie within a tenth of those from windows on average,
        and vary more, as they rest on fewer numbers.
        """
        parts = np.array_split(np.argsort(self.starts), min(MOST_BLOCKS, len(self.starts)))
        share = len(parts) / len(self.starts)
        return Blocks(
            rows=tuple(int(self.starts[part].sum()) // len(part) for part in parts),
            reach=self.horizon + int(max(np.ptp(self.starts[part]) for part in parts)),
            mse=tuple(float(squared_error[part].sum()) * share for part in parts),
            accepted=tuple(int(accepted[part].sum()) for part in parts),
            tested=tuple(int(tested[part].sum()) for part in parts),
        )

    @classmethod
    def of_blocks(cls, blocks: Blocks) -> "Overlap":
        return cls(np.array(blocks.rows), blocks.reach)

    def of_means(self, values: Floats) -> Floats:
        """`of_mean` for each row of `values` [n, W], by matrices: for few windows, not one."""
        distance = np.abs(self.starts[:, None] - self.starts[None, :])
        weights = np.maximum(1.0 - distance / self._bandwidth, 0.0) * self._scale
        centred = values - values.mean(axis=1, keepdims=True)
        variances = ((centred @ weights) * centred).sum(axis=1)
        result: Floats = np.sqrt(np.maximum(variances, 0.0))
        return result

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


def linearised(numerators: Floats, denominators: Floats) -> Floats:
    """What each window [..., W] adds to the error of sum(numerators) / sum(denominators)."""
    mean = denominators.mean(axis=-1, keepdims=True)
    ratio = numerators.mean(axis=-1, keepdims=True) / mean
    values: Floats = (numerators - ratio * denominators) / mean
    return values
