"""A comparison of studies as text, or as a page with the fronts over each other."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from spec_opt.results.comparison import Change, Compared, Comparison
from spec_opt.results.document import Block, Bullets, Plot, Section, Table, Text, as_text
from spec_opt.results.figure_style import BASELINE_DASHES, COOL_TO_WARM, DASHES, empty
from spec_opt.results.page import page
from spec_opt.results.recommend import SCENARIOS
from spec_opt.results.render import cells, speedup_fact
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import percent

RECOMMENDED = (
    "scenario", "study", "trial", "sigma", "bias", "k", "acceptance", "MSE", "MSE / target's",
    "speedup",
)  # fmt: skip
DIFFERENCES = ("scenario", "study", "acceptance", "MSE", "windows")
READING = (
    "Better: a lower MSE and a higher acceptance. The page draws them over each other; lines "
    "across are the target alone (dashes), the draft alone (dots) and a linear model alone (both)."
)
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "pentagon")


def comparison_text(found: Comparison, width: int | None = None) -> str:
    """For a terminal of `width` columns."""
    return as_text(_blocks(found), width)


def comparison_page(found: Comparison) -> str:
    """A page of HTML that needs nothing beside it."""
    title = " and ".join(compared.label for compared in found.studies)
    return page(
        f"{title}: spec-opt compare", [Text(f"spec-opt compare: {title}", "title"), *_blocks(found)]
    )


def _blocks(found: Comparison) -> list[Block]:
    stores = [f"{one.label}: {one.storage}" for one in found.studies]
    verdicts = [f"{one.label}: {one.verdict.reason}" for one in found.studies]
    parts: list[tuple[str, Sequence[Block]]] = [
        ("What is compared", [Bullets(stores), _about(found.studies), Text(_pairing(found))]),
        ("Verdicts", [Bullets(verdicts)]),
        (
            "Fronts",
            [Text(READING, "note"), Plot("fronts_figure", fronts(found)), _spans(found.studies)],
        ),
        ("Recommended settings", [Table(RECOMMENDED, _recommended(found.studies))]),
        (f"Differences from {found.studies[0].label}", _differences(found)),
    ]
    return [Section([Text(heading, "heading"), *blocks]) for heading, blocks in parts]


def _pairing(found: Comparison) -> str:
    if found.same_windows:
        return (
            "All were measured on the same windows, so differences are paired: what easy and hard "
            "windows do to both cancels."
        )
    return (
        "Not all were measured on the same windows, by the fingerprints of their data. Differences "
        "between those are unpaired: the noise of both adds, and their MSEs are best compared "
        "relative to the target's."
    )


def _about(studies: Sequence[Compared]) -> Table:
    """One row a property, one column a study."""
    columns = [_properties(compared) for compared in studies]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return Table(("", *(compared.label for compared in studies)), rows)


def _properties(compared: Compared) -> dict[str, str]:
    table, unknown = compared.table, "–"
    found = {"trials": str(len(table.points))}
    config = table.config
    data, decoding = (config.data, config.decoding) if config is not None else (None, None)
    found |= {
        "series": unknown if data is None else f"{data.source}, {data.split}",
        "horizon": unknown if data is None else str(data.horizon),
        "rule": unknown if decoding is None else decoding.rule,
        "context": unknown if decoding is None else decoding.context,
        "sampler": unknown if config is None else config.search.sampler,
    }
    for role in ("target", "draft"):
        about = table.models.get(role)
        found[role] = about.get("summary", unknown) if isinstance(about, dict) else unknown
    found["devices"] = ", ".join(sorted({p.device for p in table.points if p.device})) or unknown
    for name in BASELINE_DASHES:
        mse = table.levels.get(name)
        found[f"MSE of the {name}"] = unknown if mse is None else f"{mse:.4f}"
    return found


def _spans(studies: Sequence[Compared]) -> Table:
    """Between what each front lies."""
    rows = []
    for compared in studies:
        front = compared.table.front
        mse = [point.result.mse for point in front]
        accepted = [point.result.acceptance_rate for point in front]
        spans = (
            f"{min(mse):.4f} to {max(mse):.4f}",
            f"{percent(min(accepted))} to {percent(max(accepted))}",
        )
        rows.append((compared.label, str(len(front)), *spans))
    return Table(("study", "on the front", "MSE", "acceptance"), rows)


def _recommended(studies: Sequence[Compared]) -> list[tuple[str, ...]]:
    rows = []
    for index, scenario in enumerate(SCENARIOS):
        for compared in studies:
            chosen = compared.recommendations[index]
            if chosen.point is None:
                rows.append((scenario, compared.label, "none", *[""] * 7))
                continue
            ratio = "–" if chosen.mse_ratio is None else f"{chosen.mse_ratio:.3f}"
            rows.append(
                (
                    scenario,
                    compared.label,
                    *cells(chosen.point),
                    ratio,
                    _speedup(compared, chosen.point),
                )
            )
    return rows


def _speedup(compared: Compared, point: Point) -> str:
    name, value = speedup_fact(compared.table, point)
    return value if value == "not known" else f"{value}, {name.split()[-2]}"


def _differences(found: Comparison) -> list[Block]:
    if not found.differences:
        return [Text("No scenario is met by both.")]
    rows = [
        (
            one.scenario,
            one.study,
            _shown(one.acceptance_rate, 100.0, 1, " pp"),
            _shown(one.mse, 1.0, 4),
            "same" if one.paired else "different",
        )
        for one in found.differences
    ]
    note = "± is half of a 95 % interval; * marks a difference whose interval excludes 0."
    return [Table(DIFFERENCES, rows), Text(note)]


def _shown(change: Change, scale: float, digits: int, unit: str = "") -> str:
    text = f"{scale * change.value:+.{digits}f}"
    if change.half_width is not None:
        text += f" ±{scale * change.half_width:.{digits}f}"
    return f"{text}{unit}{' *' if change.is_clear else ''}"


def fronts(found: Comparison) -> go.Figure:
    """The fronts over each other; relative to the target's MSE where the windows differ."""
    figure = empty()
    for index, compared in enumerate(found.studies):
        table, color = compared.table, COOL_TO_WARM[index % len(COOL_TO_WARM)]
        scale = 1.0 if found.same_windows else 1.0 / (table.target_mse or 1.0)
        points = [block[0] for block in table.distinct_front]
        line = {"color": color, "dash": DASHES[index % len(DASHES)], "width": 2, "shape": "hv"}
        figure.add_scatter(
            x=[100 * p.result.acceptance_rate for p in points],
            y=[scale * p.result.mse for p in points],
            name=compared.label, mode="lines+markers", line=line,
            marker={"symbol": MARKERS[index % len(MARKERS)], "size": 9},
            hovertext=[_hover(compared, p) for p in points], hoverinfo="text",
        )  # fmt: skip
        for name, level in _levels(table, found.same_windows).items():
            look = {"color": color, "width": 1.5, "dash": BASELINE_DASHES[name]}
            figure.add_hline(y=scale * level, line=look, opacity=0.6)
    figure.update_xaxes(title_text="acceptance rate (%)")
    mse = "MSE (standardised units)" if found.same_windows else "MSE / target's"
    figure.update_yaxes(title_text=mse)
    return figure.update_layout(margin={"t": 16, "l": 8, "r": 12})


def _levels(table: StudyTable, same_windows: bool) -> dict[str, float]:
    return table.levels if same_windows or table.target_mse else {}


def _hover(compared: Compared, point: Point) -> str:
    result = point.result
    return (
        f"<b>{compared.label}: {point.setting}</b><br>{percent(result.acceptance_rate)} accepted, "
        f"MSE {result.mse:.4f}"
    )
