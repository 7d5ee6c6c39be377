"""Two more figures: speedup against batch size, and the hypervolume over the trials of a study."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import plotly.graph_objects as go

from spec_opt.results.figure_style import ACCENT, COOL_TO_WARM, DASHES, MUTED, STAR, empty
from spec_opt.results.schedule import Gain, schedule_of
from spec_opt.results.table import Point, StudyTable
from spec_opt.study.hypervolume import WORST_MSE, course, gains


def speedup_by_batch_size(table: StudyTable) -> go.Figure | str:
    """Predicted (or measured) speedup of the best setting with each k; why not, if unknown.

    A line for each k, and the best on top.
    """
    schedule = schedule_of(table)
    if schedule.unknown is not None:
        return schedule.unknown.replace("`", "")
    figure = empty()
    shown = sorted(schedule.by_k, key=lambda k: -max(g.speedup for g in schedule.by_k[k]))
    for k, color, dash in zip(sorted(shown[: len(DASHES)]), COOL_TO_WARM, DASHES, strict=False):
        line = {"color": color, "dash": dash, "width": 2}
        _add(figure, f"k = {k}", schedule.by_k[k], mode="lines+markers", line=line)
    envelope = {"color": ACCENT, "width": 7}
    _add(figure, "fastest", schedule.best, mode="lines", line=envelope, opacity=0.35)
    measured = [gain for gain in schedule.best if gain.measured is not None]
    if measured:
        _add(figure, "measured", measured, mode="markers", marker=STAR)
    figure.add_hline(y=1.0, line={"color": MUTED, "width": 1.5})
    sizes = [gain.batch_size for gain in schedule.best]
    figure.update_xaxes(title_text="batch size (windows decoded together)", type="log")
    figure.update_xaxes(tickvals=sizes, ticktext=[str(size) for size in sizes])
    figure.update_yaxes(title_text="speedup (times the target alone)", rangemode="tozero")
    at = ", ".join(map(str, schedule.learnt_at))
    origin = f"costs learnt on {schedule.device} at batch size {at}" if at else "as measured"
    return figure.update_layout(title_subtitle_text=f"with {schedule.bounds}; {origin}")


def _add(figure: go.Figure, name: str, gains: Sequence[Gain], **look: object) -> None:
    hovers = [
        f"<b>batch size {gain.batch_size}: {gain.point.setting}</b><br>{gain.speedup:.2f}x "
        f"{'predicted' if gain.measured is None else 'measured'}"
        for gain in gains
    ]
    place = {"x": [gain.batch_size for gain in gains], "y": [gain.speedup for gain in gains]}
    figure.add_scatter(**place, hovertext=hovers, hoverinfo="text", name=name, **look)


def hypervolume_over_trials(table: StudyTable) -> go.Figure | str:
    """The hypervolume of the feasible trials after each trial, in the order in which they ended."""
    target = table.target_mse
    if target is None:
        return "The target's own MSE is not known (imported results)"
    points = sorted(table.points, key=_end)
    volumes = course(gains([_values(table, point) for point in points], target))
    # The steps, and where the line ends.
    rises = [i for i, volume in enumerate(volumes) if i == 0 or volume > volumes[i - 1]]
    steps = dict.fromkeys((*rises, len(points) - 1))
    hovers = [
        f"<b>after {i + 1}: {volumes[i]:.4f}</b><br>trial {points[i].number}: {points[i].setting}"
        for i in steps
    ]
    figure = empty()
    figure.add_scatter(
        x=[i + 1 for i in steps], y=[volumes[i] for i in steps], hovertext=hovers, hoverinfo="text",
        mode="lines", line={"color": ACCENT, "width": 2, "shape": "hv"}, showlegend=False,
    )  # fmt: skip
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
