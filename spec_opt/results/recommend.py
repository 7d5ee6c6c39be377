"""Which setting to use: the three scenarios, each with its reasons in plain words.

- speed: the highest acceptance rate among trials with k >= min_k;
- quality: the lowest MSE among trials within both bounds (MSE at most, acceptance at least);
- balanced: within its own two bounds, the trial that gives up least: the share of the acceptance
  margin that it uses (best .. floor) plus the share of the error margin (best .. limit).

Equal results go to the mildest setting (`table.mildness`), so the choice never depends on order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from spec_opt.config import RecommendConfig, Setting, SpeedScenario
from spec_opt.results.advice import cautions, remedies
from spec_opt.results.bounds import Bounds, Preference, bounds_of, give_up
from spec_opt.results.noise import Noise
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, outcome_of
from spec_opt.results.wording import described, numbers, outcome, percent, plural, relative

Scenario = Literal["speed", "quality", "balanced"]
SCENARIOS: tuple[Scenario, ...] = ("speed", "quality", "balanced")


@dataclass(frozen=True)
class Recommendation:
    """The trial to take for a scenario, or why none can be."""

    scenario: Scenario
    point: Point | None
    mse_ratio: float | None
    """MSE over the target's own; None where either is not known."""
    why: str
    """Why this one; where there is none, which threshold fails and by how much."""
    close: str | None
    """Which others nearly were it."""
    would_change: str | None
    """What would change the choice."""
    cautions: tuple[str, ...]
    """What to know before relying on it."""
    advice: tuple[str, ...]
    """Where nothing meets the scenario: what to try, from this study's own numbers."""

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
        parts = (self.why, self.close, self.would_change, *self.cautions, *self.advice)
        return " ".join(part for part in parts if part)

    def own(self, common: Sequence[str]) -> list[str]:
        """The cautions and advice that are not among those that hold for all scenarios."""
        return [sentence for sentence in self.cautions + self.advice if sentence not in common]


def limits_of(table: StudyTable, thresholds: RecommendConfig | None) -> RecommendConfig:
    """The thresholds as given, else those that the study was made with, else the defaults."""
    return thresholds or (table.config.recommend if table.config else RecommendConfig())


def recommend(
    table: StudyTable, scenario: Scenario, thresholds: RecommendConfig | None = None
) -> Recommendation:
    """The recommendation for one scenario.

    Args:
        table: The study.
        scenario: Which of the three.
        thresholds: `[recommend]` of the study file; see `limits_of`.
    """
    limits = limits_of(table, thresholds)
    if not table.points:
        return _nothing(table, scenario, _no_results(table))
    match scenario:
        case "speed":
            return _for_speed(table, limits.speed)
        case "quality":
            bounds = bounds_of(table, limits.quality)
            return _within(table, "quality", bounds, lambda *_: by_mse, "the lowest MSE")
        case "balanced":
            bounds = bounds_of(table, limits.balanced)
            return _within(
                table, "balanced", bounds, give_up, "the best balance of acceptance and error"
            )


def recommend_all(
    table: StudyTable, thresholds: RecommendConfig | None = None
) -> tuple[Recommendation, ...]:
    """The three recommendations, in the order of `SCENARIOS`."""
    return tuple(recommend(table, scenario, thresholds) for scenario in SCENARIOS)


