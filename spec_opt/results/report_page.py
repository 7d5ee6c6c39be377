"""The HTML page of a report: everything inlined, no request leaves it, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from spec_opt.config import RecommendConfig, StudyConfig
from spec_opt.results import statistics
from spec_opt.results.recommend import Recommendation
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import numbers, percent, plural

READING = {
    "pareto_frontier": "Each diamond is a setting that no other beats in both objectives. "
    "Between them the line shows the lowest MSE at that acceptance or more.",
    "acceptance_vs_mse": "Every trial. Bars are one standard error over the windows.",
    "acceptance_heatmap": "How much sigma and bias let through.",
    "mse_heatmap": "What it costs in error. A wide range within a cell means that k matters there.",
    "k_effect": "More proposals per round: fewer verifications if they are accepted.",
    "acceptance_by_position": "Whether later proposals of a round are accepted less often.",
    "speedup_vs_mse": "What the cost model expects of each setting, and what was measured.",
}
"""How to read each figure, in a sentence."""

MOST_ROWS = 25
"""Rows of the front shown on the page; results.csv has them all."""


def page(
    table: StudyTable,
    recommendations: Sequence[Recommendation],
    drawn: dict[str, go.Figure],
    *,
    thresholds: RecommendConfig | None,
    storage: str,
    command: str,
) -> str:
    """The whole page. `storage` must be free of passwords."""
    limits = thresholds or (table.config.recommend if table.config else RecommendConfig())
    sections = [
        _head(table),
        _recommended(table, recommendations),
        *(_figure(name, figure) for name, figure in drawn.items() if name == "pareto_frontier"),
        _front(table),
        *(_figure(name, figure) for name, figure in drawn.items() if name != "pareto_frontier"),
        _tops(table, limits),
        _values(table, limits),
        _influence(table),
        _failures(table),
        _origin(table, storage, command),
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
        facts += _conditions(table.config)
    if table.baseline is not None:
        facts.append(
            f"target alone: MSE {table.baseline.target_mse:.4f}, "
            f"draft alone: MSE {table.baseline.draft_mse:.4f}"
        )
    elif table.target_mse is not None:
        facts.append(f"target alone: MSE {table.target_mse:.4f}")
    if table.imported:
        facts.append(f"{table.imported} imported")
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f'<header><h1>{escape(table.name)}</h1><ul class="facts">{items}</ul></header>'


def _conditions(config: StudyConfig) -> list[str]:
    data = config.data
    return [
        f"{data.source}, {data.split} split, context {data.context}, horizon {data.horizon}",
        f"rule {config.decoding.rule}",
    ]


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
    own = [c for c in recommendation.cautions + recommendation.advice if c not in common]
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
        pairs.append(("speedup, measured", f"{measured.speedup:.2f}x"))
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


def _front(table: StudyTable) -> str:
    members = statistics.noise_aware_front(table)
    if not members:
        return ""
    shown: set[int] = set()
    distinct = []
    for member in members:
        if not shown.intersection(member.equal_to):
            distinct.append(member)
        shown.add(member.point.number)
    rows = [(*_cells(m.point), _standing(m)) for m in distinct[:MOST_ROWS]]
    more = len(distinct) - MOST_ROWS
    note = (
        "Clear: better than every other trial in one objective by more than two standard errors. "
        "Tie: the noise of measuring could undo its place."
    )
    if more > 0:
        note += f" {more} more are in results.csv."
    columns = (*_COLUMNS, "standing")
    return (
        f"<section><h2>The front</h2><p class='note'>{note}</p>"
        f"{_html_table(columns, rows)}</section>"
    )


def _standing(member: statistics.FrontMember) -> str:
    words: str = "" if member.standing == "unknown" else member.standing
    if member.tied_with:
        words += f" with {_trials(member.tied_with)}"
    if member.equal_to:
        words += f"; same values in {_trials(member.equal_to)}"
    return words.lstrip("; ")


def _trials(found: Sequence[int]) -> str:
    return f"{len(found)} others" if len(found) > 3 else f"trial {numbers(found)}"


_COLUMNS = ("trial", "sigma", "bias", "k", "acceptance", "MSE")


def _cells(point: Point) -> tuple[str, ...]:
    result, setting = point.result, point.setting
    acceptance, mse = percent(result.acceptance_rate), f"{result.mse:.4f}"
    if result.acceptance_se:
        acceptance += f" ± {100 * result.acceptance_se:.1f}"
    if result.mse_se is not None:
        mse += f" ± {result.mse_se:.4f}"
    return (
        str(point.number),
        f"{setting.sigma:.4g}",
        f"{setting.bias:.4g}",
        str(setting.k),
        acceptance,
        mse,
    )


def _tops(table: StudyTable, limits: RecommendConfig) -> str:
    if not table.points:
        return ""
    lists = (
        ("Highest acceptance", statistics.top_by_acceptance(table)),
        ("Lowest MSE", statistics.top_by_mse(table)),
        ("Best balanced", statistics.best_balanced(table, limits, 5)),
    )
    parts = []
    for title, points in lists:
        body = _html_table(_COLUMNS, [_cells(p) for p in points]) if points else "<p>none</p>"
        parts.append(f"<h3>{title}</h3>{body}")
    return f"<section><h2>The best of each kind</h2>{''.join(parts)}</section>"


def _values(table: StudyTable, limits: RecommendConfig) -> str:
    if not table.points:
        return ""
    rows = [
        (
            v.parameter,
            v.label,
            str(v.trials),
            f"{percent(v.acceptance_rate.mean)} ({percent(v.acceptance_rate.lowest)} to "
            f"{percent(v.acceptance_rate.highest)})",
            f"{v.mse.mean:.4f} ({v.mse.lowest:.4f} to {v.mse.highest:.4f})",
            str(v.on_front),
            v.verdict,
        )
        for v in statistics.by_value(table, limits)
    ]
    columns = ("parameter", "value", "trials", "acceptance", "MSE", "on the front", "good")
    return (
        "<section><h2>Is one value consistently good?</h2><p class='note'>Good: within the bounds "
        f"of the balanced scenario.</p>{_html_table(columns, rows)}</section>"
    )


def _influence(table: StudyTable) -> str:
    if not table.points:
        return ""
    shares = {o: statistics.importances(table.points, o) for o in statistics.OBJECTIVES}
    found = {(c.parameter, c.objective): c.pearson for c in statistics.correlations(table.points)}
    rows = []
    for parameter in statistics.PARAMETERS:
        row = [parameter]
        for objective in statistics.OBJECTIVES:
            share = (shares[objective] or {}).get(parameter)
            row.append("–" if share is None else percent(share))
            r = found[parameter, objective]
            row.append("–" if r is None else f"{r:+.2f}")
        rows.append(tuple(row))
    columns = ("parameter", "for acceptance", "correlation", "for MSE", "correlation")
    return (
        "<section><h2>Which parameter matters</h2><p class='note'>Importance: share of the "
        "differences between trials that a random forest puts down to it (needs "
        f"{statistics.ENOUGH_FOR_IMPORTANCE} trials). Correlation: Pearson's r, blind to "
        f"thresholds.</p>{_html_table(columns, rows)}</section>"
    )


def _failures(table: StudyTable) -> str:
    failed = [row for row in table.trials if row.state == "fail"]
    if not failed:
        return ""
    rows = [
        (str(row.number), str(row.setting or ""), row.error or "no reason was left")
        for row in failed[:MOST_ROWS]
    ]
    return (
        f"<section><h2>{plural(len(failed), 'failed trial')}</h2>"
        f"{_html_table(('trial', 'setting', 'error'), rows)}</section>"
    )


def _origin(table: StudyTable, storage: str, command: str) -> str:
    rows = [("command", command), ("storage", storage)]
    if table.fingerprints is not None:
        rows += [(f"{name} fingerprint", text) for name, text in asdict(table.fingerprints).items()]
    rows += list(table.versions.items())
    return f"<footer><h2>How it was made</h2>{_html_table(('', ''), rows)}</footer>"


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ""
    if any(columns):
        head = f"<thead><tr>{''.join(f'<th>{escape(c)}</th>' for c in columns)}</tr></thead>"
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
