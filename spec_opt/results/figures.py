"""The figures of a study: the five of the sweep guide, and four more.

A diamond stands for a setting on the front, a star for a measured speedup; `figure_style` has the
rest of the look.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import plotly.io

from spec_opt.errors import WorkError
from spec_opt.results.curves import hypervolume_over_trials, speedup_by_batch_size
from spec_opt.results.figure_style import (
    ACCENT,
    BASELINE_DASHES,
    COOL_TO_WARM,
    DASHES,
    LINEAR,
    MUTED,
    PALE,
    SHADES,
    SHAPES,
    STAR,
    STYLE,
    WARM,
    empty,
)
from spec_opt.results.frame import frame_of
from spec_opt.results.recommend import Recommendation
from spec_opt.results.statistics import MOST_VALUES, cut, noise_aware_front, places_of
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import acceptance_text, mse_text, plural

LABELS = {
    "acceptance": "acceptance rate (%)",
    "mse": "MSE (standardised units)",
    "predicted_speedup": "speedup (times the target alone)",
    "k": "k (proposals per round)",
    "position": "position in the round (1 = first proposal)",
    "accepted": "accepted (% of tested)",
    "ks": "",
    "sigmas": "",
}
"""Titles of axes and legends, by the column that they show."""

PLACES = 50
"""Across and up a figure: trials in one place would hide one another and share a marker."""
MOST_WITH_BARS = 150
"""More markers than this are drawn without error bars, which would hide them."""
MOST_LINES = 6
FEWEST_TESTED = 10
"""A share of fewer tested proposals says nothing."""


def figures(
    table: StudyTable, recommendations: Sequence[Recommendation] = ()
) -> dict[str, go.Figure]:
    """All figures by name, in the order of `PLOTS`; `layout.meta` says how to read each.

    A study without trials gives figures that say so.
    """
    frame = _frame(table) if table.points else pd.DataFrame()
    drawn = {}
    for name, (title, draw, reading) in _FIGURES.items():
        made = draw(table, frame) if table.points else "No completed trial yet"
        figure = drawn[name] = empty(220, made) if isinstance(made, str) else made
        figure.update_layout(title_text=title, meta=reading)
        figure.update_layout(margin={"l": 64, "r": 24, "t": 76, "b": 64})
    if table.points:
        _ring_recommended(drawn["pareto_frontier"], frame, recommendations)
    return drawn


def _frame(table: StudyTable) -> pd.DataFrame:
    """The completed trials by number, with acceptance in percent, and groups."""
    numbers = [point.number for point in table.points]
    frame = frame_of(table, table.points).set_index("number")
    measured = [s and s.speedup for s in map(table.measured_speedup, numbers)]
    acceptance, error = 100 * frame["acceptance_rate"], 100 * frame["acceptance_ci95"]
    return frame.assign(
        acceptance=acceptance,
        error_above=np.minimum(error, 100 - acceptance),
        error_below=np.minimum(error, acceptance),
        measured=pd.Series(measured, numbers, dtype="float64"),
        k=frame["k"].astype(int),
        ks=[f"k = {k}" if k < 8 else "k ≥ 8" for k in frame["k"]],
        sigmas=_binned(table.points, "sigma", MOST_LINES).rename_categories("sigma {}".format),
        sigma=_binned(table.points, "sigma"),
        bias=_binned(table.points, "bias"),
        point=pd.Series(table.points, numbers, dtype="object"),
    )


def _with_hovers(frame: pd.DataFrame) -> pd.DataFrame:
    """With what each of these trials says when it is pointed at."""
    pairs = zip(frame["point"], frame["measured"], strict=True)
    return frame.assign(hover=[_hover(*pair) for pair in pairs])


def _hover(point: Point, measured: float) -> str:
    """The setting first, then its results."""
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
    if not math.isnan(measured):
        lines.append(f"<b>measured {measured:.2f}x</b>")
    return "<br>".join(lines)


def _binned(points: Sequence[Point], name: str, most: int = MOST_VALUES) -> pd.Categorical[str]:
    """Each point's value of a parameter as a label: of a range where there are many values."""
    bins = cut(points, name, most)
    labels = pd.Index([b.label for b in bins])
    return pd.Categorical.from_codes(places_of(points, bins), labels, ordered=True)


