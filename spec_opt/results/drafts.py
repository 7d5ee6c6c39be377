"""The drafts of a study that searches variants: the front of each, and what moves it.

Variants are compared with the study file as written at the same settings, where windows and random
numbers are the same too: only the draft (or the rule) differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.measure.uncertainty import ACCEPTANCE, MSE, Quantity, difference
from spec_opt.results.document import Block, Table, Text
from spec_opt.results.figure_style import COOL_TO_WARM, DASHES, empty
from spec_opt.results.pareto import pareto_mask
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse
from spec_opt.results.wording import percent, plural, precise
from spec_opt.study.hypervolume import gains, hypervolume

LEAST_ACCEPTANCE = 0.01
LEAST_MSE_SHARE = 0.01
"""Of the target's MSE. Smaller differences do not matter, however certain they are."""
WHAT_MATTERS = (
    "a difference matters if its 95 % interval leaves 0 out and it is at least "
    f"{100 * LEAST_ACCEPTANCE:g} percentage point of acceptance or {100 * LEAST_MSE_SHARE:g} % of "
    "the target's MSE"
)
MOST_DRAFTS = 12
"""Drawn and listed; the ones with the largest hypervolume."""
COLUMNS = (
    "draft", "settings", "alone, MSE", "highest acceptance", "lowest MSE", "hypervolume",
    "acceptance, same settings", "MSE, same settings",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """How a quantity differs from the study file as written, at the same settings."""

    mean: float
    mattering: int
    """Settings at which the difference matters, as in `WHAT_MATTERS`."""
    settings: int


@dataclass(frozen=True)
class DraftResult:
    """The trials of one variant."""

    variant: Variant
    points: tuple[Point, ...]
    hypervolume: float | None
    """Of acceptance and MSE; None where the target's own MSE is not known."""
    acceptance: Change | None
    """None for the variant that others are compared with, and without settings in common."""
    mse: Change | None

    @property
    def name(self) -> str:
        return str(self.variant) or "as the study file has it"

    @property
    def matters(self) -> bool:
        """Whether it makes a difference that matters at some setting."""
        return any(
            change is not None and change.mattering for change in (self.acceptance, self.mse)
        )


def drafts_of(table: StudyTable) -> tuple[DraftResult, ...]:
    """One a variant with completed trials, the study file as written first; empty for only one."""
    groups: dict[Variant, list[Point]] = {}
    for point in table.points:
        groups.setdefault(point.variant, []).append(point)
    if len(groups) < 2:
        return ()
    first = AS_WRITTEN if AS_WRITTEN in groups else next(iter(groups))
    least_mse = LEAST_MSE_SHARE * (table.target_mse or 0.0)

    def change(quantity: Quantity, variant: Variant, least: float) -> Change | None:
        pair = groups[variant], groups[first]
        return None if variant == first else _change(quantity, *pair, least)

    found = [
        DraftResult(
            variant=variant,
            points=tuple(points),
            hypervolume=_hypervolume(table, points),
            acceptance=change(ACCEPTANCE, variant, LEAST_ACCEPTANCE),
            mse=change(MSE, variant, least_mse),
        )
        for variant, points in groups.items()
    ]
    found.sort(key=lambda r: (r.variant != first, -(r.hypervolume or 0.0)))
    return tuple(found)


def _hypervolume(table: StudyTable, points: Sequence[Point]) -> float | None:
    if table.target_mse is None:
        return None
    values = [(p.result.acceptance_rate, p.result.mse) for p in points]
    return hypervolume(gains(values, table.target_mse))


def _change(
    quantity: Quantity, points: Sequence[Point], others: Sequence[Point], least: float
) -> Change | None:
    of_setting = {point.setting: point for point in others}
    found = []
    for point in points:
        other = of_setting.get(point.setting)
        if other is not None and point.result.blocks and other.result.blocks:
            found.append(difference(quantity, point.result.blocks, other.result.blocks))
    known = [interval for interval in found if interval is not None]
    if not known:
        return None
    mattering = sum(abs(i.estimate) > i.half_width and abs(i.estimate) >= least for i in known)
    return Change(math.fsum(i.estimate for i in known) / len(known), mattering, len(known))


def what_moves_the_front(drafts: Sequence[DraftResult]) -> str:
    """Which variant moves the front most, in a sentence; empty where nothing is compared."""
    if not drafts or drafts[0].hypervolume is None:
        return ""
    first, *others = drafts
    own = first.hypervolume or 0.0
    mattering = [draft for draft in others if draft.matters]
    if not mattering:
        return (
            f"None of {plural(len(others), 'other draft')} makes a difference that matters, at "
            f"any setting ({WHAT_MATTERS})."
        )
    most = max(mattering, key=lambda draft: abs((draft.hypervolume or 0.0) - own))
    volume = most.hypervolume or 0.0
    direction = "outwards" if volume > own else "inwards"
    text = (
        f"The front moves most with {most.name}, {direction}: hypervolume {volume:.4f} instead of "
        f"{own:.4f}."
        if f"{volume:.4f}" != f"{own:.4f}"
        else f"No draft moves the front; {most.name} comes closest."
    )
    if most.acceptance is not None and most.mse is not None:
        text += (
            f" At the same settings its acceptance differs by {100 * most.acceptance.mean:+.1f} "
            f"percentage points on average and its MSE by {most.mse.mean:+.4f}; that matters at "
            f"{most.acceptance.mattering} and {most.mse.mattering} of "
            f"{plural(most.mse.settings, 'setting')}."
        )
    still = [draft.name for draft in others if not draft.matters]
    return f"{text} No difference that matters: {', '.join(still)}." if still else text


def draft_blocks(table: StudyTable) -> list[Block]:
    """The sentence and a row a draft; nothing for a study with one."""
    drafts = drafts_of(table)
    if not drafts:
        return []
    note = (
        "Same settings: the mean difference from the first row, and at how many settings it "
        f"matters; {WHAT_MATTERS}. The hypervolume is of each draft's own front."
    )
    rows = [_row(draft) for draft in drafts[:MOST_DRAFTS]]
    return [Text(what_moves_the_front(drafts)), Text(note, "note"), Table(COLUMNS, rows)]


def _row(draft: DraftResult) -> tuple[str, ...]:
    best, lowest = min(draft.points, key=by_acceptance), min(draft.points, key=by_mse)
    return (
        draft.name,
        str(len(draft.points)),
        precise(draft.points[0].result.draft_mse, 4),
        percent(best.result.acceptance_rate),
        precise(lowest.result.mse, 4),
        precise(draft.hypervolume, 4),
        _shown(draft.acceptance, 100.0, "+.1f"),
        _shown(draft.mse, 1.0, "+.4f"),
    )


def _shown(change: Change | None, factor: float, style: str) -> str:
    if change is None:
        return "–"
    return f"{factor * change.mean:{style}}, matters at {change.mattering} of {change.settings}"


def fronts_by_draft(table: StudyTable) -> go.Figure | None:
    """The fronts of all drafts over each other; None for a study with one draft."""
    drafts = drafts_of(table)
    if not drafts:
        return None
    figure = empty(560)
    for index, draft in enumerate(drafts[:MOST_DRAFTS]):
        points = _front(draft.points)
        turn = index // len(COOL_TO_WARM)
        figure.add_scatter(
            x=[100 * point.result.acceptance_rate for point in points],
            y=[point.result.mse for point in points],
            name=draft.name,
            mode="lines+markers",
            line={
                "color": COOL_TO_WARM[index % len(COOL_TO_WARM)],
                "dash": DASHES[(index + turn) % len(DASHES)],
                "width": 4 if index == 0 else 2,
            },
            hovertext=[
                f"<b>{point.label}</b><br>trial {point.number}<br>acceptance "
                f"{percent(point.result.acceptance_rate)}<br>MSE {point.result.mse:.4f}"
                for point in points
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="acceptance rate (%)")
    figure.update_yaxes(title_text="MSE (standardised units)")
    return figure.update_layout(
        title_text="The fronts of the drafts",
        meta="One line a draft: its settings that none of its own beats in both objectives.",
        margin={"l": 64, "r": 24, "t": 76, "b": 64},
    )


def _front(points: Sequence[Point]) -> list[Point]:
    values = np.array([(-p.result.acceptance_rate, p.result.mse) for p in points])
    chosen = [p for p, is_on in zip(points, pareto_mask(values), strict=True) if is_on]
    return sorted(chosen, key=by_acceptance)
