"""The look that all figures share, and the parts that they are made of.

Colour is never the only sign: k and sigma also have marker shapes, the front has its own shape and
a line. Cividis reads the same with red-green blindness and keeps its order in greyscale; a thin
grey outline keeps its dark end visible on a dark page and its bright end on a white one.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
import plotly.colors
import plotly.graph_objects as go

from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import acceptance_text, mse_text

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
