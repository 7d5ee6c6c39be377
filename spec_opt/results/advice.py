"""What a study's own numbers warn of, and what to try when nothing is good enough.

The guide's troubleshooting list, but each line only where the numbers bear it out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import draft_alone, percent, plural, relative

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
