"""Which setting to use in each of three scenarios, and why.

- speed: the highest speedup among trials with an MSE of at most the limit, a measured one before
  a predicted one; where no speedup is known, the highest acceptance among trials with k >= min_k;
- quality: the lowest MSE among trials within both bounds (MSE at most, acceptance at least);
- balanced: within its own two bounds, the trial that gives up least: the share of the acceptance
  margin that it uses (best .. floor) plus the share of the error margin (best .. limit).

Equal results go to the mildest setting (`table.mildness`), so the order of trials does not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from spec_opt.config.study_file import BoundedScenario, Setting, SpeedScenario
from spec_opt.measure.measurement import THE_SAME
from spec_opt.results.advice import cautions, remedies
from spec_opt.results.differences import Noise
from spec_opt.results.speedup import as_fast
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, mildness, outcome_of
from spec_opt.results.wording import (
    described,
    none_feasible,
    numbers,
    outcome,
    percent,
    plural,
    relative,
)

Scenario = Literal["speed", "quality", "balanced"]
SCENARIOS: tuple[Scenario, ...] = ("speed", "quality", "balanced")


@dataclass(frozen=True)
class Bounds:
    """What a scenario asks of a trial, in this study's numbers."""

    text: str
    min_k: int = 1
    min_acceptance: float = 0.0
    max_mse: float = math.inf

    @property
    def limits(self) -> str:
        """Like `text`, without where they come from."""
        return re.sub(r" \(.*?\)", "", self.text)

    def hold(self, point: Point) -> bool:
        """Whether a trial meets all of them."""
        return point.setting.k >= self.min_k and self.reaches(point) and self.is_accurate(point)

    def reaches(self, point: Point) -> bool:
        return point.result.acceptance_rate >= self.min_acceptance

    def is_accurate(self, point: Point) -> bool:
        return point.result.mse <= self.max_mse


@dataclass(frozen=True)
class Recommendation:
    """The trial to take for a scenario, or why there is none."""

    scenario: Scenario
    point: Point | None
    mse_ratio: float | None
    """MSE over the target's own; None where either is not known."""
    why: str
    """Why this trial; if there is none, which threshold fails and by how much."""
    close: str | None
    """Which others came close."""
    cautions: tuple[str, ...]
    """What to know before relying on it."""
    advice: tuple[str, ...]
    """What to try if nothing meets the scenario, by this study's own numbers."""
    merit: str = ""
    """`why` in short, without the trial's number and results: `has the lowest MSE of …`."""

    def __repr__(self) -> str:
        """The setting and what it gives, on one line."""
        found = "no trial meets it" if self.point is None else described(self.point)
        return f"<Recommendation {self.scenario}: {found}>"

    @property
    def trial(self) -> int | None:
        return None if self.point is None else self.point.number

    @property
    def setting(self) -> Setting | None:
        return None if self.point is None else self.point.setting

    @property
    def acceptance_rate(self) -> float | None:
        return None if self.point is None else self.point.result.acceptance_rate

    @property
    def mse(self) -> float | None:
        return None if self.point is None else self.point.result.mse

    @property
    def reason(self) -> str:
        """All of it as one text."""
        parts = (self.why, self.close, *self.cautions, *self.advice)
        return " ".join(part for part in parts if part)


def recommend_all(table: StudyTable) -> tuple[Recommendation, ...]:
    """The three recommendations, in the order of `SCENARIOS`."""
    known = cautions(table)
    return tuple(recommend(table, scenario, known) for scenario in SCENARIOS)


def best_of_scenarios(table: StudyTable) -> list[Point]:
    """The recommended trials, without the reasons."""
    found = (_eligible(table, scenario, bounds_of(table, scenario)) for scenario in SCENARIOS)
    return [min(eligible, key=rank) for eligible, rank in found if eligible]


def closing_choice(recommendations: Sequence[Recommendation]) -> Recommendation | None:
    """The one that stands for the study: balanced, else quality, else speed."""
    met = {r.scenario: r for r in recommendations if r.point is not None}
    return met.get("balanced") or met.get("quality") or met.get("speed")


