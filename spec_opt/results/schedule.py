"""A k for each load: the fastest setting at each batch size within the bounds of a scenario.

A study's trials hold how often proposals are accepted, which does not depend on the batch size, and
the study holds what decoding costs. From both the cost model predicts every trial's speedup at any
batch size whose costs were learnt, or that lies between sizes whose costs were learnt together
(never beyond them). A speedup that was measured at a batch size goes before the predicted one, and
needs no costs.
Where nothing is faster than the target alone, k is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from spec_opt.config.variants import AS_WRITTEN
from spec_opt.measure.cost_model import (
    OF_VARIANT,
    Costs,
    LearntCosts,
    Round,
    acceptance_by_position,
    course,
    speculative_seconds,
    target_only_seconds,
)
from spec_opt.results.recommend import Scenario, bounds_on_results
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import Point, StudyTable, by_acceptance

MOST_OF_A_K = 20
"""Trials of each k that a schedule considers in a large study."""

Row = tuple[int, float | None, float | None, int, float]
"""Batch size, sigma, bias, k and speedup. For the target alone: no sigma, no bias, k 0, 1.0."""


@dataclass(frozen=True)
class Gain:
    """The speedup of a trial's setting in batches of one size."""

    batch_size: int
    point: Point
    predicted: float | None
    """None where costs are not known at this batch size."""
    measured: Speedup | None

    @property
    def speedup(self) -> float:
        """Measured, else predicted."""
        return self.measured.value if self.measured is not None else self.predicted or 0.0

    @property
    def pays(self) -> bool:
        """Whether it is faster than the target alone."""
        return self.speedup > 1.0

    @property
    def k(self) -> int:
        """To use at this batch size: 0 for the target alone."""
        return self.point.setting.k if self.pays else 0

    @property
    def row(self) -> Row:
        if not self.pays:
            return self.batch_size, None, None, 0, 1.0
        setting = self.point.setting
        return self.batch_size, setting.sigma, setting.bias, setting.k, self.speedup


@dataclass(frozen=True)
class Schedule:
    """The fastest setting at each batch size, on one device."""

    reference: str
    """The study, for commands to paste."""
    scenario: Scenario
    bounds: str
    """On MSE and acceptance, in words."""
    device: str | None
    """None where no costs are known."""
    best: tuple[Gain, ...]
    """One a batch size, whether or not it pays; empty where nothing is known."""
    by_k: Mapping[int, tuple[Gain, ...]]
    """The fastest with each k."""
    learnt_at: tuple[int, ...]
    """Batch sizes that were timed to learn costs."""
    unpredicted: str | None
    """Why nothing is predicted, and what mends it."""

    @property
    def unknown(self) -> str | None:
        """Why there is no schedule, neither predicted nor measured, and what mends it."""
        return None if self.best else self.unpredicted

    @property
    def rows(self) -> list[Row]:
        """For JSON."""
        return [gain.row for gain in self.best]

    @property
    def changes(self) -> tuple[int, ...]:
        """Batch sizes at which k differs from that of the size before."""
        pairs = zip(self.best, self.best[1:], strict=False)
        return tuple(after.batch_size for before, after in pairs if before.k != after.k)

    @property
    def to_time(self) -> tuple[int, ...]:
        """Batch sizes that confirm it: the first, and those where k changes, or else the last."""
        sizes = [gain.batch_size for gain in self.best]
        return tuple(dict.fromkeys((*sizes[:1], *(self.changes or sizes[-1:]))))

    @property
    def rivals(self) -> tuple[Point, ...]:
        """The settings to time at these batch sizes: what it names there, and just before."""
        pairs = zip((self.best[0], *self.best), self.best, strict=False)
        named = [g.point for pair in pairs if pair[1].batch_size in self.to_time for g in pair]
        return tuple({point.number: point for point in named}.values())


def schedule_of(
    table: StudyTable,
    scenario: Scenario = "speed",
    reference: str | None = None,
    device: str | None = None,
) -> Schedule:
    """The schedule of a study on one device.

    Args:
        scenario: whose bounds on MSE and acceptance hold.
        reference: the study as it was named, for commands to paste; by default its name.
        device: its name; by default the one benched last, or else the one that learnt costs first.
    """
    reference, device = reference or table.name, device or _device(table)
    bounds = bounds_on_results(table, scenario)
    held = _held(table, device)
    learnt = [one for one in held if one.are_known]
    # What other drafts cost is not known at every batch size.
    own = [p for p in table.points if p.variant == AS_WRITTEN]
    within = [p for p in own if p.result.feasible and bounds.hold(p)]
    counted = [p for p in within if p.result.tested_by_position and p.result.windows]
    if not table.in_detail:
        counted = _most_accepted(table, counted)
    measured = {s.batch_size for s in table.speedups if s.device == device and s.trial is not None}
    sizes = sorted({*_batch_sizes(learnt), *measured}) if counted else []
    forecasts = [_forecast(p) for p in counted] if sizes else []
    by_k: dict[int, list[Gain]] = {}
    best = []
    for batch_size in sizes:
        costs = _costs_at(learnt, batch_size)
        every = (_gain(table, *one, costs, batch_size) for one in forecasts)
        gains = [gain for gain in every if gain.speedup > 0.0]
        for k in sorted({gain.point.setting.k for gain in gains}):
            by_k.setdefault(k, []).append(_fastest(g for g in gains if g.point.setting.k == k))
        best += [_fastest(gains)] if gains else []
    timed = {size for one in learnt for size in one.batch_sizes}
    why = f"No trial has {bounds.text}." if not within else _why_unknown(counted, held, reference)
    return Schedule(
        reference=reference,
        scenario=scenario,
        bounds=bounds.text,
        device=device,
        best=tuple(best),
        by_k={k: tuple(gains) for k, gains in by_k.items()},
        learnt_at=tuple(sorted(timed)),
        unpredicted=None if best and learnt else why,
    )


