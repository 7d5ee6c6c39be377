"""The HTML page of a report: everything inlined, no request leaves it, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from spec_opt.config import RecommendConfig
from spec_opt.results.recommend import Recommendation
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.report_tables import (
    best_tables,
    failure_table,
    front_table,
    influence_table,
    origin_table,
    value_table,
)
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import percent, plural

READING = {
    "pareto_frontier": "Each diamond is a setting that no other beats in every objective. "
    "Between them the line shows the lowest MSE at that acceptance or more.",
    "acceptance_vs_mse": "Every trial; bars are one standard error over the windows.",
    "acceptance_heatmap": "How much sigma and bias let through.",
    "mse_heatmap": "What it costs in error. A wide range within a cell means that k matters there.",
    "k_effect": "More proposals per round: fewer verifications if they are accepted.",
    "acceptance_by_position": "Whether later proposals of a round are accepted less often.",
    "speedup_vs_mse": "What the cost model expects of each setting, and what was measured.",
}
"""How to read each figure, in a sentence."""


def page(
    table: StudyTable,
    recommendations: Sequence[Recommendation],
    drawn: dict[str, go.Figure],
    *,
    limits: RecommendConfig,
    storage: str,
    command: str,
) -> str:
    """The whole page. `storage` must be free of passwords."""
    sections = [
        _head(table),
        _recommended(table, recommendations),
        *(_figure(name, figure) for name, figure in drawn.items() if name == "pareto_frontier"),
        front_table(table),
        *(_figure(name, figure) for name, figure in drawn.items() if name != "pareto_frontier"),
        best_tables(table, limits),
        value_table(table, limits),
        influence_table(table),
        failure_table(table),
        origin_table(table, storage, command),
    ]
    assets = files("spec_opt.results") / "assets"
    parts = {
        "title": escape(f"{table.name}: spec-opt report"),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
        "body": "\n".join(section for section in sections if section),
        "plotly": get_plotlyjs(),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # In one pass, so that nothing inside a part is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _head(table: StudyTable) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(table.states.items()))
    facts = [plural(len(table.trials), "trial") + (f" ({states})" if states else "")]
    if table.config is not None:
        data, rule = table.config.data, table.config.decoding.rule
        facts += [
            f"{data.source}, {data.split} split, context {data.context}, horizon {data.horizon}",
            f"rule {rule}",
        ]
    facts += [f"{name}: MSE {mse:.4f}" for name, mse in table.levels.items()]
    if table.imported:
        facts.append(f"{table.imported} imported")
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>{escape(table.name)}</h1><ul class="facts">{items}</ul></header>'


def _recommended(table: StudyTable, recommendations: Sequence[Recommendation]) -> str:
    common = common_sentences(recommendations)
    cards = "".join(_card(table, r, common) for r in recommendations)
    notes = ""
    if common:
        notes = f"<h3>Know before you use it</h3>{_list(common)}"
    return (
        f'<section><h2>Which setting to use</h2><div class="cards">{cards}</div>{notes}</section>'
    )


def _card(table: StudyTable, recommendation: Recommendation, common: Sequence[str]) -> str:
    own = recommendation.own(common)
    point = recommendation.point
    if point is None:
        top = '<p class="setting none">no trial meets this</p>'
    else:
        top = (
            f'<p class="setting">{escape(str(point.setting))}</p>'
            f"<dl>{_figures_of(table, recommendation, point)}</dl>"
            f"<p><code>{_unbroken(flags(point.setting))}</code></p>"
        )
    more = [s for s in (recommendation.close, recommendation.would_change) if s]
    details = ""
    if more or own:
        paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in more)
        summary = "What was close, what would change it" if more else "What to try"
        details = f"<details><summary>{summary}</summary>{paragraphs}{_list(own)}</details>"
    return (
        f'<article class="card"><h3>{TITLES[recommendation.scenario]}</h3>{top}'
        f"<p>{escape(recommendation.why)}</p>{details}</article>"
    )


def _figures_of(table: StudyTable, recommendation: Recommendation, point: Point) -> str:
    pairs = [
        ("acceptance", percent(point.result.acceptance_rate)),
        ("MSE", f"{point.result.mse:.4f}"),
    ]
    if recommendation.mse_ratio is not None:
        pairs.append(("MSE / target's", f"{recommendation.mse_ratio:.3f}"))
    measured = table.measured_speedup(point.number)
    if measured is not None and measured.speedup is not None:
        pairs.append(("speedup, measured at best", f"{measured.speedup:.2f}x"))
    elif point.result.predicted_speedup is not None:
        pairs.append(("speedup, predicted", f"{point.result.predicted_speedup:.2f}x"))
    pairs.append(("trial", str(point.number)))
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in pairs)


def _unbroken(text: str) -> str:
    """Flags that wrap between one and the next only."""
    spans = [f"<span>--{flag.strip()}</span>" for flag in escape(text).split("--") if flag]
    return " ".join(spans)


def _figure(name: str, figure: go.Figure) -> str:
    """A figure whose title stands in the page's own text, where it can wrap on a phone."""
    title, subtitle = figure.layout.title.text, figure.layout.title.subtitle.text or ""
    shown = go.Figure(figure)
    shown.update_layout(
        title=None, margin={"t": 16, "l": 8, "r": 12}, paper_bgcolor="rgba(0,0,0,0)"
    )
    markup = shown.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    note = escape(f"{READING[name]} {_sentence(subtitle)}")
    return (
        f'<section class="figure"><h2>{escape(title)}</h2>'
        f'<p class="note">{note}</p>{markup}</section>'
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _list(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
