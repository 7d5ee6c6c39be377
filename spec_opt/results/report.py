"""`reports/<study>/`: one HTML page that opens offline, the tables as files, a summary to paste.

The tables of a report's page, as HTML.

The HTML page of a report: everything inlined, no request leaves it, light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from spec_opt.config.study_file import RecommendConfig
from spec_opt.errors import WorkError
from spec_opt.results import statistics
from spec_opt.results.export import csv_of, parquet_of, write_atomically
from spec_opt.results.figures import figures, write_pngs
from spec_opt.results.recommend import Recommendation, limits_of, recommend_all
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.table import Point, StudyTable, frame_of
from spec_opt.results.wording import (
    acceptance_text,
    exact,
    mse_text,
    numbers,
    percent,
    plural,
    setting_cells,
)
from spec_opt.study.store import parse_url

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 25
"""Rows of a list shown on the page; results.csv has them all."""


def front_table(table: StudyTable) -> str:
    """The front, one row for equal results, with the standing of each."""
    members = statistics.noise_aware_front(table)
    if not members:
        return ""
    rows = [(*cells(m.points[0]), _standing(m)) for m in members[:MOST_ROWS]]
    more = len(members) - MOST_ROWS
    note = (
        "Clear: no other trial could be at least as good in both objectives within two standard "
        "errors of the difference, window by window. Tie: another could. The error beside an MSE "
        "is mostly shared by all trials: it says what other windows might give."
    )
    if more > 0:
        note += f" {more} more are in results.csv."
    columns = (*COLUMNS, "standing")
    return (
        f"<section><h2>The front</h2><p class='note'>{note}</p>"
        f"{_html_table(columns, rows)}</section>"
    )


def _standing(member: statistics.FrontMember) -> str:
    words: str = "" if member.standing == "unknown" else member.standing
    if member.tied_with:
        words += f" with {_trials(member.tied_with)}"
    if len(member.points) > 1:
        words += f"; same values in {_trials([p.number for p in member.points[1:]])}"
    return words.lstrip("; ")


def _trials(found: Sequence[int]) -> str:
    return f"{len(found)} others" if len(found) > 3 else f"trial {numbers(found)}"


COLUMNS = ("trial", "sigma", "bias", "k", "acceptance", "MSE")


def cells(point: Point) -> tuple[str, ...]:
    """A trial under `COLUMNS`."""
    outcome = acceptance_text(point.result), mse_text(point.result)
    return (str(point.number), *setting_cells(point.setting), *outcome)


SPREAD_COLUMNS = ("", "lowest", "median", "mean", "highest")


def spread_rows(table: StudyTable) -> list[tuple[str, ...]]:
    """How the results lie, under `SPREAD_COLUMNS`."""
    looks = {
        "acceptance_rate": ("acceptance", percent),
        "mse": ("MSE", "{:.4f}".format),
        "evaluation_seconds": ("seconds of measuring", "{:.3g}".format),
    }
    return [
        (looks[name][0], *(looks[name][1](value) for value in astuple(spread)))
        for name, spread in statistics.spreads(table.points).items()
    ]


def best_lists(table: StudyTable, limits: RecommendConfig) -> dict[str, tuple[Point, ...]]:
    """The best five of each kind."""
    return {
        "Highest acceptance": statistics.top_by_acceptance(table),
        "Lowest MSE": statistics.top_by_mse(table),
        "Best balanced": statistics.best_balanced(table, limits, 5),
    }


def best_tables(table: StudyTable, limits: RecommendConfig) -> str:
    """How the results lie, and the best of them."""
    if not table.points:
        return ""
    parts = [f"<h2>The results</h2>{_html_table(SPREAD_COLUMNS, spread_rows(table))}"]
    for title, points in best_lists(table, limits).items():
        body = _html_table(COLUMNS, [cells(p) for p in points]) if points else "<p>none</p>"
        parts.append(f"<h3>{title}</h3>{body}")
    return f"<section>{''.join(parts)}</section>"


def value_table(table: StudyTable, limits: RecommendConfig) -> str:
    """Whether one value of a parameter is good whatever the others are."""
    if not table.points:
        return ""
    rows = [
        (
            v.bin.parameter,
            v.bin.label,
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


def influence_table(table: StudyTable) -> str:
    """Importance and correlation of each parameter, for each objective."""
    if not table.points:
        return ""
    shares = {o: statistics.importances(table.points, o) for o in statistics.OBJECTIVES}
    found = statistics.correlations(table.points)
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


def failure_table(table: StudyTable) -> str:
    """The failed trials and why; nothing if there are none."""
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


def origin_table(table: StudyTable, storage: str, command: str) -> str:
    """What it takes to make the report again."""
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


OLD_COLUMNS = (
    "sigma",
    "bias",
    "k",
    "mse",
    "mae",
    "acceptance_pct",
    "accepted",
    "attempted",
    "total_time_s",
)
"""The columns of the old sweep script, in its order: what reads its table reads results.csv."""


@dataclass(frozen=True)
class Report:
    """What was written, and why there are no PNGs if they were asked for and could not be made."""

    files: tuple[Path, ...]
    png_problem: str | None


def write_report(
    table: StudyTable,
    folder: Path,
    *,
    storage: str,
    command: str,
    thresholds: RecommendConfig | None = None,
    png: bool = False,
) -> Report:
    """Write report.html, results.csv, results.parquet, summary.md, and with `png` the figures.

    Each file is written whole or not at all. A study without results gives a report that says so.

    Args:
        table: The study.
        folder: Made if it is missing.
        storage: URL of the store; written without its password.
        command: The command line that asked for the report.
        thresholds: `[recommend]`, as for `recommend`.
        png: Also write each figure as a picture; without a browser for it, the rest is still
            written and `Report.png_problem` says what is missing.

    Raises:
        InputError: the folder cannot be written.
    """
    limits = limits_of(table, thresholds)
    recommendations = recommend_all(table, limits)
    drawn = figures(table, recommendations)
    results = results_frame(table)
    html = page(
        table,
        recommendations,
        drawn,
        limits=limits,
        storage=parse_url(storage).masked,
        command=command,
    )
    contents = {
        "report.html": html.encode(),
        "results.csv": csv_of(results),
        "results.parquet": parquet_of(results),
        "summary.md": summary(table, recommendations, limits).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    files = [folder / name for name in contents]
    problem = None
    if png:
        try:
            files += write_pngs(drawn, folder)
        except WorkError as error:
            problem = str(error)
    return Report(tuple(files), problem)


def results_frame(table: StudyTable) -> pd.DataFrame:
    """The completed trials by number: the nine columns of the old script first, then ours."""
    frame = frame_of(table)
    done = frame[frame["acceptance_rate"].notna() & (frame["state"] == "complete")]
    old = done[["sigma", "bias", "k", "mse", "mae"]].copy()
    old["acceptance_pct"] = (100 * done["acceptance_rate"]).round(6)
    old["accepted"] = done["accepted"]
    old["attempted"] = done["tested"]
    old["total_time_s"] = done["total_time_s"].fillna(done["evaluation_seconds"])
    ours = done.drop(columns=[name for name in done.columns if name in OLD_COLUMNS])
    return old.join(ours).reset_index(drop=True)


def summary(
    table: StudyTable, recommendations: Sequence[Recommendation], limits: RecommendConfig
) -> str:
    """Markdown to paste into a results file: the guide's closing lines, then what led to them."""
    lines = [f"# {table.name}", ""]
    best = closing_choice(recommendations)
    lines += _closing_lines(table, best) if best else ["No setting meets any of the scenarios."]
    lines += [
        "",
        f"{len(table.front)} Pareto trials of {len(table.points)} completed.",
        "",
        *_markdown(SCENARIO_COLUMNS, [_row(recommendation) for recommendation in recommendations]),
    ]
    common = common_sentences(recommendations)
    for r in recommendations:
        body = [part for part in (r.why, r.close, r.would_change) if part]
        lines += ["", f"## {TITLES[r.scenario]}", "", " ".join(body)]
        own = r.own(common)
        lines += ["", *(f"- {sentence}" for sentence in own)] if own else []
    if common:
        lines += ["", "## Know before you use it", "", *(f"- {sentence}" for sentence in common)]
    if table.points:
        lines += ["", "## The results", "", *_markdown(SPREAD_COLUMNS, spread_rows(table))]
        for title, points in best_lists(table, limits).items():
            rows = [cells(point) for point in points]
            lines += ["", f"## {title}", "", *(_markdown(COLUMNS, rows) if rows else ["none"])]
    return "\n".join(lines) + "\n"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(row)} |" for row in table]


