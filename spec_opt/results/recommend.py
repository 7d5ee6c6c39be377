"""Which setting to use: the three scenarios, each with its reasons in plain words.

- speed: the highest acceptance rate among trials with k >= min_k;
- quality: the lowest MSE among trials within both bounds (MSE at most, acceptance at least);
- balanced: within its own two bounds, the trial that gives up least: the share of the acceptance
  margin that it uses (best .. floor) plus the share of the error margin (best .. limit).

Equal results go to the mildest setting (`table.mildness`), so the choice never depends on order.

The thresholds of a scenario in a study's own numbers, and the order within them.

What a study's own numbers warn of, and what to try when nothing is good enough.

The guide's troubleshooting list, but each line only where the numbers bear it out.

Whether one trial could be at least as good as another, within the noise of measuring.

A trial's own standard error of the MSE is mostly the difference between easy and hard windows,
which all trials share. Trials of a study are measured on the same windows with the same random
numbers, so the noise of a difference is that of the differences window by window; each trial keeps
its windows in a few blocks (`measurement.Blocks`) for it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from spec_opt.config.study_file import BoundedScenario, RecommendConfig, Setting, SpeedScenario
from spec_opt.measure.uncertainty import Floats, Overlap, linearised
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse, mildness, outcome_of
from spec_opt.results.wording import (
    described,
    draft_alone,
    numbers,
    outcome,
    percent,
    plural,
    relative,
)

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


WEAK_DRAFT = 1.05
"""A draft whose own MSE is more than this times the target's counts as weak."""

REJECTS, ACCEPTS = 0.05, 0.95
"""Acceptance at most, and at least, this on all of one side: sigma acts as a switch there."""

BETWEEN = 0.3
"""Share of the trials that may lie between the two sides of a switch."""


@dataclass(frozen=True)
class SigmaThreshold:
    """Between two values of sigma, acceptance goes from nearly none to nearly all."""

    rejects_up_to: float
    accepts_from: float
    highest_below: float
    """Highest acceptance up to `rejects_up_to`."""
    lowest_above: float
    """Lowest acceptance from `accepts_from` on."""


def cautions(table: StudyTable, chosen: Point | None) -> tuple[str, ...]:
    """What to know before relying on a choice (None: there is no choice)."""
    if not table.points:
        return ()
    found = [
        draft_alone(table.baseline, "on these windows"),
        _switch(table.points),
        _bias_without_effect(table.points),
        _imported(table),
        None if chosen is None else _speed(table, chosen),
    ]
    return tuple(caution for caution in found if caution)


def remedies(table: StudyTable, *, low_acceptance: bool) -> tuple[str, ...]:
    """What to try where no trial accepts enough; or else, where none that does is accurate enough.

    Never both: what helps the one (a more tolerant sigma, a less certain draft) harms the other.
    """
    found = (
        (
            _exact_is_strict(table),
            _at_the_edge(table, "sigma"),
            _at_the_edge(table, "bias"),
            _weak_draft(table),
        )
        if low_acceptance
        else (_sampling_noise(table), _wide_tolerance(table), _undertrained_draft(table))
    )
    return tuple(remedy for remedy in found if remedy)


def sigma_threshold(points: Sequence[Point]) -> SigmaThreshold | None:
    """Where sigma switches from rejecting to accepting, whatever bias and k.

    None if it does not, or if more than `BETWEEN` of the points lie between: that is a slope.
    """
    by_sigma = defaultdict(list)
    for point in points:
        by_sigma[point.setting.sigma].append(point.result.acceptance_rate)
    rejecting: float | None = None
    for sigma in sorted(by_sigma):
        if max(by_sigma[sigma]) > REJECTS:
            break
        rejecting = sigma
    accepting: float | None = None
    for sigma in sorted(by_sigma, reverse=True):
        if min(by_sigma[sigma]) < ACCEPTS:
            break
        accepting = sigma
    if rejecting is None or accepting is None:
        return None
    between = sum(rejecting < point.setting.sigma < accepting for point in points)
    if between > BETWEEN * len(points):
        return None
    return SigmaThreshold(
        rejects_up_to=rejecting,
        accepts_from=accepting,
        highest_below=max(max(by_sigma[s]) for s in by_sigma if s <= rejecting),
        lowest_above=min(min(by_sigma[s]) for s in by_sigma if s >= accepting),
    )


def largest_bias_effect(points: Sequence[Point]) -> float | None:
    """The most that bias moves acceptance at one sigma and k; None without two biases there."""
    groups = defaultdict(list)
    biases = defaultdict(set)
    for point in points:
        place = (point.setting.sigma, point.setting.k)
        groups[place].append(point.result.acceptance_rate)
        biases[place].add(point.setting.bias)
    spreads = [max(g) - min(g) for place, g in groups.items() if len(biases[place]) > 1]
    return max(spreads, default=None)


def _switch(points: Sequence[Point]) -> str | None:
    threshold = sigma_threshold(points)
    if threshold is None:
        return None
    return (
        f"Sigma acts as a switch: up to {threshold.rejects_up_to:g} no trial accepts more than "
        f"{percent(threshold.highest_below)}, from {threshold.accepts_from:g} on none accepts less "
        f"than {percent(threshold.lowest_above)}; values in between are worth a finer search."
    )