def _lines(frame: pd.DataFrame, **options: Any) -> go.Figure:
    """A line for each sigma; its markers are all alike, since shapes stand for k."""
    looks = {"color_discrete_sequence": COOL_TO_WARM, "line_dash_sequence": DASHES}
    figure = px.line(
        frame, color="sigmas", line_dash="sigmas", hover_name="hover", labels=LABELS, markers=True,
        render_mode="svg", template=STYLE, height=560, **looks, **options,
    )  # fmt: skip
    figure.update_traces(line_width=2, marker_size=8)
    return figure.update_traces(hovertemplate="%{hovertext}<extra></extra>")


def _markers(frame: pd.DataFrame, x: str, **bars: str) -> go.Figure:
    """The trials by `x` and MSE, those of each k with its marker; see `_merged`."""
    figure = px.scatter(
        _merged(frame, x), x=x, y="mse", color="ks", symbol="ks", symbol_map=SHAPES,
        color_discrete_map=dict(zip(SHAPES, [*SHADES, MUTED], strict=True)),
        category_orders={"ks": [*SHAPES]}, text="count", hover_name="hover", labels=LABELS,
        render_mode="svg", height=500, template=STYLE, **bars,
    )  # fmt: skip
    figure.update_traces(marker_size=11, textposition="top center", textfont_size=11)
    return figure.update_traces(hovertemplate="%{hovertext}<extra></extra>")


def _merged(frame: pd.DataFrame, x: str) -> pd.DataFrame:
    """One row for the trials that would hide one another, the mildest of them, and their count."""
    places = [_place(frame[name]) for name in (x, "mse")]
    ordered = frame.sort_values(["bias", "sigma", "k"], kind="stable")
    groups = ordered.groupby([place.loc[ordered.index] for place in places])
    count, distinct = groups["ks"].transform("size"), groups["ks"].transform("nunique")
    ordered = ordered.assign(ks=ordered["ks"].where(distinct == 1, "several k"), count=count)
    merged = _with_hovers(ordered[~groups.cumcount().astype(bool)])
    also = "<br>and {} with results like these".format
    pairs = [*zip(merged["hover"], merged["count"], strict=True)]
    return merged.assign(
        hover=[hover + also(n - 1) if n > 1 else hover for hover, n in pairs],
        count=[f"×{n}" if n > 1 else "" for _, n in pairs],
    )


def _place(values: pd.Series[float]) -> pd.Series[int]:
    low, high = values.min(), values.max()
    return ((values - low) / ((high - low) or 1.0) * PLACES).astype(int)


def _add(figure: go.Figure, name: str, frame: pd.DataFrame, x: str, **marker: Any) -> None:
    """A group of trials with a marker of its own; nothing for no trials."""
    if not frame.empty:
        hovers = frame if "hover" in frame else _with_hovers(frame)
        place = {"x": frame[x], "y": frame["mse"], "hovertext": hovers["hover"]}
        figure.add_scatter(**place, hoverinfo="text", mode="markers", name=name, marker=marker)


def _draw_mse_axis(
    figure: go.Figure, table: StudyTable, mse: pd.Series[float], **place: int
) -> None:
    """The models alone as lines, and an axis that holds them and `mse`."""
    levels = _levels(table, mse)
    for name, level in levels.items():
        line = {"color": MUTED, "width": 2, "dash": BASELINE_DASHES[name]}
        label = f"{name}: MSE {level:.4f}"
        figure.add_hline(y=level, line=line, name=label, showlegend=True, **place)
    every = [*mse, *levels.values()]
    low, high = min(every), max(every)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    figure.update_yaxes(title_text=LABELS["mse"], range=(low - room, high + room), **place)