def _for_speed(table: StudyTable, limits: SpeedScenario) -> Recommendation:
    eligible = sorted((p for p in table.points if p.setting.k >= limits.min_k), key=by_acceptance)
    if not eligible:
        largest = max(point.setting.k for point in table.points)
        why = (
            f"No trial has k >= {limits.min_k} (recommend.speed.min_k); the largest tried is "
            f"{largest}, {limits.min_k - largest} short: add a larger k to [search], "
            "or lower min_k."
        )
        return _nothing(table, "speed", why)
    chosen = eligible[0]
    if chosen.result.acceptance_rate == 0:
        why = (
            f"Of {plural(len(eligible), 'trial')} with k >= {limits.min_k} none accepts a "
            "single proposal: speculation only adds work here."
        )
        return _nothing(table, "speed", why, remedies(table, low_acceptance=True))
    per_round = chosen.result.patches_per_round
    first = _first_of(eligible, "the highest acceptance")
    why = f"{first} with k >= {limits.min_k}: {_facts(table, chosen)}"
    if per_round is not None:
        why += f" A round emits {per_round:.2f} patches on average."
    best_of_all = min(table.points, key=by_acceptance)
    change = None
    if best_of_all.result.acceptance_rate > chosen.result.acceptance_rate:
        change = (
            f"With min_k <= {best_of_all.setting.k} it would be {described(best_of_all)}; "
            "but few patches a round leave little to gain."
        )
    else:
        accurate = min(eligible, key=by_mse)
        if accurate.result.mse < chosen.result.mse:
            change = (
                "Error plays no part in this scenario; if it should, the lowest MSE at "
                f"k >= {limits.min_k} is {described(accurate)}."
            )
    return _found(table, "speed", eligible, why, change)


def _within(
    table: StudyTable, scenario: Scenario, bounds: Bounds, preference: Preference, merit: str
) -> Recommendation:
    eligible = _ranked(table.points, bounds, preference)
    if not eligible:
        why = _shortfall(table, bounds)
        short = not any(map(bounds.reaches, table.points))
        return _nothing(table, scenario, why, remedies(table, low_acceptance=short))
    why = f"{_first_of(eligible, merit)} with {bounds}: {_facts(table, eligible[0])}"
    return _found(
        table, scenario, eligible, why, _turning_points(table, bounds, preference, eligible[0])
    )


def _ranked(points: Sequence[Point], bounds: Bounds, preference: Preference) -> list[Point]:
    """The points within the bounds, the best first."""
    eligible = [p for p in points if bounds.hold(p)]
    return sorted(eligible, key=preference(bounds, eligible))