def _bias_without_effect(points: Sequence[Point]) -> str | None:
    effect = largest_bias_effect(points)
    if effect is None or effect >= 0.05:
        return None
    return (
        f"Bias hardly matters: at equal sigma and k it moves acceptance by at most "
        f"{100 * effect:.1f} percentage points."
    )


def _speed(table: StudyTable, chosen: Point) -> str:
    predicted = chosen.result.predicted_speedup
    measured = table.measured_speedup(chosen.number)
    if measured is not None and measured.speedup is not None:
        verdict = ""
        if measured.speedup <= 1.0:
            verdict = ": speculation does not pay here"
        elif measured.at_least <= 1.0:
            verdict = f", but {measured.at_least:.2f}x in the slowest run: no clear gain"
        return (
            f"The measured speedup over the target alone is {measured.speedup:.2f}x at best "
            f"({measured.device}, batch size {measured.batch_size}){verdict}."
        )
    measure = f"`spec-opt bench STUDY --trial {chosen.number}` measures it."
    if predicted is None:
        return f"The speedup is not known yet: {measure}"
    if predicted <= 1.0:
        return (
            f"The predicted speedup is {predicted:.2f}x: speculation is not expected to pay "
            f"here; {measure}"
        )
    return f"The predicted speedup is {predicted:.2f}x, not yet measured: {measure}"


def _imported(table: StudyTable) -> str | None:
    if not table.imported:
        return None
    share = "All" if table.imported == len(table.points) else f"{table.imported}"
    return (
        f"{share} of {plural(len(table.points), 'completed trial')} were imported: their "
        "acceptance rates are as the tool counted them that made the table."
    )


def _exact_is_strict(table: StudyTable) -> str | None:
    if table.config is None or table.config.decoding.rule != "exact":
        return None
    return (
        "Rule 'exact' tests all elements of a patch jointly and accepts only where draft and "
        "target nearly agree; rule 'point' tolerates a gap of about sigma."
    )


def _at_the_edge(table: StudyTable, name: str) -> str | None:
    """Whether acceptance is still rising at the largest value tried."""
    groups = defaultdict(list)
    for point in table.points:
        groups[vars(point.setting)[name]].append(point.result.acceptance_rate)
    values = sorted(groups)
    means = [fmean(groups[value]) for value in values]
    if len(values) == 1:
        return f"Only {name} = {values[0]:g} was tried: add larger values to search.{name}."
    if max(means) == 0 and name == "sigma":
        return (
            f"Nothing is accepted up to sigma = {values[-1]:g}: sigma is too small for the gap "
            "between draft and target; add larger values to search.sigma."
        )
    if means[-1] == max(means) > means[-2]:
        return (
            f"Acceptance still rises at the largest {name} tried ({values[-1]:g}, "
            f"{percent(means[-1])} on average): add larger values to search.{name}."
        )
    return None


def _weak_draft(table: StudyTable) -> str | None:
    baseline = table.baseline
    if baseline is None:
        return (
            "Whether the draft is too weak is not known, as the study holds no baseline; if it "
            "is, distil it with more teacher_noise (0.1) or make it larger (scale 0.5)."
        )
    against = relative(baseline.draft_mse, baseline.target_mse)
    if baseline.draft_mse <= WEAK_DRAFT * baseline.target_mse:
        return (
            f"The draft is not the cause: its own MSE is {against} the target's, so retraining "
            "it is unlikely to help."
        )
    hint = ""
    if table.config is not None and table.config.draft.checkpoint is None:
        draft = table.config.draft
        hint = (
            f" (now teacher_noise {draft.distillation.teacher_noise:g}, "
            f"scale {draft.scale.d_model:g})"
        )
    return (
        f"The draft is weak: its own MSE is {against} the target's. Distil it with more "
        f"teacher_noise (0.1), or make it larger (scale 0.5 instead of 0.25){hint}."
    )


def _sampling_noise(table: StudyTable) -> str | None:
    rule = None if table.config is None else table.config.decoding.rule
    accepted = [p for p in table.points if p.result.acceptance_rate >= 0.5]
    if rule == "point" or table.target_mse is None or not accepted:
        return None
    lowest = min(point.result.mse for point in accepted)
    if lowest <= table.target_mse:
        return None
    return (
        f"Where at least half is accepted, the MSE is never below {lowest:.4f}, "
        f"{relative(lowest, table.target_mse)} the target alone: sampled patches carry noise into "
        "the forecast (the draft's variance with each accepted patch, about sigma squared with "
        "each replaced or bonus one). A lower sigma or a larger k lessens it; rule 'point' adds "
        "none."
    )


def _wide_tolerance(table: StudyTable) -> str | None:
    if table.config is None or table.config.decoding.rule != "point":
        return None
    return (
        "With rule 'point' sigma is the gap between draft and target that is tolerated: add "
        "smaller values to search.sigma."
    )


def _undertrained_draft(table: StudyTable) -> str | None:
    baseline = table.baseline
    if baseline is None or baseline.draft_mse <= WEAK_DRAFT * baseline.target_mse:
        return None
    now = ""
    if table.config is not None and table.config.draft.checkpoint is None:
        draft = table.config.draft
        now = (
            f" (now {draft.training.epochs} epochs, "
            f"teacher_noise {draft.distillation.teacher_noise:g})"
        )
    return (
        f"The draft's own MSE ({baseline.draft_mse:.4f}) is "
        f"{relative(baseline.draft_mse, baseline.target_mse)} the target's: it is undertrained, "
        f"or its teacher_noise too high; give it more epochs or less noise{now}."
    )


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