def _most_accepted(table: StudyTable, counted: Iterable[Point]) -> list[Point]:
    """Of each k the trials that accept most, and what was timed: with one k, speed is acceptance.

    To predict every trial at every batch size would take minutes in a large study.
    """
    found: list[Point] = []
    by_k: dict[int, int] = {}
    for point in sorted(counted, key=by_acceptance):
        k = point.setting.k
        by_k[k] = by_k.get(k, 0) + 1
        if by_k[k] <= MOST_OF_A_K or table.measured_speedups(point.number):
            found.append(point)
    return found


def doublings(most: int) -> list[int]:
    """1, 2, 4, … up to `most`, which is always among them."""
    return sorted({*takewhile(lambda size: size <= most, (2**i for i in range(64))), most})


def _device(table: StudyTable) -> str | None:
    """The one benched last, else the one whose costs came first."""
    devices = [costs.device for costs in table.batch_costs]
    devices += [key.split(",")[0] for key in table.costs]
    return table.bench_device or next(iter(devices), None)


def _held(table: StudyTable, device: str | None) -> list[LearntCosts]:
    """All costs of a device, those of single batch sizes first."""
    own = [costs.learnt for costs in table.batch_costs if costs.device == device]
    return own + [
        costs
        for key, costs in table.costs.items()
        if key.startswith(f"{device},") and OF_VARIANT not in key
    ]


def _costs_at(learnt: Sequence[LearntCosts], batch_size: int) -> Costs | None:
    """Those learnt nearest to a batch size; None if none cover it."""
    covering = [costs for costs in learnt if costs.cover(batch_size)]
    if not covering:
        return None
    return min(covering, key=lambda one: max(one.batch_sizes) - min(one.batch_sizes)).costs


def _batch_sizes(learnt: Sequence[LearntCosts]) -> list[int]:
    """1, 2, 4, … and those that were timed, as far as costs are known."""
    timed = {size for costs in learnt for size in costs.batch_sizes}
    every = sorted(timed | {*doublings(max(timed, default=1))})
    return [size for size in every if any(costs.cover(size) for costs in learnt)]


def _forecast(point: Point) -> tuple[Point, int, tuple[Round, ...]]:
    """A trial, the patches of a forecast, and its rounds, as the trial's counters tell them."""
    result = point.result
    accepted, tested = result.accepted_by_position or (), result.tested_by_position or ()
    patches = (result.patches or 0) // ((result.windows or 1) * (result.seeds or 1))
    return point, patches, course(acceptance_by_position(accepted, tested), patches)


def _gain(
    table: StudyTable,
    point: Point,
    patches: int,
    rounds: Sequence[Round],
    costs: Costs | None,
    batch_size: int,
) -> Gain:
    predicted = None
    if costs is not None:
        seconds = speculative_seconds(rounds, costs, batch_size)
        predicted = target_only_seconds(patches, costs, batch_size) / seconds
    measured = table.measured_speedups(point.number)
    at_this = (speedup for speedup in measured if speedup.batch_size == batch_size)
    return Gain(batch_size, point, predicted, next(at_this, None))


def _fastest(gains: Iterable[Gain]) -> Gain:
    """The highest speedup; a prediction counts only if it is above those that were measured."""
    every = list(gains)
    ceiling = max((g.predicted or 0.0 for g in every if g.measured is not None), default=0.0)

    def rank(gain: Gain) -> tuple[float, ...]:
        behind = gain.measured is None and (gain.predicted or 0.0) <= ceiling
        return (behind, -gain.speedup, *by_acceptance(gain.point))

    return min(every, key=rank)


def _why_unknown(counted: Sequence[Point], held: Sequence[LearntCosts], reference: str) -> str:
    if not counted:
        return "Imported trials have no counts by position, from which speedups are predicted."
    remedy = f"`spec-opt bench {reference} --schedule` learns it"
    doubtful = [costs for costs in held if not costs.are_known]
    if doubtful:
        return f"What decoding costs is not known ({doubtful[0]}): {remedy} on an idle machine."
    return f"What decoding costs at each batch size is not known yet: {remedy}."