def _levels(table: StudyTable, mse: Iterable[float]) -> dict[str, float]:
    """The models alone; a linear one that is far worse than all else would flatten the figure."""
    levels = dict(table.levels)
    linear = levels.pop(LINEAR, None)
    every = [*mse, *levels.values()]
    if linear is not None and linear <= 2 * max(every) - min(every):
        levels[LINEAR] = linear
    return levels


def _draw_acceptance_axis(figure: go.Figure, acceptance: pd.Series[float]) -> None:
    low, high = float(acceptance.min()), float(acceptance.max())
    middle, half = (low + high) / 2, max((high - low) * 0.54, 6.0)
    limits = (max(middle - half, -3.0), min(middle + half, 103.0))
    figure.update_xaxes(title_text=LABELS["acceptance"], range=limits)


def _acceptance_vs_mse(table: StudyTable, frame: pd.DataFrame) -> go.Figure:
    """Every trial: acceptance rate across, MSE up, k by colour and shape."""
    bars = {"error_x": "error_above", "error_x_minus": "error_below", "error_y": "mse_ci95"}
    usual, remark = frame["mse_ci95"].median(), ""
    if usual > 0.1 * (frame["mse"].max() - frame["mse"].min()):
        # Most of this error is shared by all trials: such bars would hide what differs.
        del bars["error_y"]
        remark = f"; MSE ± {usual:.2g} over windows, which all trials share"
    figure = _markers(frame, "acceptance", **bars)
    shown = sum(len(trace.x) for trace in figure.data) <= MOST_WITH_BARS
    for bar in {"error_x", "error_y"} & {*bars}:
        look = {"visible": shown, "thickness": 1, "width": 0, "color": PALE}
        figure.update_traces({bar: look})
    _draw_acceptance_axis(figure, frame["acceptance"])
    _draw_mse_axis(figure, table, frame["mse"])
    imported = f", {table.imported} of them imported" if table.imported else ""
    count = f"{plural(len(frame), 'trial')}{imported}"
    return figure.update_layout(title_subtitle_text=f"{count}; better is down and right{remark}")


def _pareto_frontier(table: StudyTable, frame: pd.DataFrame) -> go.Figure:
    """The front as a stepped line, the other trials behind it."""
    front = frame.loc[[p.number for p in table.front]]
    # Trials far above the front would flatten it.
    found = front["mse"] if table.front else frame["mse"]
    levels = [*found, *_levels(table, found).values()]
    limit = max(levels) + 0.75 * (max(levels) - min(levels) or 0.1 * max(levels))
    figure = empty()
    others = _merged(frame[~frame["pareto"]], "acceptance")
    _add(figure, "other trials", others, "acceptance", color=PALE, size=7, line_width=0)
    # With three objectives the front also holds trials off this line: others have a lower MSE.
    steps = front[front["mse"] == front["mse"].cummin()]
    line = {"color": ACCENT, "width": 2, "shape": "hv"}
    place = {"x": steps["acceptance"], "y": steps["mse"], "hoverinfo": "skip"}
    figure.add_scatter(**place, mode="lines", line=line, showlegend=False)
    _add_front(figure, table, frame)
    shown = frame[frame["mse"] <= limit]
    _draw_acceptance_axis(figure, shown["acceptance"])
    _draw_mse_axis(figure, table, shown["mse"])
    above = int((frame["mse"] > limit).sum())
    remark = f"; {plural(above, 'worse trial')} above the frame" if above else ""
    share = f"{plural(len(frame), 'trial')}, {len(front)} of them on the front"
    return figure.update_layout(title_subtitle_text=f"{share}; better is down and right{remark}")


_STANDINGS: Mapping[str, tuple[str, str]] = {
    "clear": ("on the front, clear", ACCENT),
    "tie": ("on the front, tie", "white"),
    "unknown": ("on the front", ACCENT),
}


