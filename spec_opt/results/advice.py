"""What a study's own numbers warn of, and what to try when no trial is good enough.

Each line of the guide's troubleshooting list is given only where the numbers bear it out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from statistics import fmean
from typing import Any

from spec_opt.results.table import Point, StudyTable, by_mse
from spec_opt.results.wording import draft_alone, percent, plural, relative

WEAK_DRAFT = 1.05
"""A draft is weak if its own MSE is more than this times the target's."""

REJECTS, ACCEPTS = 0.05, 0.95
"""Sigma acts as a switch where no trial below accepts more, and none above accepts less."""

BETWEEN = 0.3
"""The share of trials that may lie between the two sides of a switch; more make a slope."""


def cautions(table: StudyTable) -> tuple[str, ...]:
    """What to know before relying on a choice, or on the study if nothing was chosen."""
    if not table.points:
        return ()
    found = (
        draft_alone(table),
        _switch(table.points),
        _bias_without_effect(table.points),
        _imported(table),
    )
    return tuple(caution for caution in found if caution)


def remedies(table: StudyTable, *, low_acceptance: bool) -> tuple[str, ...]:
    """What to try if no trial accepts enough, or else if none of those is accurate enough.

    Never both: a more tolerant sigma or a less certain draft helps the one and harms the other.
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


def _rates(points: Sequence[Point], key: Callable[[Point], Any]) -> Mapping[Any, list[float]]:
    """Acceptance rates of the points, grouped by a key."""
    groups = defaultdict(list)
    for point in points:
        groups[key(point)].append(point.result.acceptance_rate)
    return groups


def _switch(points: Sequence[Point]) -> str | None:
    """Whether acceptance jumps from nearly none to nearly all at some sigma, at any bias and k."""
    rates = _rates(points, lambda p: p.setting.sigma)
    sigmas = sorted(rates)
    rejecting = list(takewhile(lambda s: max(rates[s]) <= REJECTS, sigmas))
    accepting = list(takewhile(lambda s: min(rates[s]) >= ACCEPTS, reversed(sigmas)))
    if not rejecting or not accepting:
        return None
    low, high = rejecting[-1], accepting[-1]
    if sum(low < p.setting.sigma < high for p in points) > BETWEEN * len(points):
        return None
    return (
        f"Sigma acts as a switch: up to {low:g} no trial accepts more than "
        f"{percent(max(max(rates[s]) for s in rejecting))}, from {high:g} on none accepts less "
        f"than {percent(min(min(rates[s]) for s in accepting))}; values in between are worth a "
        "finer search."
    )


def _bias_without_effect(points: Sequence[Point]) -> str | None:
    """Whether bias moves acceptance by less than 5 points at every sigma and k."""
    biases = defaultdict(set)
    for point in points:
        biases[point.setting.sigma, point.setting.k].add(point.setting.bias)
    rates = _rates(points, lambda p: (p.setting.sigma, p.setting.k))
    effects = [max(rates[at]) - min(rates[at]) for at, tried in biases.items() if len(tried) > 1]
    if not effects or max(effects) >= 0.05:
        return None
    return (
        f"Bias hardly matters: at equal sigma and k it moves acceptance by at most "
        f"{100 * max(effects):.1f} percentage points."
    )


def _imported(table: StudyTable) -> str | None:
    if not table.imported:
        return None
    share = "All" if table.imported == len(table.points) else f"{table.imported}"
    return (
        f"{share} of {plural(len(table.points), 'completed trial')} were imported: their "
        "acceptance rates are as counted by the tool that wrote the table."
    )


def _rule(table: StudyTable) -> str | None:
    return None if table.config is None else table.config.decoding.rule


def _exact_is_strict(table: StudyTable) -> str | None:
    if _rule(table) != "exact":
        return None
    return (
        "Rule 'exact' tests all elements of a patch jointly and accepts only where draft and "
        "target nearly agree; rule 'point' tolerates a gap of about sigma."
    )


def _at_the_edge(table: StudyTable, name: str) -> str | None:
    """Whether acceptance still rises at the largest value tried."""
    rates = _rates(table.points, lambda p: vars(p.setting)[name])
    values = sorted(rates)
    means = [fmean(rates[value]) for value in values]
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


_DISTIL = "A distilled network may do better: [draft] kind = 'timer-xl'."


def _weak_draft(table: StudyTable) -> str | None:
    """Whether the draft's own error explains why little is accepted."""
    baseline = table.baseline
    if baseline is None:
        return None
    against = relative(baseline.draft_mse, baseline.target_mse)
    if baseline.draft_mse <= WEAK_DRAFT * baseline.target_mse:
        return (
            f"The draft is not the cause: its own MSE is {against} the target's, so retraining "
            "it is unlikely to help."
        )
    now = _now(table, "teacher_noise", "scale")
    remedy = (
        f"Distil it with more teacher_noise (0.1), or make it larger (scale 0.5 instead of 0.25)"
        f"{now}."
    )
    return (
        f"The draft is weak: its own MSE is {against} the target's. "
        f"{_DISTIL if now is None else remedy}"
    )


def _undertrained_draft(table: StudyTable) -> str | None:
    baseline = table.baseline
    if baseline is None or baseline.draft_mse <= WEAK_DRAFT * baseline.target_mse:
        return None
    now = _now(table, "epochs", "teacher_noise")
    remedy = (
        f": it is undertrained, or its teacher_noise too high; give it more epochs or less noise"
        f"{now}."
    )
    return (
        f"The draft's own MSE ({baseline.draft_mse:.4f}) is "
        f"{relative(baseline.draft_mse, baseline.target_mse)} the target's"
        f"{f'. {_DISTIL}' if now is None else remedy}"
    )


def _now(table: StudyTable, *names: str) -> str | None:
    """Today's values of a draft that the study trains, in brackets; None if it only fits one."""
    if table.config is None or not (draft := table.config.draft).is_made:
        return ""
    if not draft.is_network:
        return None
    values = {
        "teacher_noise": f"teacher_noise {draft.distillation.teacher_noise:g}",
        "scale": f"scale {draft.scale.d_model:g}",
        "epochs": f"{draft.training.epochs} epochs",
    }
    return f" (now {', '.join(values[name] for name in names)})"


def _sampling_noise(table: StudyTable) -> str | None:
    accepted = [p.result.mse for p in table.points if p.result.acceptance_rate >= 0.5]
    if _rule(table) == "point" or table.target_mse is None or not accepted:
        return None
    lowest = min(accepted)
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
    """Whether the error still falls at the smallest sigma tried."""
    best, smallest = min(table.points, key=by_mse), min(p.setting.sigma for p in table.points)
    if _rule(table) != "point" or best.setting.sigma > smallest:
        return None
    return (
        "With rule 'point' sigma is the gap between draft and target that is tolerated: add "
        "smaller values to search.sigma."
    )
