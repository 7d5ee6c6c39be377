"""How numbers, settings and trials are written: the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from spec_opt.config.study_file import Setting
from spec_opt.config.values import Split
from spec_opt.measure.measurement import Baseline
from spec_opt.measure.uncertainty import (
    Comparison,
    against_target,
    draft_against_target,
)
from spec_opt.results.table import Point, Result, StudyTable
from spec_opt.study.constraints import violations


def percent(share: float) -> str:
    """A share as percent with one decimal, never rounded up to 100 or down to 0."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}%"
    if share > 0.9995:
        return ">99.9%"
    if share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.1f}%"


def relative(mse: float, reference: float) -> str:
    """`mse` against a reference, as `8.0% above` or `1.2% below`."""
    change = 100 * (mse / reference - 1)
    if abs(change) < 0.05:
        return "equal to"
    return f"{abs(change):.1f}% {'above' if change > 0 else 'below'}"


def allowed(limit: float) -> str:
    """The highest MSE over the target's, to follow a text such as `8.0% above the target's`."""
    excess = 100 * limit - 100
    return (
        f"at most {excess:.3g}% allowed" if excess >= 0 else f"at least {-excess:.3g}% below asked"
    )


def described(point: Point) -> str:
    """A trial with its setting and both objectives."""
    return f"trial {point.number} ({point.label}): {outcome(point)}"


def outcome(point: Point) -> str:
    """Both objectives of a trial."""
    return f"{percent(point.result.acceptance_rate)} accepted, MSE {point.result.mse:.4f}"


def exact(value: float) -> str:
    """The shortest text that reads back as the same number: 2 for 2.0, 0.25 for 0.25."""
    return repr(float(value)).removesuffix(".0")


def precise(value: float | None, digits: int = 6) -> str:
    """Significant digits enough for tables that are copied."""
    return "–" if value is None else f"{value:.{digits}g}"


def numbers(values: Sequence[int], at_most: int = 6) -> str:
    """Trial numbers as `3, 5 and 8`, or `3, 5, … (12 in all)`."""
    if len(values) > at_most:
        return f"{', '.join(map(str, values[:at_most]))}, … ({len(values)} in all)"
    if len(values) == 1:
        return str(values[0])
    return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"


def left_out(table: StudyTable) -> str:
    """Which completed trials a study's results leave out, in a sentence; empty if none."""
    reasons = (
        (len(table.not_asked), "with settings that the study file does not ask for"),
        (table.of_others, "of another program, with other parameters"),
    )
    parts = [f"{plural(count, 'completed trial')} {why}" for count, why in reasons if count]
    return f"Left out: {', '.join(parts)}." if parts else ""


def none_feasible(table: StudyTable) -> str:
    """That no trial keeps the constraints of the search, in a sentence; empty if one does."""
    if not table.points or any(p.result.feasible for p in table.points):
        return ""
    if table.config is None or table.target_mse is None:
        return "No trial keeps the constraints of the search."
    limits, reference = table.config.search.constraints, table.target_mse

    def missed(point: Point) -> float:
        values = point.result.acceptance_rate, point.result.mse
        return sum(max(0.0, v) for v in violations(limits, values, reference))

    closest = described(min(table.points, key=missed))
    return f"No trial keeps the constraints of the search ({limits}); the closest is {closest}."


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def with_error(value: str, error: float | None, digits: int) -> str:
    """A number, and half of its 95 % interval unless that is not known or 0."""
    return f"{value} ±{error:.{digits}f}" if error else value


def acceptance_text(result: Result) -> str:
    half_width = result.acceptance_ci95
    return with_error(percent(result.acceptance_rate), half_width and 100 * half_width, 1)


def mse_text(result: Result) -> str:
    return with_error(f"{result.mse:.4f}", result.mse_ci95, 4)


def setting_cells(setting: Setting) -> tuple[str, str, str]:
    """sigma, bias and k as cells of a table."""
    return f"{setting.sigma:.4g}", f"{setting.bias:.4g}", str(setting.k)


