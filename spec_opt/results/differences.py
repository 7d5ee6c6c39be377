"""Whether one trial could be at least as good as another, within the noise of measuring.

Most of the standard error of an MSE comes from easy and hard windows, which all trials share: the
trials of a study are measured on the same windows with the same random numbers. So the noise of a
difference is estimated from the differences window by window, or rather block by block: each trial
keeps its windows in a few blocks (`measurement.Blocks`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spec_opt.measure.uncertainty import Floats, Overlap, linearised
from spec_opt.results.table import Point

CLEAR = 2.0
"""A difference of this many standard errors counts as clear."""


class Noise:
    """Standard errors of differences between trials.

    `points` holds the trials for which they are known. Trials without blocks (imported ones, or
    those of an older version) and trials of a single window are left out.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        every = [(p, p.result.blocks) for p in points]
        kept = [(p, b) for p, b in every if b is not None and len(b.rows) > 1]
        # All trials of a study have the same windows; if not, only those of the first one count.
        kept = [(p, b) for p, b in kept if (b.rows, b.reach) == (kept[0][1].rows, kept[0][1].reach)]
        self.points = tuple(p for p, _ in kept)
        self._place = {p.number: index for index, p in enumerate(self.points)}
        if kept:
            self._overlap = Overlap.of_blocks(kept[0][1])
            self._mse = _array([b.mse for _, b in kept])
            self._acceptance = linearised(
                _array([b.accepted for _, b in kept]), _array([b.tested for _, b in kept])
            )
            self._values = _array([(-p.result.acceptance_rate, p.result.mse) for p in self.points])

    def rivals(self, point: Point) -> tuple[Point, ...]:
        """The other trials that could be at least as good as `point` in both objectives.

        `point` beats a rival in neither objective by more than `CLEAR` standard errors of the
        difference. Empty if the noise of `point` is not known.
        """
        index = self._place.get(point.number)
        if index is None:
            return ()
        lead = self._values - self._values[index]
        noise = (
            self._overlap.of_means(self._acceptance - self._acceptance[index]),
            self._overlap.of_means(self._mse - self._mse[index]),
        )
        could = np.all(lead <= CLEAR * np.stack(noise, axis=1), axis=1)
        could[index] = False
        return tuple(self.points[i] for i in np.flatnonzero(could))


def _array(rows: Sequence[Sequence[float]]) -> Floats:
    return np.array(rows, dtype=np.float64)
