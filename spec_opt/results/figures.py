"""The look that all figures share, and the parts that they are made of.

Colour is never the only sign: k and sigma also have marker shapes, the front has its own shape and
a line. Cividis reads the same with red-green blindness and keeps its order in greyscale; a thin
grey outline keeps its dark end visible on a dark page and its bright end on a white one.

Figures with a mark for each trial: both objectives, the front, predicted speedup.

Figures of groups of trials: heat maps over sigma and bias, the effect of k, positions.

The figures of a study by name: the guide's five, and two more.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median, pstdev

import numpy as np
import plotly.colors
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from spec_opt.errors import WorkError
from spec_opt.results.recommend import Recommendation
from spec_opt.results.statistics import MOST_VALUES, Bin, cut, noise_aware_front
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import acceptance_text, mse_text, plural

INK = "#1f2933"
"""Text on white. The report's page replaces it when it is dark."""
MUTED = "#808080"
"""Lines and outlines that must show on white and on black."""
GRID = "rgba(128,128,128,0.22)"
ACCENT, WARM = "#0072B2", "#D55E00"
"""A blue and a vermilion that every kind of colour vision tells apart."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SHAPES = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "x",
    "star",
    "triangle-down",
    "pentagon",
    "cross",
    "hexagon",
)
BASELINE_DASHES = {"target alone": "dash", "draft alone": "dot"}
DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")

MOST_DRAWN = 2000
"""More points than this in one figure are thinned evenly, and the figure says so."""
MOST_WITH_BARS = 150
"""More points than this are drawn without error bars, which would hide them."""


def blank(title: str, subtitle: str, *, height: int = 500) -> go.Figure:
    """An empty figure with the shared layout."""
    figure = go.Figure()
    figure.update_layout(
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13}},
            "font": {"size": 18},
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 14},
        },
        height=height,
        margin={"l": 64, "r": 24, "t": 76, "b": 64},
        paper_bgcolor="white",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"font": {"family": FONT, "size": 13}, "align": "left"},
        legend={
            "orientation": "h",
            "x": 0.0,
            "y": -0.17,
            "yanchor": "top",
            "itemsizing": "trace",
            "bgcolor": "rgba(0,0,0,0)",
        },
        template="none",
    )
    axis = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": MUTED,
        "title": {"standoff": 10, "font": {"size": 14}},
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def without_data(title: str, message: str) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = blank(title, "", height=220)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=message, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font={"size": 15}
    )
    return figure


def palette(count: int) -> list[str]:
    """`count` colours from cividis, dark to bright, without the ends that a page would swallow."""
    places = [0.5] if count == 1 else np.linspace(0.25, 0.9, count).tolist()
    return list(plotly.colors.sample_colorscale("Cividis", places))


def marker(index: int, count: int) -> dict[str, object]:
    """Colour, shape and outline of the index-th of `count` groups.

    Later groups are smaller and drawn above, so that equal points show as nested shapes.
    """
    return {
        "color": palette(count)[index],
        "symbol": SHAPES[index % len(SHAPES)],
        "size": 14 - 6 * index / max(count - 1, 1),
        "line": {"color": MUTED, "width": 1},
    }


def thinned(points: Sequence[Point]) -> tuple[tuple[Point, ...], str]:
    """Points few enough to draw, the front among them, and a remark if any were left out."""
    if len(points) <= MOST_DRAWN:
        return tuple(points), ""
    step = -(-len(points) // MOST_DRAWN)
    kept = tuple(p for i, p in enumerate(points) if i % step == 0 or p.result.pareto)
    return kept, f"; {len(kept):,} of {len(points):,} drawn, the front in full"


def hover(points: Sequence[Point]) -> list[str]:
    """Hover text of each point: the setting first, then what it gave."""
    return [_hover(point) for point in points]


def _hover(point: Point) -> str:
    result, setting = point.result, point.setting
    lines = [
        f"<b>sigma {setting.sigma:.4g}, bias {setting.bias:.4g}, k {setting.k}</b>",
        f"trial {point.number}{', imported' if result.imported else ''}",
        f"acceptance {acceptance_text(result)}",
        f"MSE {mse_text(result)}",
    ]
    if result.patches_per_round is not None:
        lines.append(f"{result.patches_per_round:.2f} patches per round")
    if result.predicted_speedup is not None:
        lines.append(f"predicted speedup {result.predicted_speedup:.2f}x")
    return "<br>".join(lines)


def error_bars(points: Sequence[Point], field: str, scale: float = 1.0) -> dict[str, object]:
    """One standard error either way, where known."""
    values = [vars(p.result)[field] for p in points]
    return {
        "type": "data",
        "array": [0.0 if v is None else v * scale for v in values],
        "visible": any(values),
        "thickness": 1,
        "width": 0,
        "color": "rgba(128,128,128,0.45)",
    }


def common_error(points: Sequence[Point]) -> float | None:
    """The usual standard error of the MSE, where it is too large to be drawn on each point.

    Most of it is shared by all trials (`noise.py`), so that bars would hide what differs.
    """
    errors = [p.result.mse_se for p in points if p.result.mse_se is not None]
    if not errors:
        return None
    usual, mses = median(errors), [p.result.mse for p in points]
    return usual if usual > 0.1 * (max(mses) - min(mses)) else None


def draw_baselines(figure: go.Figure, table: StudyTable, *, row: int | None = None) -> None:
    """The MSE of the target alone and of the draft alone as lines, named in the legend."""
    place = {} if row is None else {"row": row, "col": 1}
    for name, level in table.levels.items():
        figure.add_hline(
            y=level,
            line={"color": MUTED, "width": 2, "dash": BASELINE_DASHES[name]},
            name=f"{name}: MSE {level:.4f}",
            showlegend=True,
            **place,
        )


def with_baselines(table: StudyTable, values: Sequence[float]) -> tuple[float, float]:
    """A range for an MSE axis that holds the values and the baselines."""
    every = [*values, *table.levels.values()]
    low, high = min(every), max(every)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def setting_label(point: Point) -> str:
    """A setting short enough to stand in a figure."""
    setting = point.setting
    return f"sigma {setting.sigma:.3g}, bias {setting.bias:.3g}, k {setting.k}"


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


MOST_LINES = 6


def acceptance_heatmap(table: StudyTable) -> go.Figure:
    """Mean acceptance rate in percent over sigma and bias."""
    return _heatmap(
        table,
        "Acceptance (%) by sigma and bias",
        lambda p: 100 * p.result.acceptance_rate,
        unit="acceptance (%)",
        digits=1,
        brighter="higher",
        limits=(0.0, 100.0),
    )


def mse_heatmap(table: StudyTable) -> go.Figure:
    """Mean MSE over sigma and bias."""
    return _heatmap(
        table,
        "MSE by sigma and bias",
        lambda p: p.result.mse,
        unit="MSE",
        digits=4,
        brighter="lower",
        limits=None,
    )


def k_effect(table: StudyTable) -> go.Figure:
    """Acceptance and MSE against k, a line for each sigma: mean and deviation over bias."""
    title = "Effect of k"
    if not table.points:
        return without_data(title, NOTHING_YET)
    sigmas = cut(table.points, "sigma", MOST_LINES)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    look = blank(title, "mean over bias, bars: standard deviation", height=640)
    figure.update_layout(look.layout.to_plotly_json(), overwrite=False)
    axes = (
        (1, "acceptance (%)", lambda p: 100 * p.result.acceptance_rate),
        (2, "MSE", lambda p: p.result.mse),
    )
    for row, _, value in axes:
        for index, sigma in enumerate(sigmas):
            _line_over_k(figure, table.points, sigma, value, (index, len(sigmas)), row)
    style = look.layout.xaxis.to_plotly_json()
    figure.update_xaxes(style)
    figure.update_yaxes(style)
    for row, name, _ in axes:
        figure.update_yaxes(title_text=name, row=row, col=1)
    figure.update_xaxes(title_text="k (proposals per round)", row=2, col=1)
    ks = sorted({p.setting.k for p in table.points})
    if len(ks) <= MOST_VALUES:
        figure.update_xaxes(tickvals=ks)
    figure.update_yaxes(range=(-4, 104), row=1, col=1)
    figure.update_yaxes(
        range=with_baselines(table, [p.result.mse for p in table.points]), row=2, col=1
    )
    draw_baselines(figure, table, row=2)
    return figure


def acceptance_by_position(table: StudyTable) -> go.Figure:
    """Share of tested proposals that were accepted, by position in the round, for each sigma."""
    title = "Acceptance by position in the round"
    if not table.points:
        return without_data(title, NOTHING_YET)
    counted = [p for p in table.points if p.result.tested_by_position is not None]
    if not counted:
        return without_data(title, "These trials carry no counts by position (imported results)")
    sigmas = cut(counted, "sigma", MOST_LINES)
    figure = blank(title, "accepted of tested, pooled over bias and k")
    for index, sigma in enumerate(sigmas):
        accepted, tested = _by_position([p for p in counted if sigma.holds(p)])
        places = [i for i, count in enumerate(tested) if count]
        figure.add_scatter(
            x=[i + 1 for i in places],
            y=[100 * accepted[i] / tested[i] for i in places],
            mode="lines+markers",
            name=f"sigma {sigma.label}",
            marker=marker(index, len(sigmas)),
            line={"dash": DASHES[index % len(DASHES)], "width": 2},
            text=[
                f"<b>sigma {sigma.label}, position {i + 1}</b><br>"
                f"{accepted[i]:,} of {tested[i]:,} accepted"
                for i in places
            ],
            hoverinfo="text",
        )
    longest = max(len(p.result.tested_by_position or ()) for p in counted)
    figure.update_xaxes(title_text="position in the round (1 = first proposal)")
    if longest <= MOST_VALUES:
        figure.update_xaxes(tickvals=list(range(1, longest + 1)))
    figure.update_yaxes(title_text="accepted (% of tested)", range=(-4, 104))
    return figure


def _heatmap(
    table: StudyTable,
    title: str,
    value: Callable[[Point], float],
    *,
    unit: str,
    digits: int,
    brighter: str,
    limits: tuple[float, float] | None,
) -> go.Figure:
    if not table.points:
        return without_data(title, NOTHING_YET)
    sigmas, biases = cut(table.points, "sigma"), cut(table.points, "bias")
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for point in table.points:
        row = next(i for i, b in enumerate(biases) if b.holds(point))
        column = next(i for i, s in enumerate(sigmas) if s.holds(point))
        cells[row, column].append(value(point))
    means = np.full((len(biases), len(sigmas)), np.nan)
    texts = [["" for _ in sigmas] for _ in biases]
    hovers = [["no trial here" for _ in sigmas] for _ in biases]
    for (row, column), found in cells.items():
        means[row, column] = fmean(found)
        texts[row][column] = f"{fmean(found):.{digits}f}"
        if len(found) > 1:
            low, high = f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"
            texts[row][column] += f"<br>{low} – {high}" if low != high else ""
        hovers[row][column] = (
            f"<b>sigma {sigmas[column].label}, bias {biases[row].label}</b><br>"
            f"{unit}: mean {fmean(found):.{digits}f}, {min(found):.{digits}f} to "
            f"{max(found):.{digits}f}<br>{plural(len(found), 'trial')}"
        )
    ks = sorted({p.setting.k for p in table.points})
    over = f"k = {ks[0]}" if len(ks) == 1 else f"k = {ks[0]} to {ks[-1]}"
    figure = blank(title, f"mean over {over}, and range; brighter is better ({brighter})")
    figure.add_heatmap(
        x=[b.label for b in sigmas],
        y=[b.label for b in biases],
        # Lists: the plotly.js of the dashboard may be older than binary arrays.
        z=[[None if math.isnan(mean) else mean for mean in row] for row in means.tolist()],
        text=texts,
        texttemplate="%{text}",
        hovertext=hovers,
        hoverinfo="text",
        colorscale="Cividis",
        reversescale=brighter == "lower",
        zmin=None if limits is None else limits[0],
        zmax=None if limits is None else limits[1],
        xgap=2,
        ygap=2,
        showscale=False,
    )
    figure.update_xaxes(title_text="sigma", type="category", showgrid=False)
    figure.update_yaxes(title_text="bias", type="category", showgrid=False)
    return figure


def _line_over_k(
    figure: go.Figure,
    points: Sequence[Point],
    sigma: Bin,
    value: Callable[[Point], float],
    place: tuple[int, int],
    row: int,
) -> None:
    by_k = defaultdict(list)
    for point in points:
        if sigma.holds(point):
            by_k[point.setting.k].append(value(point))
    ks = sorted(by_k)
    index, count = place
    figure.add_scatter(
        x=ks,
        y=[fmean(by_k[k]) for k in ks],
        error_y={
            "type": "data",
            "array": [pstdev(by_k[k]) for k in ks],
            "thickness": 1,
            "width": 3,
            "color": MUTED,
        },
        mode="lines+markers",
        name=f"sigma {sigma.label}",
        legendgroup=str(index),
        showlegend=row == 1,
        marker=marker(index, count),
        line={"dash": DASHES[index % len(DASHES)], "width": 2},
        hovertemplate=f"<b>sigma {sigma.label}, k %{{x}}</b><br>%{{y:.4f}}<extra></extra>",
        row=row,
        col=1,
    )


def _by_position(points: Sequence[Point]) -> tuple[list[int], list[int]]:
    longest = max((len(p.result.tested_by_position or ()) for p in points), default=0)
    accepted, tested = [0] * longest, [0] * longest
    for point in points:
        for i, count in enumerate(point.result.accepted_by_position or ()):
            accepted[i] += count
        for i, count in enumerate(point.result.tested_by_position or ()):
            tested[i] += count
    return accepted, tested


_OTHERS = (
    acceptance_vs_mse,
    acceptance_heatmap,
    mse_heatmap,
    k_effect,
    acceptance_by_position,
    speedup_vs_mse,
)
PLOTS = ("pareto_frontier", *(draw.__name__ for draw in _OTHERS))
"""Names of the figures, which are also the names of their files, in the order of the report."""


def figures(
    table: StudyTable, recommendations: Sequence[Recommendation] = ()
) -> dict[str, go.Figure]:
    """All figures by name, in the order of `PLOTS`; a study without trials gives figures too."""
    drawn = (pareto_frontier(table, recommendations), *(draw(table) for draw in _OTHERS))
    return dict(zip(PLOTS, drawn, strict=True))


def write_pngs(drawn: dict[str, go.Figure], folder: Path) -> list[Path]:
    """Write each figure as a picture, 900 pixels wide at double resolution.

    Raises:
        WorkError: kaleido or the browser that it needs is not there, or the browser failed.
    """
    paths = [folder / f"{name}.png" for name in drawn]
    try:
        with _quiet_browser():
            plotly.io.write_images(
                list(drawn.values()),
                [str(path) for path in paths],
                width=900,
                height=[figure.layout.height for figure in drawn.values()],
                scale=2,
            )
    except Exception as error:  # what a browser's driver may raise has no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkError(
            f"{first.rstrip('.')}. For PNGs: pip install 'spec-opt[png]', and install Chrome or "
            "Chromium (or name one in BROWSER_PATH)"
        ) from error
    return paths


@contextmanager
def _quiet_browser() -> Iterator[None]:
    """Keep the browser's driver from logging messages that it says it ignores."""
    driver = logging.getLogger("choreographer")
    before = driver.level
    driver.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        driver.setLevel(before)
