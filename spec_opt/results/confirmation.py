"""The front's settings, measured again on a split that they were not tuned on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spec_opt.config import Setting, Split
from spec_opt.measurement import Baseline, Measurement
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import exact, percent, relative

_HEADINGS = (
    "trial", "sigma", "bias", "k", "acceptance", "", "MSE", "", "of target's", "",
)  # fmt: skip


@dataclass(frozen=True)
class Confirmed:
    """One setting on both splits."""

    point: Point
    """As tuned."""
    measurement: Measurement
    """On the other split."""


@dataclass(frozen=True)
class Confirmation:
    """The front on both splits; `tuned` and `confirmed` name them."""

    study: str
    tuned: Split
    confirmed: Split
    settings: tuple[Confirmed, ...]
    """One for each distinct result on the front, highest acceptance first."""
    tuned_baseline: Baseline | None
    baseline: Baseline
    """On the split that confirms."""


def confirm_front(
    table: StudyTable,
    tuned: Split,
    confirmed: Split,
    measure: Callable[[Setting], Measurement],
    baseline: Baseline,
) -> Confirmation:
    """Measure the mildest setting of each distinct result on the front."""
    return Confirmation(
        study=table.name,
        tuned=tuned,
        confirmed=confirmed,
        settings=tuple(Confirmed(p, measure(p.setting)) for p, *_ in table.distinct_front),
        tuned_baseline=table.baseline,
        baseline=baseline,
    )


def confirmation_text(confirmation: Confirmation) -> str:
    """A table for a terminal: each number as tuned, then as confirmed."""
    if not confirmation.settings:
        return f"{confirmation.study}: no trial has completed yet, so there is nothing to confirm."
    rows = [_HEADINGS, *(_row(confirmation, one) for one in confirmation.settings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        f"{confirmation.study}: the Pareto front, {confirmation.tuned} (tuned on) -> "
        f"{confirmation.confirmed}",
        "",
    ]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells))
    baseline = confirmation.baseline
    lines += [
        "",
        f"On {confirmation.confirmed}: target alone MSE {baseline.target_mse:.4f}, draft alone "
        f"{baseline.draft_mse:.4f}.",
        _verdict(confirmation),
    ]
    if baseline.draft_is_as_good:
        lines.append(
            "The draft alone is as accurate as the target there, within two standard errors."
        )
    return "\n".join(lines)


def _row(confirmation: Confirmation, one: Confirmed) -> tuple[str, ...]:
    setting, result, again = one.point.setting, one.point.result, one.measurement
    tuned = confirmation.tuned_baseline
    return (
        str(one.point.number),
        exact(setting.sigma),
        exact(setting.bias),
        str(setting.k),
        percent(result.acceptance_rate),
        f"-> {percent(again.acceptance_rate)}",
        f"{result.mse:.4f}",
        f"-> {again.mse:.4f}",
        "" if tuned is None else relative(result.mse, tuned.target_mse),
        f"-> {relative(again.mse, confirmation.baseline.target_mse)}",
    )


def _verdict(confirmation: Confirmation) -> str:
    """How far the acceptance fell, in words: splits differ in difficulty, so ratios tell more."""
    drops = [
        (one.point.result.acceptance_rate - one.measurement.acceptance_rate, one)
        for one in confirmation.settings
    ]
    drop, worst = max(drops, key=lambda pair: pair[0])
    if drop <= 0:
        return "Acceptance falls nowhere."
    noise = 2 * (worst.measurement.acceptance_se or 0.0)
    clear = "more" if drop > noise else "no more"
    return (
        f"Acceptance falls most for {worst.point.setting}: by {100 * drop:.1f} percentage points, "
        f"{clear} than two standard errors."
    )


def confirmation_document(confirmation: Confirmation) -> dict[str, Any]:
    """For `confirm --json`."""
    return {
        "study": confirmation.study,
        "tuned_on": confirmation.tuned,
        "confirmed_on": confirmation.confirmed,
        "baseline": {
            "target_mse": confirmation.baseline.target_mse,
            "draft_mse": confirmation.baseline.draft_mse,
        },
        "settings": [
            {
                "trial": one.point.number,
                "setting": one.point.setting.model_dump(),
                "tuned": {
                    "acceptance_rate": one.point.result.acceptance_rate,
                    "mse": one.point.result.mse,
                },
                "confirmed": {
                    "acceptance_rate": one.measurement.acceptance_rate,
                    "acceptance_se": one.measurement.acceptance_se,
                    "mse": one.measurement.mse,
                    "mse_se": one.measurement.mse_se,
                },
            }
            for one in confirmation.settings
        ],
    }
