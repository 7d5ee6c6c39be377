"""Whether one trial could be at least as good as another, within the noise of measuring.

Most of the uncertainty of an MSE comes from easy and hard windows, which all trials share: the
trials of a study are measured on the same windows with the same random numbers. So the interval of
a difference is estimated from the differences block by block (`measurement.Blocks`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spec_opt.measure.uncertainty import ACCEPTANCE, FEWEST_BLOCKS, MSE
from spec_opt.results.table import Point


class Noise:
    """95 % intervals of differences between trials.

    `points` holds the trials for which they are known. Trials without blocks (imported ones, or
    those of an older version) and trials of too few windows are left out.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        every = [(p, p.result.blocks) for p in points]
        kept = [(p, b) for p, b in every if b is not None and len(b.rows) >= FEWEST_BLOCKS]
        # All trials of a study have the same windows; if not, only those of the first one count.
        kept = [(p, b) for p, b in kept if b.same_windows(kept[0][1])]
        self.points = tuple(p for p, _ in kept)
        self._place = {p.number: index for index, p in enumerate(self.points)}
        if kept:
            blocks = [b for _, b in kept]
            self._losses = np.array([(-p.result.acceptance_rate, p.result.mse) for p, _ in kept])
            self._parts = [(q.cosines(blocks[0]), q.residuals(blocks)) for q in (ACCEPTANCE, MSE)]

    def rivals(self, point: Point) -> tuple[Point, ...]:
        """The other trials that could be at least as good as `point` in both objectives.

        In neither objective does the interval of the difference lie wholly on the side of `point`.
        Empty if the noise of `point` is not known.
        """
        index = self._place.get(point.number)
        if index is None:
            return ()
        lead = self._losses - self._losses[index]
        half_widths = [c.critical * c.standard_error(r - r[index]) for c, r in self._parts]
        could = np.all(lead <= np.stack(half_widths, axis=1), axis=1)
        could[index] = False
        return tuple(self.points[i] for i in np.flatnonzero(could))