def recommend(
    table: StudyTable, scenario: Scenario, known: tuple[str, ...] | None = None
) -> Recommendation:
    """The recommendation for one scenario; `known` are the study's cautions, if made already."""
    known = cautions(table) if known is None else known
    bounds = bounds_of(table, scenario)
    eligible = ranked(table, scenario, bounds)
    if not eligible:
        return _nothing(table, scenario, bounds, known)
    chosen, target = eligible[0], table.target_mse
    merit = _merit(table, scenario, eligible)
    own = _slower(table, chosen), _forecasts_as_the_draft(table, chosen)
    facts = f"{chosen.label}, {outcome(chosen)}"
    if target is not None:
        facts += f", {relative(chosen.result.mse, target)} the target alone ({target:.4f})"
    if chosen.draft_path is not None:
        facts += f"; its draft is {chosen.draft_path}"
    return Recommendation(
        scenario=scenario,
        point=chosen,
        mse_ratio=None if target is None else chosen.result.mse / target,
        why=f"Trial {chosen.number} {merit} {bounds.text}: {facts}.",
        close=_close(eligible),
        cautions=(*known, *filter(None, own)),
        advice=(),
        merit=f"{merit} {bounds.limits}".rstrip(),
    )


def ranked(table: StudyTable, scenario: Scenario, bounds: Bounds) -> list[Point]:
    """The feasible trials that meet a scenario, the best first."""
    found, rank = _eligible(table, scenario, bounds)
    return sorted(found, key=rank)


def _eligible(
    table: StudyTable, scenario: Scenario, bounds: Bounds
) -> tuple[list[Point], Callable[[Point], tuple[float, ...]]]:
    """The feasible trials that meet a scenario, and the key that sorts the best first."""
    found = [p for p in table.points if p.result.feasible and bounds.hold(p)]
    if scenario == "speed":
        found = [p for p in found if p.result.acceptance_rate > 0]
        return found, _by_speedup(table, found) if _speeds_are_known(table) else by_acceptance
    return found, by_mse if scenario == "quality" else give_up(bounds, found)


def _speeds_are_known(table: StudyTable) -> bool:
    return any(table.speedup_of(point) is not None for point in table.points)


def _by_speedup(
    table: StudyTable, eligible: Sequence[Point]
) -> Callable[[Point], tuple[float, ...]]:
    """Sort key: the highest speedup first.

    A prediction only counts if it is higher than all that were put to the test by measuring.
    """
    tested = [p.result.predicted_speedup or 0.0 for p in eligible if _measured(table, p)]
    ceiling = max(tested, default=0.0)

    def key(point: Point) -> tuple[float, ...]:
        speedup = table.speedup_of(point) or 0.0
        behind = not _measured(table, point) and speedup <= ceiling
        return (behind, -speedup, *by_acceptance(point))

    return key


def _measured(table: StudyTable, point: Point) -> bool:
    return table.measured_speedup(point.number) is not None


def bounds_of(table: StudyTable, scenario: Scenario) -> Bounds:
    """The bounds of a scenario; an MSE ratio refers to the target's own MSE.

    A study without that baseline (imported results) takes its lowest MSE instead, and says so.
    """
    if scenario == "speed" and not _speeds_are_known(table):
        min_k = table.limits.speed.min_k
        return Bounds(f"k >= {min_k} (no speedup is known, so the guide's rule)", min_k=min_k)
    return bounds_on_results(table, scenario)


