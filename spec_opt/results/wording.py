"""How numbers, settings and trials are written: the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spec_opt.config.study_file import Setting
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


def draft_alone(baseline: Baseline | None, where: str, margin: float) -> str | None:
    """How the draft's own MSE compares with the target's; None if it is worse, or not known."""
    if baseline is None or baseline.draft_minus_target_mse_ci95 is None:
        return None
    comparison = draft_against_target(baseline, margin)
    if comparison == "worse":
        return None
    against = _against(baseline, baseline.draft_mse, baseline.draft_minus_target_mse_ci95)
    text = f"The draft alone is {_COMPARED[comparison]} {where} ({against})"
    if comparison == "not distinguishable":
        return f"{text}: more windows would settle it."
    return f"{text}: speculation gains no accuracy over it."


_COMPARED: Mapping[Comparison, str] = {
    "better": "more accurate than the target",
    "equivalent": "as accurate as the target",
    "not distinguishable": "not distinguishable from the target in accuracy",
}


def linear_alone(baseline: Baseline | None, margin: float, reference: str) -> str | None:
    """That a linear model forecasts as well as the target; None if it does not, or is not known.

    One with a higher MSE counts only if that is surely within the margin.
    """
    if baseline is None or (mse := baseline.another_linear_mse) is None:
        return None
    half_width = baseline.linear_minus_target_mse_ci95
    comparison = against_target(baseline, mse, half_width, margin)
    is_open = comparison == "not distinguishable"
    if comparison == "worse" or (is_open and mse > baseline.target_mse):
        return None
    against = _against(baseline, mse, half_width)
    end = (
        "more windows would settle it"
        if is_open
        else f"it needs neither target nor draft (`spec-opt forecast {reference} --with linear`)"
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