def _add_front(figure: go.Figure, table: StudyTable, frame: pd.DataFrame) -> None:
    """A diamond for each distinct result, with its count."""
    members = noise_aware_front(table)
    for standing, (name, color) in _STANDINGS.items():
        found = [member.points for member in members if member.standing == standing]
        look = {"symbol": "diamond", "size": 11, "color": color}
        look["line"] = {"color": ACCENT, "width": 2}
        _add(figure, name, frame.loc[[points[0].number for points in found]], "acceptance", **look)
        if found:
            counts = [f"    ×{len(points)}" if len(points) > 1 else "" for points in found]
            labels = {"text": counts, "textposition": "middle right", "textfont_size": 11}
            figure.data[-1].update(mode="markers+text", cliponaxis=False, **labels)


def _ring_recommended(
    figure: go.Figure, frame: pd.DataFrame, recommendations: Sequence[Recommendation]
) -> None:
    """A ring around each recommended trial, named in the legend; shared trials share a ring."""
    chosen = {r.point.number: r.point for r in recommendations if r.point is not None}
    look = {"color": WARM, "symbol": "circle-open", "size": 21, "line": {"width": 3}}
    for side, (number, point) in zip(("top", "middle", "bottom"), chosen.items(), strict=False):
        setting = point.setting
        joined = ", ".join(r.scenario for r in recommendations if r.trial == number)
        label = f"sigma {setting.sigma:.3g}, bias {setting.bias:.3g}, k {setting.k}"
        _add(figure, f"<b>{joined}</b>: {label}", frame.loc[[number]], "acceptance", **look)
        labels = {"text": f"{joined}  ", "textposition": f"{side} left"}
        figure.data[-1].update(mode="markers+text", **labels)


def _add_draft(figure: go.Figure, table: StudyTable) -> None:
    """The measured speedup of the draft alone, if there is one."""
    measured = [s.value for s in table.speedups if s.trial is None and s.measured]
    if measured and table.baseline is not None:
        place = {"x": [max(measured)], "y": [table.baseline.draft_mse], "mode": "markers"}
        look = STAR | {"line": {"color": WARM, "width": 2}}
        hover = {"hovertemplate": "draft alone: %{x:.3g}x<extra></extra>"}
        figure.add_scatter(**place, **hover, name="draft alone, measured", marker=look)


def _speedup_vs_mse(table: StudyTable, frame: pd.DataFrame) -> go.Figure | str:
    """Predicted (and, where `bench` has run, measured) speedup across, MSE up."""
    predicted = frame[frame["predicted_speedup"].notna()]
    measured = frame[frame["measured"].notna()]
    if predicted.empty and measured.empty:
        return "No speedup predicted or measured yet: run spec-opt bench"
    figure = empty() if predicted.empty else _markers(predicted, "predicted_speedup")
    _add(figure, "measured", measured, "measured", **STAR)
    _add_draft(figure, table)
    figure.add_vline(x=1.0, line={"color": MUTED, "width": 1.5})
    # Of a logarithmic axis, annotations ask for the logarithm.
    note = {"text": "no gain", "showarrow": False, "xanchor": "left", "yanchor": "top"}
    figure.add_annotation(x=0.0, y=1.0, yref="y domain", **note)
    figure.update_xaxes(title_text=LABELS["predicted_speedup"], type="log", tickformat=".3~g")
    shown = [x for trace in figure.data for x in trace.x]
    figure.update_xaxes(dtick="D1" if max(shown) < 8 * min(shown) else "D2")
    _draw_mse_axis(figure, table, pd.concat([predicted["mse"], measured["mse"]]))
    subtitle = "as the cost model predicts it (by k), and as measured; better is down and right"
    return figure.update_layout(title_subtitle_text=subtitle)


def _cell(unit: str, digits: int, place: tuple[str, str], *found: float) -> str:
    """What a cell of a heatmap says when it is pointed at."""
    *numbers, count = found
    if not count:
        return "no trial here"
    mean, low, high = (f"{number:.{digits}f}" for number in numbers)
    head = f"<b>sigma {place[1]}, bias {place[0]}</b><br>{unit}: mean {mean}, {low} to {high}"
    return f"{head}<br>{plural(int(count), 'trial')}"