def bounds_on_results(table: StudyTable, scenario: Scenario) -> Bounds:
    """The bounds of a scenario on MSE and acceptance, whether or not speedups are known."""
    asked: SpeedScenario | BoundedScenario = getattr(table.limits, scenario)
    max_mse = asked.max_mse if isinstance(asked, BoundedScenario) else None
    floor = asked.min_acceptance
    origin = "max_mse"
    if max_mse is None:
        reference, name = table.target_mse, "the target alone"
        if reference is None:
            lowest = min((p.result.mse for p in table.points), default=math.inf)
            reference, name = lowest, "the lowest MSE here"
        max_mse = asked.max_mse_ratio * reference
        origin = f"{asked.max_mse_ratio:g} times {name}, {reference:.4f}"
    text = f"MSE <= {max_mse:.4f} ({origin})"
    if floor > 0.0:
        text += f" and acceptance >= {percent(floor)}"
    return Bounds(text, min_acceptance=floor, max_mse=max_mse)


def give_up(bounds: Bounds, eligible: Sequence[Point]) -> Callable[[Point], tuple[float, ...]]:
    """Sort key of the balanced scenario: share of acceptance margin used plus of error margin."""
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


_MERITS = {
    "quality": "the lowest MSE",
    "balanced": "the best balance of acceptance and error",
}


def _merit(table: StudyTable, scenario: Scenario, eligible: Sequence[Point]) -> str:
    """In what the first of the eligible trials is the best."""
    if len(eligible) == 1:
        return "is the only one with"
    best = _MERITS.get(scenario)
    how = f"{best} of the {len(eligible)}" if best else _fastest(table, eligible)
    return f"has {how} trials with"


def in_short(group: Sequence[Recommendation]) -> str:
    """Why one trial is the choice for several scenarios, in a sentence."""
    *others, last = (r.merit for r in group)
    point = group[0].point
    draft = point and point.draft_path
    its_draft = f" Its draft is {draft}." if draft else ""
    return f"Trial {group[0].trial} {', '.join(others)}, and {last}.{its_draft}"


def _fastest(table: StudyTable, eligible: Sequence[Point]) -> str:
    """By what the speed scenario chose the first of them, and among how many."""
    chosen, every = eligible[0], f"of the {len(eligible)}"
    if (measured := table.measured_speedup(chosen.number)) is not None:
        timed = sum(_measured(table, point) for point in eligible)
        if timed == 1:
            every = f"as the only one timed {every}"
        elif timed < len(eligible):
            every = f"of the {timed} timed among the {len(eligible)}"
        where = f"batch size {measured.batch_size}, {measured.device}"
        return f"the highest measured speedup, {measured} ({where}), {every}"
    predicted = chosen.result.predicted_speedup
    if predicted is not None:
        return f"the highest predicted speedup, {predicted:.2f}x, {every}"
    return f"the highest acceptance {every}"


def _slower(table: StudyTable, chosen: Point) -> str | None:
    """That a trial was timed, or is predicted, to be slower than the target alone; None if not."""
    if (measured := table.measured_speedup(chosen.number)) is not None:
        speed, how = measured.value, "was measured"
        much = f"{measured} at batch size {measured.batch_size}"
    else:
        speed, how = chosen.result.predicted_speedup or 1.0, "is predicted to be"
        much = f"{speed:.2f}x"
    return f"{chosen.label} {how} slower than the target alone: {much}." if speed < 1.0 else None


def _forecasts_as_the_draft(table: StudyTable, chosen: Point) -> str | None:
    """That a trial keeps every proposal and forecasts what its draft does; None if not."""
    alone = chosen.result.draft_mse
    if alone is None and table.baseline is not None:
        alone = table.baseline.draft_mse
    is_draft = alone is not None and math.isclose(chosen.result.mse, alone, rel_tol=THE_SAME)
    if not is_draft or chosen.result.acceptance_rate < 1.0:
        return None
    # Only the draft of the study file is timed alone.
    timed = () if chosen.result.draft_mse is not None else table.measured_speedups(None)
    speed = as_fast(timed)
    which = f", which alone is {speed}" if speed else ""
    return f"With {chosen.label} every proposal is kept: the forecast is the draft's{which}."


