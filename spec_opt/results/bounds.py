"""The thresholds of a scenario in a study's own numbers, and the order within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spec_opt.config import BoundedScenario
from spec_opt.results.table import Point, StudyTable, mildness
from spec_opt.results.wording import percent

Order = Callable[[Point], tuple[float, ...]]
"""A sort key: the smallest is the best."""
Preference = Callable[["Bounds", Sequence[Point]], Order]
"""From the bounds and the points within them to their order."""


@dataclass(frozen=True)
class Bounds:
    """The thresholds of a quality scenario, in this study's numbers."""

    min_acceptance: float
    max_mse: float
    origin: str
    """Where `max_mse` comes from, in words."""

    def hold(self, point: Point) -> bool:
        return self.reaches(point) and self.is_accurate(point)

    def reaches(self, point: Point) -> bool:
        return point.result.acceptance_rate >= self.min_acceptance

    def is_accurate(self, point: Point) -> bool:
        return point.result.mse <= self.max_mse

    def __str__(self) -> str:
        return (
            f"MSE <= {self.max_mse:.4f} ({self.origin}) "
            f"and acceptance >= {percent(self.min_acceptance)}"
        )


def bounds_of(table: StudyTable, scenario: BoundedScenario) -> Bounds:
    """A scenario's thresholds; an MSE ratio is taken of the target's own MSE.

    A study without that baseline (imported results) falls back on its lowest MSE, and says so.
    The table holds at least one point.
    """
    if scenario.max_mse is not None:
        return Bounds(scenario.min_acceptance, scenario.max_mse, "max_mse")
    ratio = scenario.max_mse_ratio
    if table.target_mse is not None:
        origin, reference = "the target alone", table.target_mse
    else:
        origin, reference = "the lowest MSE here", min(p.result.mse for p in table.points)
    return Bounds(
        scenario.min_acceptance, ratio * reference, f"{ratio:g} times {origin}, {reference:.4f}"
    )


def give_up(bounds: Bounds, eligible: Sequence[Point]) -> Order:
    """Sort key of the balanced scenario: used share of acceptance margin plus of error margin."""
    best_acceptance = max((p.result.acceptance_rate for p in eligible), default=1.0)
    best_mse = min((p.result.mse for p in eligible), default=0.0)
    acceptance_margin = best_acceptance - bounds.min_acceptance
    mse_margin = bounds.max_mse - best_mse

    def key(point: Point) -> tuple[float, ...]:
        lost = best_acceptance - point.result.acceptance_rate
        added = point.result.mse - best_mse
        used = (lost / acceptance_margin if acceptance_margin > 0 else 0.0) + (
            added / mse_margin if mse_margin > 0 else 0.0
        )
        return (used, *mildness(point))

    return key
