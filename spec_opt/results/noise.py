"""Whether one trial could be at least as good as another, within the noise of measuring.

A trial's own standard error of the MSE is mostly the difference between easy and hard windows,
which all trials share. Trials of a study are measured on the same windows with the same random
numbers, so the noise of a difference is that of the differences window by window; each trial keeps
its windows in a few blocks (`measurement.Blocks`) for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spec_opt.results.table import Point
from spec_opt.uncertainty import Floats, Overlap, linearised

CLEAR = 2.0
"""A difference of this many standard errors counts as clear."""


class Noise:
    """Of the differences between trials; those whose noise is not known are not among `points`.

    That is every trial without blocks (imported, or of an older version), or of a single window.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        every = [(p, p.result.blocks) for p in points]
        kept = [(p, b) for p, b in every if b is not None and len(b.rows) > 1]
        # Trials of one study have the same windows; should they not, the first trial's count.
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
        """Those of the trials that could be at least as good as `point` in both objectives.

        In neither is `point` better by more than `CLEAR` standard errors of the difference. It is
        none of them itself, and has none if its own noise is not known.
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
