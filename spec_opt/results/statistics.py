"""What a study says as a whole: the front and its noise, extremes, each value of a parameter."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import ExperimentalWarning

from spec_opt.results.differences import QUANTITIES, Noise
from spec_opt.results.recommend import bounds_of, ranked
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, mildness, outcome_of
from spec_opt.study.space import PARAMETERS

MOST_VALUES = 12
"""A parameter with more distinct values is cut into bins."""
BINS = 6

Standing = Literal["clear", "tie", "unknown"]


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """No messages below warnings, and none about experimental functions, within this block."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True)
class FrontMember:
    """A distinct result on the Pareto front, and whether noise could undo its place there."""

    points: tuple[Point, ...]
    """The trials with exactly this result, the mildest setting first."""
    standing: Standing
    """tie: another trial could be at least as good in both objectives; clear: none could;
    unknown: the noise of some trials is not known, and none of the others could."""
    tied_with: tuple[int, ...]
    """The other results that could be at least as good, each by its mildest trial."""


@dataclass(frozen=True)
class Spread:
    """How a quantity is distributed over trials."""

    lowest: float
    median: float
    mean: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float] | npt.NDArray[np.float64]) -> Spread:
        """Of at least one value."""
        return cls(*(float(f(values)) for f in (np.min, np.median, np.mean, np.max)))


@dataclass(frozen=True)
class Bin:
    """A value of a parameter, or a range of its values."""

    parameter: str
    low: float
    high: float

    @property
    def label(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:.2g}–{self.high:.2g}"


@dataclass(frozen=True)
class ValueSummary:
    """All trials with one value of a parameter, or within a range of its values."""

    bin: Bin
    trials: int
    acceptance_rate: Spread
    mse: Spread
    on_front: int
    balanced: int
    """Trials within the bounds of the balanced scenario."""

    @property
    def verdict(self) -> Literal["always good", "never good", "depends"]:
        """Whether the value is good whatever the other two parameters are."""
        if self.balanced == 0:
            return "never good"
        return "always good" if self.balanced == self.trials else "depends"


def noise_aware_front(table: StudyTable) -> tuple[FrontMember, ...]:
    """The distinct results of the front, from the highest acceptance down, with their standing.

    With three objectives the standing is unknown: the third has no interval.
    """
    noise = Noise(table.comparable if len(table.objectives) == 2 else ())
    all_known = len(noise.points) == len(table.comparable)
    members = []
    for block in table.distinct_front:
        rivals = noise.rivals(block[0])
        others = distinct([p for p in rivals if outcome_of(p) != outcome_of(block[0])])
        ties = tuple(min(same, key=mildness).number for same in others)
        standing: Standing = "tie" if ties else "clear" if all_known else "unknown"
        members.append(FrontMember(block, standing, ties))
    return tuple(members)


def spreads(points: Sequence[Point]) -> Mapping[str, Spread]:
    """How the objectives and the seconds of measuring are distributed, where known."""
    names = {"acceptance rate": "acceptance_rate", "MSE": "mse"}
    names["seconds of measuring"] = "evaluation_seconds"
    columns = {
        title: [v for p in points if (v := getattr(p.result, name)) is not None]
        for title, name in names.items()
    }
    return {title: Spread.of(values) for title, values in columns.items() if values}


def best(table: StudyTable, count: int = 5) -> Mapping[str, Sequence[Sequence[Point]]]:
    """The best distinct results by three measures; trials of equal results are together."""
    bounds = bounds_of(table, "balanced")
    orders = {
        "Highest acceptance": sorted(table.points, key=by_acceptance),
        "Lowest MSE": sorted(table.points, key=by_mse),
        "Best balanced": ranked(table, "balanced", bounds),
    }
    return {title: distinct(points)[:count] for title, points in orders.items()}


def distinct(points: Sequence[Point]) -> list[list[Point]]:
    """Points with equal results together, in the order of the first of each."""
    groups: dict[tuple[float, float], list[Point]] = {}
    for point in points:
        groups.setdefault(outcome_of(point), []).append(point)
    return list(groups.values())


def by_value(table: StudyTable) -> tuple[ValueSummary, ...]:
    """For each parameter and value: is it consistently good? Ranges where there are many values."""
    bounds, points = bounds_of(table, "balanced"), table.points
    acceptance, mse = (np.array([getattr(p.result, name) for p in points]) for name in QUANTITIES)
    on_front = np.array([p.result.pareto for p in points])
    balanced = np.array([bounds.hold(p) for p in points])
    found = []
    for parameter in PARAMETERS:
        bins = cut(points, parameter)
        places = places_of(points, bins)
        for index, place in enumerate(bins):
            if (mine := places == index).any():
                spreads = Spread.of(acceptance[mine]), Spread.of(mse[mine])
                counts = (int(flags[mine].sum()) for flags in (on_front, balanced))
                found.append(ValueSummary(place, int(mine.sum()), *spreads, *counts))
    return tuple(found)


def cut(points: Sequence[Point], parameter: str, most: int = MOST_VALUES) -> list[Bin]:
    """Each distinct value if there are at most `most`, else `BINS` ranges, in order.

    Ranges of sigma, which acts by its ratio to the gap of the models, grow by a factor.
    """
    distinct = sorted({float(vars(p.setting)[parameter]) for p in points})
    if len(distinct) <= most:
        return [Bin(parameter, value, value) for value in distinct]
    spaced = np.geomspace if parameter == "sigma" else np.linspace
    edges = spaced(distinct[0], distinct[-1], BINS + 1).tolist()
    # A value on an edge belongs to the upper range alone.
    lows = [distinct[0], *edges[1:-1]]
    highs = [*(math.nextafter(edge, -math.inf) for edge in edges[1:-1]), distinct[-1]]
    return [Bin(parameter, low, high) for low, high in zip(lows, highs, strict=True)]


def places_of(points: Sequence[Point], bins: Sequence[Bin]) -> npt.NDArray[np.intp]:
    """Of each point, the index of the bin that holds its value."""
    values = [getattr(point.setting, bin.parameter) for bin in bins[:1] for point in points]
    return np.searchsorted([bin.low for bin in bins], values, side="right") - 1
