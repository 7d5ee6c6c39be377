"""Figures of groups of trials: heat maps over sigma and bias, the effect of k, positions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from spec_opt.results.figure_style import (
    DASHES,
    MUTED,
    blank,
    draw_baselines,
    marker,
    with_baselines,
    without_data,
)
from spec_opt.results.scatter_plots import NOTHING_YET
from spec_opt.results.statistics import MOST_VALUES, Bin, cut
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import plural

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