def _close(eligible: Sequence[Point]) -> str | None:
    """The trials that equal the first, the runner-up, and whether noise separates it."""
    chosen = eligible[0]
    same = sorted(p.number for p in eligible[1:] if outcome_of(p) == outcome_of(chosen))
    runner_up = next((p for p in eligible[1:] if outcome_of(p) != outcome_of(chosen)), None)
    rivals = Noise(eligible).rivals(chosen)
    parts = []
    if same:
        subject = f"Trial {same[0]} gives" if len(same) == 1 else f"Trials {numbers(same)} give"
        parts.append(
            f"{subject} exactly the same numbers; of these this is the one with the lowest bias, "
            "then sigma, then k."
        )
    if runner_up is not None:
        parts.append(f"Next is {described(runner_up)}.")
        if runner_up in rivals:
            parts.append("Within the noise of measuring it could be as good in both objectives.")
    faster = max(rivals, key=lambda p: p.result.patches_per_round or 0.0, default=chosen)
    own, more = (p.result.patches_per_round or 0.0 for p in (chosen, faster))
    if own > 0 and more > 1.1 * own:
        parts.append(
            f"As good within that noise, and with more patches per round "
            f"({more:.2f} instead of {own:.2f}), is {described(faster)}."
        )
    return " ".join(parts) or None


def _nothing(
    table: StudyTable, scenario: Scenario, bounds: Bounds, known: tuple[str, ...]
) -> Recommendation:
    """Why no trial meets a scenario, and what to try."""
    advice: tuple[str, ...] = ()
    if not table.points:
        why = _no_results(table)
    elif none := none_feasible(table):
        why = none
    elif bounds.min_k > (largest := max(p.setting.k for p in table.points)):
        why = (
            f"No trial has {bounds.text} (recommend.speed.min_k); the largest tried is {largest}, "
            f"{bounds.min_k - largest} short: add a larger k to [search], or lower min_k."
        )
    elif scenario == "speed" and (
        count := sum(p.result.feasible and bounds.hold(p) for p in table.points)
    ):
        why = (
            f"Of {plural(count, 'trial')} with {bounds.text} none accepts a single proposal: "
            "speculation only adds work here."
        )
        advice = remedies(table, low_acceptance=True)
    else:
        why = _shortfall(table, bounds)
        advice = remedies(table, low_acceptance=not any(map(bounds.reaches, table.points)))
    return Recommendation(scenario, None, None, why, None, known, advice)


def _no_results(table: StudyTable) -> str:
    failed = [row for row in table.trials if row.state == "fail"]
    if not failed:
        return "The study has no completed trial yet."
    last = next((row.error for row in reversed(failed) if row.error), None)
    return (
        f"The study has no completed trial: {plural(len(failed), 'trial')} failed"
        f"{f', the last with: {last}' if last else ''}."
    )


def _shortfall(table: StudyTable, bounds: Bounds) -> str:
    """Which threshold fails, and the trials that come closest to it."""
    parts = [f"No trial has {bounds.text}."]
    if table.target_mse is not None and bounds.max_mse < table.target_mse:
        parts.append(
            f"That limit lies below the target's own MSE ({table.target_mse:.4f}), which "
            "speculation can hardly better: raise it."
        )
    reaching = [p for p in table.points if bounds.reaches(p)]
    accurate = [p for p in table.points if bounds.is_accurate(p)]
    if reaching or not accurate:
        best = min(reaching or table.points, key=by_mse)
        over = best.result.mse - bounds.max_mse
        parts.append(
            f"The lowest MSE{' with enough acceptance' if reaching else ''} is {described(best)}, "
            f"which is {over:.4f} ({100 * over / bounds.max_mse:.1f}%) over the limit on the MSE."
        )
    if accurate or not reaching:
        best = min(accurate or table.points, key=by_acceptance)
        missing = 100 * (bounds.min_acceptance - best.result.acceptance_rate)
        parts.append(
            f"The highest acceptance{' within the limit on the MSE' if accurate else ''} is "
            f"{described(best)}, which is {missing:.1f} percentage points short."
        )
    return " ".join(parts)