def _heatmap(
    column: str, unit: str, digits: int, better: str, _: StudyTable, frame: pd.DataFrame
) -> go.Figure:
    """Means over k for each sigma and bias, with their range."""
    groups = frame.groupby(["bias", "sigma"], observed=False)[column]
    cells = groups.agg(["mean", "min", "max", "count"])
    texts = [f"{mean:.{digits}f}" if count else "" for mean, *_, count in cells.to_numpy()]
    hovers = [_cell(unit, digits, *row) for row in cells.itertuples(name=None)]
    means = cells["mean"].unstack()
    figure = px.imshow(
        means.to_numpy(), x=[*means.columns], y=[*means.index], labels={"x": "sigma", "y": "bias"},
        color_continuous_scale="Cividis" if better == "higher" else "Cividis_r",
        range_color=(0.0, 100.0) if column == "acceptance" else None,
        aspect="auto", origin="lower", height=420, template=STYLE,
    )  # fmt: skip
    figure.update_traces(
        text=np.reshape(texts, means.shape).tolist(), texttemplate="%{text}", xgap=2, ygap=2,
        hovertext=np.reshape(hovers, means.shape).tolist(), hoverinfo="text", hovertemplate=None,
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    least, most = frame["k"].min(), frame["k"].max()
    over = f"k = {least}" if least == most else f"k = {least} to {most}"
    subtitle = f"mean over {over}; brighter is better ({better})"
    return figure.update_layout(title_subtitle_text=subtitle, coloraxis_showscale=False)


def _means_by_k(frame: pd.DataFrame) -> pd.DataFrame:
    """Both objectives by sigma and k: mean over bias, and bars that end at 0 and 100 %."""
    long = frame.melt(id_vars=["sigmas", "k"], value_vars=["acceptance", "mse"])
    groups = long.groupby(["variable", "sigmas", "k"], observed=True)["value"]
    means = groups.agg(mean="mean", spread=lambda values: values.std(ddof=0)).reset_index()
    highest = means["variable"].map({"acceptance": 100.0, "mse": math.inf})
    means["above"] = np.minimum(means["spread"], highest - means["mean"])
    means["below"] = np.minimum(means["spread"], means["mean"])
    rows = means.itertuples(index=False)
    means["hover"] = [f"<b>{row.sigmas}, k {row.k}</b><br>{row.mean:.4f}" for row in rows]
    return means


def _k_effect(table: StudyTable, frame: pd.DataFrame) -> go.Figure:
    """Acceptance and MSE against k, a line for each sigma."""
    means = _means_by_k(frame)
    two = {"facet_row": "variable", "facet_row_spacing": 0.07}
    figure = _lines(means, x="k", y="mean", error_y="above", error_y_minus="below", **two)
    figure.update_traces(error_y={"thickness": 1, "width": 3, "color": MUTED})
    figure.layout.annotations = ()
    figure.update_yaxes(matches=None)
    # Plotly express counts rows from below.
    figure.update_yaxes(title_text="acceptance (%)", range=(-4, 104), row=2, col=1)
    _draw_mse_axis(figure, table, frame["mse"], row=1, col=1)
    figure.update_yaxes(title_text="MSE", row=1, col=1)
    if len(ks := sorted(frame["k"].unique())) <= MOST_VALUES:
        figure.update_xaxes(tickvals=ks)
    return figure.update_layout(title_subtitle_text="mean over bias, bars: standard deviation")


def _shares_by_position(frame: pd.DataFrame) -> pd.DataFrame:
    """Tested and accepted proposals by sigma and position, pooled over bias and k."""
    counts = ["accepted_by_position", "tested_by_position"]
    counted = frame.loc[frame["tested_by_position"].notna(), ["sigmas", *counts]].explode(counts)
    counted = counted.astype(dict.fromkeys(counts, int))
    counted["position"] = counted.groupby(level=0).cumcount() + 1
    pooled = counted.groupby(["sigmas", "position"], observed=True)[counts].sum()
    pooled = pooled.reset_index().set_axis(["sigmas", "position", "passed", "tested"], axis=1)
    hovers = [
        f"<b>{row.sigmas}, position {row.position}</b><br>{row.passed:,} of {row.tested:,} accepted"
        for row in pooled.itertuples(index=False)
    ]
    return pooled.assign(accepted=100 * pooled["passed"] / pooled["tested"], hover=hovers)


def _acceptance_by_position(_: StudyTable, frame: pd.DataFrame) -> go.Figure | str:
    """Share of tested proposals that were accepted, by position in the round, for each sigma."""
    if frame["tested_by_position"].isna().all():
        return "These trials carry no counts by position (imported results)"
    every = _shares_by_position(frame)
    shown = every[every["tested"] >= FEWEST_TESTED]
    figure = _lines(shown, x="position", y="accepted").update_yaxes(range=(-4, 104))
    if (longest := int(every["position"].max())) <= MOST_VALUES:
        figure.update_xaxes(tickvals=[*range(1, longest + 1)])
    subtitle = "accepted of tested, pooled over bias and k"
    if len(shown) < len(every):
        subtitle += f"; without points of fewer than {FEWEST_TESTED} tested proposals"
    return figure.update_layout(title_subtitle_text=subtitle)


_Draw = Callable[[StudyTable, pd.DataFrame], go.Figure | str]
_FIGURES: Mapping[str, tuple[str, _Draw, str]] = {
    "pareto_frontier": ("Pareto front", _pareto_frontier,
        "Each diamond is a setting that no other beats in every objective. Between them the line "
        "shows the lowest MSE at that acceptance or more. Trials with equal results are drawn "
        "once, and × counts them."),
    "speedup_by_batch_size": ("Speedup against batch size",
        lambda table, _: speedup_by_batch_size(table),
        "The fastest setting with each k, and the fastest of all as a band on top."),
    "speedup_vs_mse": ("Speedup against MSE", _speedup_vs_mse,
        "What the cost model expects of each setting, and what was measured."),
    "acceptance_vs_mse": ("Acceptance against MSE", _acceptance_vs_mse,
        "Every trial; bars are 95 % intervals over the windows. × counts trials in one place."),
    "acceptance_heatmap": ("Acceptance (%) by sigma and bias",
        partial(_heatmap, "acceptance", "acceptance (%)", 1, "higher"),
        "How much sigma and bias let through."),
    "mse_heatmap": ("MSE by sigma and bias", partial(_heatmap, "mse", "MSE", 4, "lower"),
        "What it costs in error."),
    "k_effect": ("Effect of k", _k_effect,
        "More proposals per round: fewer verifications if they are accepted."),
    "acceptance_by_position": ("Acceptance by position in the round", _acceptance_by_position,
        "Whether later proposals of a round are accepted less often."),
    "hypervolume": ("Hypervolume over trials", lambda table, _: hypervolume_over_trials(table),
        "How good the settings found so far are together; where it is flat, nothing more came."),
}  # fmt: skip
"""The title of each figure, what draws it (or says why it is empty), and how to read it."""

PLOTS = tuple(_FIGURES)
"""Names of the figures, which are also the names of their files, in the order of the report."""


def write_pngs(drawn: dict[str, go.Figure], folder: Path) -> list[Path]:
    """Write each figure as a picture, 900 pixels wide at double resolution.

    Raises:
        WorkError: kaleido or the browser that it needs is missing, or the browser failed.
    """
    paths = [folder / f"{name}.png" for name in drawn]
    # The browser's driver logs messages that it says it ignores.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    heights = [figure.layout.height for figure in drawn.values()]
    try:
        plotly.io.write_images([*drawn.values()], [*paths], width=900, height=heights, scale=2)
    except Exception as error:  # the exceptions of a browser's driver have no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkError(
            f"{first.rstrip('.')}. For PNGs: pip install 'spec-opt[png]', and install Chrome or "
            "Chromium (or name one in BROWSER_PATH)"
        ) from error
    return paths
