"""The schedule as a figure: speedup against batch size, a line for each k, the best on top."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from spec_opt.results.figure_style import ACCENT, COOL_TO_WARM, DASHES, MUTED, empty
from spec_opt.results.schedule import Gain, schedule_of
from spec_opt.results.table import StudyTable

MOST_LINES = 6


def speedup_by_batch_size(table: StudyTable) -> go.Figure | str:
    """Predicted (or measured) speedup of the best setting with each k; why not, if unknown."""
    schedule = schedule_of(table)
    if schedule.unknown is not None:
        return schedule.unknown.replace("`", "")
    figure = empty()
    shown = sorted(schedule.by_k, key=lambda k: -max(g.speedup for g in schedule.by_k[k]))
    shown = sorted(shown[:MOST_LINES])
    looks = zip(shown, COOL_TO_WARM, DASHES, strict=False)
    for k, color, dash in looks:
        line = {"color": color, "dash": dash, "width": 2}
        _add(figure, f"k = {k}", schedule.by_k[k], mode="lines+markers", line=line)
    envelope = {"color": ACCENT, "width": 7}
    _add(figure, "fastest", schedule.best, mode="lines", line=envelope, opacity=0.35)
    measured = [gain for gain in schedule.best if gain.measured is not None]
    if measured:
        star = {"symbol": "star", "size": 15, "color": "white"}
        star["line"] = {"color": ACCENT, "width": 2}
        _add(figure, "measured", measured, mode="markers", marker=star)
    figure.add_hline(y=1.0, line={"color": MUTED, "width": 1.5})
    sizes = [gain.batch_size for gain in schedule.best]
    figure.update_xaxes(title_text="batch size (windows decoded together)", type="log")
    figure.update_xaxes(tickvals=sizes, ticktext=[str(size) for size in sizes])
    figure.update_yaxes(title_text="speedup (times the target alone)", rangemode="tozero")
    at = ", ".join(map(str, schedule.learnt_at))
    origin = f"costs learnt on {schedule.device} at batch size {at}" if at else "as measured"
    subtitle = f"with {schedule.bounds}; {origin}"
    return figure.update_layout(title_subtitle_text=subtitle)


def _add(figure: go.Figure, name: str, gains: Sequence[Gain], **look: object) -> None:
    figure.add_scatter(
        x=[gain.batch_size for gain in gains], y=[gain.speedup for gain in gains], name=name, **look
    )
    hovers = [
        f"<b>batch size {gain.batch_size}: {gain.point.setting}</b><br>{gain.speedup:.2f}x "
        f"{'predicted' if gain.measured is None else 'measured'}"
        for gain in gains
    ]
    figure.data[-1].update(hovertext=hovers, hoverinfo="text")