def closing_choice(recommendations: Sequence[Recommendation]) -> Recommendation | None:
    """The one that stands for the study: balanced, else quality, else speed."""
    met = {r.scenario: r for r in recommendations if r.point is not None}
    return met.get("balanced") or met.get("quality") or met.get("speed")


def _closing_lines(table: StudyTable, best: Recommendation) -> list[str]:
    assert best.point is not None
    setting, result = best.point.setting, best.point.result
    measured = table.measured_speedup(best.point.number)
    if measured is not None and measured.speedup is not None:
        where = f"{measured.device}, batch size {measured.batch_size}"
        speedup = f"{measured.speedup:.2f}x at best ({where})"
    elif result.predicted_speedup is not None:
        speedup = f"not measured (predicted {result.predicted_speedup:.2f}x)"
    else:
        speedup = "not measured"
    return [
        f"Optimal ({best.scenario}): sigma={exact(setting.sigma)}, bias={exact(setting.bias)}, "
        f"k={setting.k}",
        f"Acceptance: {percent(result.acceptance_rate)}, MSE: {result.mse:.4f}, Speedup: {speedup}",
        "",
        f"    {flags(setting)}",
    ]


SCENARIO_COLUMNS = ("scenario", "setting", "acceptance", "MSE", "of the target's MSE", "trial")


def _row(recommendation: Recommendation) -> tuple[str, ...]:
    point, ratio = recommendation.point, recommendation.mse_ratio
    if point is None:
        return recommendation.scenario, "none meets it", "", "", "", ""
    return (
        recommendation.scenario,
        str(point.setting),
        percent(point.result.acceptance_rate),
        f"{point.result.mse:.4f}",
        "" if ratio is None else f"{ratio:.3f}",
        str(point.number),
    )
