"""The hypervolume of the settings found so far, over the trials of a study."""

from __future__ import annotations

from datetime import datetime

import plotly.graph_objects as go

from spec_opt.results.figure_style import ACCENT, empty
from spec_opt.results.table import Point, StudyTable
from spec_opt.study.hypervolume import WORST_MSE, course, gains


def hypervolume_over_trials(table: StudyTable) -> go.Figure | str:
    """The hypervolume of the feasible trials after each trial, in the order in which they ended."""
    target = table.target_mse
    if target is None:
        return "The target's own MSE is not known (imported results)"
    points = sorted(table.points, key=_end)
    values = [_values(table, point) for point in points]
    volumes = course(gains(values, target))
    figure = empty()
    # The steps, and where the line ends.
    rises = [i for i, volume in enumerate(volumes) if i == 0 or volume > volumes[i - 1]]
    steps = dict.fromkeys((*rises, len(points) - 1))
    x, y = [i + 1 for i in steps], [volumes[i] for i in steps]
    line = {"color": ACCENT, "width": 2, "shape": "hv"}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, showlegend=False)
    hovers = [
        f"<b>after {i + 1}: {volumes[i]:.4f}</b><br>trial {points[i].number}: {points[i].setting}"
        for i in steps
    ]
    figure.data[-1].update(hovertext=hovers, hoverinfo="text")
    figure.update_xaxes(title_text="completed trials", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero")
    third = " and speedup 0" if "speedup" in table.objectives else ""
    text = f"from acceptance 0 at {WORST_MSE:g} times the target's MSE{third}; {volumes[-1]:.4f}"
    return figure.update_layout(title_subtitle_text=f"{text} in the end")


def _end(point: Point) -> tuple[datetime, int]:
    return (point.finished or datetime.max, point.number)


def _values(table: StudyTable, point: Point) -> list[float]:
    result = point.result
    fields = {"speedup": "predicted_speedup"}
    values = [float(getattr(result, fields.get(name, name)) or 0.0) for name in table.objectives]
    return values if result.feasible else [0.0, *values[1:]]