LONGER_SPLITS: Final[Mapping[Split, tuple[float, float, float]]] = {
    "train": (0.8, 0.1, 0.1),
    "validation": (0.5, 0.3, 0.2),
    "test": (0.5, 0.2, 0.3),
}
"""An example of `data.splits` in which a split is longer than by default."""


def uses_all_windows(table: StudyTable) -> bool:
    """Whether the study is known to use every window of its split."""
    every = table.series.get("all_windows")
    return every is not None and table.series.get("windows") == every


def narrower(table: StudyTable) -> str:
    """What may narrow the intervals of errors, so that they settle what they leave open."""
    series = table.series
    if not uses_all_windows(table):
        config = table.config
        by_stride = config and config.data.max_windows is None and config.data.window_stride > 1
        key = "window_stride" if by_stride else "max_windows"
        return f"more windows may settle it (data.{key}, new `name`)"
    split: Split = series["split"]
    shares = LONGER_SPLITS[split]
    share = shares[get_args(Split).index(split)]
    is_longer = share * series["rows"] > series[split]
    remedy = f"split may (data.splits = {list(shares)}, for example, and a new `name`"
    given = table.config is not None and not table.config.target.is_made
    remedy += ", without rows that the models were trained on)" if given else ")"
    return (
        f"all {series['windows']:,} windows of the {split} split are used and do not settle it; "
        f"a longer {remedy if is_longer else 'series may'}"
    )


def _open_end(table: StudyTable) -> str:
    return (
        "all windows of this split are used and do not settle it"
        if uses_all_windows(table)
        else "more windows may settle it"
    )


def draft_alone(table: StudyTable) -> str | None:
    """How the draft's own MSE compares with the target's; None if it is worse, or not known."""
    baseline, margin = table.baseline, table.limits.equivalence_margin
    if baseline is None or baseline.draft_minus_target_mse_ci95 is None:
        return None
    comparison = draft_against_target(baseline, margin)
    if comparison == "worse":
        return None
    against = _against(baseline, baseline.draft_mse, baseline.draft_minus_target_mse_ci95)
    text = f"The draft alone is {_COMPARED[comparison]} on these windows ({against})"
    if comparison == "not distinguishable":
        return f"{text}: {_open_end(table)}."
    return f"{text}: speculation gains no accuracy over it."


_COMPARED: Mapping[Comparison, str] = {
    "better": "more accurate than the target",
    "equivalent": "as accurate as the target",
    "not distinguishable": "not distinguishable from the target in accuracy",
}


def linear_alone(table: StudyTable, reference: str, rival: float | None) -> str | None:
    """That a linear model forecasts as well as the target; None if it does not, or is not known.

    One with a higher MSE counts only if that is surely within the margin.

    Args:
        rival: the MSE of the draft, where that is to be used alone; a linear model with a higher
            one is not advised.
    """
    baseline, margin = table.baseline, table.limits.equivalence_margin
    if baseline is None or (mse := baseline.another_linear_mse) is None:
        return None
    half_width = baseline.linear_minus_target_mse_ci95
    comparison = against_target(baseline, mse, half_width, margin)
    is_open = comparison == "not distinguishable"
    if comparison == "worse" or (is_open and mse > baseline.target_mse):
        return None
    against = _against(baseline, mse, half_width)
    if is_open:
        end = _open_end(table)
    elif rival is not None and rival < mse:
        end = f"the MSE of the draft alone is lower, {rival:.4f}"
    else:
        end = (
            f"`spec-opt forecast {reference} --with linear` forecasts with neither target nor draft"
        )
    return f"A linear model alone is {_COMPARED[comparison]} ({against}): {end}."


def _against(baseline: Baseline, mse: float, half_width: float | None) -> str:
    """Two MSEs and their difference."""
    target = baseline.target_mse
    noise = "of unknown noise" if half_width is None else f"±{half_width:.4f}"
    return f"MSE {mse:.4f} against {target:.4f}, difference {mse - target:+.4f} {noise}"


def levels_text(table: StudyTable) -> str:
    """The MSE of each model alone, in a line; empty if none is known."""
    return " ".join(f"{name.capitalize()}: MSE {mse:.4f}." for name, mse in table.levels.items())
