"""How results differ, and whether one could be at least as good as another within the noise.

Most of the uncertainty of an MSE comes from easy and hard windows, which all trials share: the
trials of a study are measured on the same windows with the same random numbers. So the interval of
a difference is estimated from the differences block by block (`measurement.Blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spec_opt.measure.measurement import Measurement
from spec_opt.measure.uncertainty import ACCEPTANCE, FEWEST_BLOCKS, MSE, difference
from spec_opt.results.table import Point, Result

QUANTITIES = {"acceptance_rate": ACCEPTANCE, "mse": MSE}


@dataclass(frozen=True)
class Change:
    """A result minus another one."""

    value: float
    half_width: float | None
    """Half of the 95 % interval; None if the noise of either is not known."""

    @classmethod
    def between(
        cls,
        one: Result | Measurement,
        other: Result | Measurement,
        name: Literal["acceptance_rate", "mse"],
        *,
        paired: bool,
    ) -> Change:
        """The change of a result; `paired` if both were measured on the same windows."""
        value = getattr(one, name) - getattr(other, name)
        if paired and one.blocks is not None and other.blocks is not None:
            found = difference(QUANTITIES[name], one.blocks, other.blocks)
            return cls(value, None if found is None else found.half_width)
        ci95 = name.replace("_rate", "") + "_ci95"
        widths = getattr(one, ci95), getattr(other, ci95)
        return cls(value, None if None in widths else math.hypot(*widths))

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.half_width is not None and abs(self.value) > self.half_width


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
