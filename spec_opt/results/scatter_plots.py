"""Figures with a mark for each trial: both objectives, the front, predicted speedup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import plotly.graph_objects as go

from spec_opt.results.figure_style import (
    ACCENT,
    MOST_WITH_BARS,
    MUTED,
    SHAPES,
    WARM,
    blank,
    common_error,
    draw_baselines,
    error_bars,
    hover,
    marker,
    setting_label,
    thinned,
    with_baselines,
    without_data,
)
from spec_opt.results.recommend import Recommendation
from spec_opt.results.statistics import noise_aware_front
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import plural

NOTHING_YET = "No completed trial yet"


def acceptance_vs_mse(table: StudyTable) -> go.Figure:
    """Every trial: acceptance rate across, MSE up, k by colour and shape."""
    title = "Acceptance against MSE"
    if not table.points:
        return without_data(title, NOTHING_YET)
    points, remark = thinned(table.points)
    common = common_error(points)
    if common is not None:
        remark += f"; MSE ± {common:.2g} over windows, which all trials share"
    figure = blank(title, f"{_count(table)}; better is down and right{remark}")
    for name, group, look in _by_k(points):
        bars = len(points) <= MOST_WITH_BARS
        figure.add_scatter(
            x=[100 * p.result.acceptance_rate for p in group],
            y=[p.result.mse for p in group],
            error_x=error_bars(group, "acceptance_se", 100) if bars else None,
            error_y=error_bars(group, "mse_se") if bars and common is None else None,
            mode="markers",
            name=name,
            marker=look,
            text=hover(group),
            hoverinfo="text",
        )
    _objectives(figure, table, points)
    return figure


def pareto_frontier(table: StudyTable, recommendations: Sequence[Recommendation] = ()) -> go.Figure:
    """The front as a stepped line, the other trials behind it, the recommendations ringed."""
    title = "Pareto front"
    if not table.points:
        return without_data(title, NOTHING_YET)
    limit = _limit(table)
    others, remark = thinned([p for p in table.points if not p.result.pareto])
    above = sum(p.result.mse > limit for p in table.points)
    if above:
        remark += f"; {plural(above, 'worse trial')} above the frame"
    # Of a third objective's front some members are no step of this line: a lower MSE is to be had.
    lowest = accumulate((p.result.mse for p in table.front), min)
    envelope = [p for p, mse in zip(table.front, lowest, strict=True) if p.result.mse == mse]
    share = f"{len(table.front)} of {plural(len(table.points), 'trial')}"
    figure = blank(title, f"{share}; better is down and right{remark}")
    _add_points(figure, "other trials", others, color="rgba(128,128,128,0.35)", size=7)
    figure.add_scatter(
        x=[100 * p.result.acceptance_rate for p in envelope],
        y=[p.result.mse for p in envelope],
        mode="lines",
        line={"color": ACCENT, "width": 2, "shape": "hv"},
        hoverinfo="skip",
        showlegend=False,
    )
    members = noise_aware_front(table)
    looks = {"clear": ACCENT, "tie": "white", "unknown": ACCENT}
    names = {"clear": "clearly on the front", "tie": "on the front within noise"}
    for standing, colour in looks.items():
        _add_points(
            figure,
            names.get(standing, "on the front"),
            [p for m in members if m.standing == standing for p in m.points],
            color=colour,
            symbol="diamond",
            size=11,
            line={"color": ACCENT, "width": 2},
        )
    _objectives(figure, table, [p for p in table.points if p.result.mse <= limit])
    _ring_recommended(figure, recommendations)
    return figure


def _add_points(figure: go.Figure, name: str, points: Sequence[Point], **look: object) -> None:
    """A trace of points in the plane of the objectives; none for no points."""
    if points:
        figure.add_scatter(
            x=[100 * p.result.acceptance_rate for p in points],
            y=[p.result.mse for p in points],
            mode="markers",
            name=name,
            marker=look,
            text=hover(points),
            hoverinfo="text",
        )


def speedup_vs_mse(table: StudyTable) -> go.Figure:
    """Predicted (and, where `bench` has run, measured) speedup across, MSE up."""
    title = "Speedup against MSE"
    if not table.points:
        return without_data(title, NOTHING_YET)
    predicted = [p for p in table.points if p.result.predicted_speedup is not None]
    measured = [
        (p, found.speedup)
        for p in table.points
        if (found := table.measured_speedup(p.number)) is not None and found.speedup is not None
    ]
    if not predicted and not measured:
        return without_data(title, "No speedup predicted or measured yet: run spec-opt bench")
    points, remark = thinned(predicted)
    figure = blank(title, f"predicted, over the target alone; better is down and right{remark}")
    for name, group, look in _by_k(points):
        figure.add_scatter(
            x=[p.result.predicted_speedup for p in group],
            y=[p.result.mse for p in group],
            mode="markers",
            name=name,
            marker=look,
            text=hover(group),
            hoverinfo="text",
        )
    if measured:
        figure.add_scatter(
            x=[speedup for _, speedup in measured],
            y=[p.result.mse for p, _ in measured],
            mode="markers",
            name="measured",
            marker={
                "symbol": "star",
                "size": 15,
                "color": "white",
                "line": {"color": ACCENT, "width": 2},
            },
            text=[f"{hover([p])[0]}<br><b>measured {s:.2f}x</b>" for p, s in measured],
            hoverinfo="text",
        )
    drawn = [*points, *(p for p, _ in measured)]
    figure.add_vline(
        x=1.0,
        line={"color": MUTED, "width": 1.5},
        annotation={"text": "no gain", "font": {"size": 12}, "xanchor": "left", "yanchor": "top"},
    )
    draw_baselines(figure, table)
    figure.update_xaxes(title_text="speedup (times the target alone)")
    figure.update_yaxes(
        title_text="MSE (standardised units)",
        range=with_baselines(table, [p.result.mse for p in drawn]),
    )
    return figure


def _limit(table: StudyTable) -> float:
    """The highest MSE that the figure of the front shows: what lies far above would flatten it."""
    levels = [*(p.result.mse for p in table.front), *table.levels.values()]
    span = max(levels) - min(levels) or 0.1 * max(levels)
    return max(levels) + 0.75 * span


def _by_k(points: Sequence[Point]) -> list[tuple[str, list[Point], dict[str, object]]]:
    """Points by k, or by ranges of k where there are more values than shapes."""
    groups = defaultdict(list)
    width = -(-len({p.setting.k for p in points}) // len(SHAPES))
    for point in points:
        groups[(point.setting.k - 1) // width].append(point)
    found = []
    for index, place in enumerate(sorted(groups)):
        ks = [p.setting.k for p in groups[place]]
        name = f"k = {min(ks)}" if min(ks) == max(ks) else f"k = {min(ks)} to {max(ks)}"
        found.append((name, groups[place], marker(index, len(groups))))
    return found


def _objectives(figure: go.Figure, table: StudyTable, points: Sequence[Point]) -> None:
    """Axes of the two objectives, wide enough for the baselines."""
    draw_baselines(figure, table)
    rates = [100 * p.result.acceptance_rate for p in points]
    middle, half = (max(rates) + min(rates)) / 2, max((max(rates) - min(rates)) * 0.54, 6.0)
    figure.update_xaxes(
        title_text="acceptance rate (%)",
        range=(max(middle - half, -3.0), min(middle + half, 103.0)),
    )
    figure.update_yaxes(
        title_text="MSE (standardised units)",
        range=with_baselines(table, [p.result.mse for p in points]),
    )


def _ring_recommended(figure: go.Figure, recommendations: Sequence[Recommendation]) -> None:
    """A ring around each recommended trial, named in the legend; shared trials share a ring."""
    scenarios: dict[int, list[str]] = defaultdict(list)
    points = {}
    for recommendation in recommendations:
        if recommendation.point is not None:
            scenarios[recommendation.point.number].append(recommendation.scenario)
            points[recommendation.point.number] = recommendation.point
    shapes = ("circle-open", "square-open", "hexagon-open")
    for shape, (number, names) in zip(shapes, scenarios.items(), strict=False):
        _add_points(
            figure,
            f"<b>{', '.join(names)}</b>: {setting_label(points[number])}",
            [points[number]],
            color=WARM,
            symbol=shape,
            size=21,
            line={"width": 3},
        )


def _count(table: StudyTable) -> str:
    imported = f", {table.imported} of them imported" if table.imported else ""
    return f"{plural(len(table.points), 'trial')}{imported}"