def _turning_points(
    table: StudyTable, bounds: Bounds, preference: Preference, chosen: Point
) -> str:
    """How each threshold must move for another choice, and to what; each is tried as it reads."""
    # Whatever is chosen, the best acceptance and the lowest MSE within bounds are on the front.
    front = [block[0] for block in table.distinct_front]

    def then(moved: Bounds) -> str:
        ranked = _ranked(front, moved, preference)
        return f"would choose {described(ranked[0])}" if ranked else "leaves nothing"

    parts = []
    stays = then(bounds)
    for point in front:
        floor = _floor(point.result.acceptance_rate, 1000)
        if floor >= bounds.min_acceptance:
            continue
        other = then(replace(bounds, min_acceptance=floor))
        if other != stays:
            parts.append(f"lowering min_acceptance to {percent(floor)} {other}")
            break
    floor = -_floor(-chosen.result.acceptance_rate, 1000)
    if floor < 1:
        other = then(replace(bounds, min_acceptance=math.nextafter(floor, math.inf)))
        parts.append(f"raising min_acceptance above {percent(floor)} {other}")
    limit = _floor(chosen.result.mse, 10_000)
    other = then(replace(bounds, max_mse=math.nextafter(limit, -math.inf)))
    parts.append(f"an MSE limit below {limit:.4f} {other}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _floor(value: float, steps: int) -> float:
    """Rounded down to a number that reads the same: what it bounds must hold of `value` too."""
    return math.floor(value * steps + 1e-9) / steps


def _shortfall(table: StudyTable, bounds: Bounds) -> str:
    """Which threshold fails, and by how much."""
    parts = [f"No trial has {bounds}."]
    if table.target_mse is not None and bounds.max_mse < table.target_mse:
        parts.append(
            f"The limit lies below the target's own MSE ({table.target_mse:.4f}), which "
            "speculation can hardly better: raise it."
        )
    reaching = sorted(filter(bounds.reaches, table.points), key=by_mse)
    accurate = sorted(filter(bounds.is_accurate, table.points), key=by_acceptance)
    if reaching:
        best = reaching[0]
        over = best.result.mse - bounds.max_mse
        parts.append(
            f"The lowest MSE with enough acceptance is {described(best)}, which is {over:.4f} "
            f"({100 * over / bounds.max_mse:.1f}%) over the limit."
        )
    if accurate:
        best = accurate[0]
        missing = 100 * (bounds.min_acceptance - best.result.acceptance_rate)
        parts.append(
            f"The highest acceptance within the MSE limit is {described(best)}, which is "
            f"{missing:.1f} percentage points short."
        )
    if not reaching and not accurate:
        highest, lowest = min(table.points, key=by_acceptance), min(table.points, key=by_mse)
        short = 100 * (bounds.min_acceptance - highest.result.acceptance_rate)
        parts.append(
            f"Both fail: the highest acceptance ({described(highest)}) is {short:.1f} percentage "
            f"points short, the lowest MSE ({described(lowest)}) is "
            f"{lowest.result.mse - bounds.max_mse:.4f} over."
        )
    return " ".join(parts)


def _first_of(eligible: Sequence[Point], merit: str) -> str:
    number = eligible[0].number
    if len(eligible) == 1:
        return f"Trial {number} is the only one"
    return f"Trial {number} has {merit} of the {len(eligible)} trials"


def _facts(table: StudyTable, point: Point) -> str:
    text = f"{point.setting}, {outcome(point)}"
    if table.target_mse is not None:
        against = relative(point.result.mse, table.target_mse)
        text += f", {against} the target alone ({table.target_mse:.4f})"
    return f"{text}."


def _close(ordered: Sequence[Point]) -> str | None:
    """The trials that equal the first, the runner-up, and whether noise separates it."""
    chosen = ordered[0]
    same = sorted(p.number for p in ordered[1:] if outcome_of(p) == outcome_of(chosen))
    other = next((p for p in ordered[1:] if outcome_of(p) != outcome_of(chosen)), None)
    rivals = Noise(ordered).rivals(chosen)
    parts = []
    if same:
        verb = "gives" if len(same) == 1 else "give"
        parts.append(
            f"{'Trial' if len(same) == 1 else 'Trials'} {numbers(same)} {verb} exactly the same "
            "numbers; of these this is the one with the lowest bias, then sigma, then k."
        )
    if other is not None:
        parts.append(f"Next is {described(other)}.")
        if other in rivals:
            parts.append("Within the noise of measuring it could be as good in both objectives.")
    own = _rounds(chosen)
    faster = max(rivals, key=_rounds, default=chosen)
    if own > 0 and _rounds(faster) > 1.1 * own:
        parts.append(
            f"As good within that noise, and with more patches per round "
            f"({_rounds(faster):.2f} instead of {own:.2f}), is {described(faster)}."
        )
    return " ".join(parts) or None


def _rounds(point: Point) -> float:
    """Patches per round, 0 where they are not known."""
    return point.result.patches_per_round or 0.0


def _found(
    table: StudyTable, scenario: Scenario, ordered: Sequence[Point], why: str, change: str | None
) -> Recommendation:
    chosen = ordered[0]
    target = table.target_mse
    return Recommendation(
        scenario=scenario,
        point=chosen,
        mse_ratio=None if target is None else chosen.result.mse / target,
        why=why,
        close=_close(ordered),
        would_change=change,
        cautions=cautions(table, chosen),
        advice=(),
    )


def _nothing(
    table: StudyTable, scenario: Scenario, why: str, advice: tuple[str, ...] = ()
) -> Recommendation:
    return Recommendation(
        scenario=scenario,
        point=None,
        mse_ratio=None,
        why=why,
        close=None,
        would_change=None,
        cautions=cautions(table, None),
        advice=advice,
    )


def _no_results(table: StudyTable) -> str:
    failed = [row for row in table.trials if row.state == "fail"]
    if not failed:
        return "The study has no completed trial yet: `spec-opt run` makes them."
    last = next((row.error for row in reversed(failed) if row.error), None)
    return (
        f"The study has no completed trial: {plural(len(failed), 'trial')} failed"
        f"{f', the last with: {last}' if last else ''}."
    )
