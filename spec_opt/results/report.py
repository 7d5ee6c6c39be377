"""`reports/<study>/`: a page that opens offline, the results as tables, a summary to paste."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
from spec_opt.results.document import (
    Block,
    Bullets,
    Plot,
    Section,
    Table,
    Text,
    as_html,
    as_markdown,
)
from spec_opt.results.export import csv_of, parquet_of, write_atomically
from spec_opt.results.figures import figures, write_pngs
from spec_opt.results.recommend import Recommendation, limits_of, recommend_all
from spec_opt.results.render import COLUMNS, cells, choices, flags
from spec_opt.results.table import Point, StudyTable, frame_of
from spec_opt.results.wording import exact, numbers, percent, plural
from spec_opt.study.store import parse_url

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 25
"""Rows of a list shown on the page; results.csv has them all."""

OLD_COLUMNS = (
    "sigma", "bias", "k", "mse", "mae", "acceptance_pct", "accepted", "attempted", "total_time_s",
)  # fmt: skip
"""The columns of the old sweep script, in its order: its readers can read results.csv."""


@dataclass(frozen=True)
class Report:
    """What was written; `png_problem` says why PNGs that were asked for are missing."""

    files: tuple[Path, ...]
    png_problem: str | None


def write_report(
    table: StudyTable,
    folder: Path | None = None,
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
        folder: Made if it is missing; by default reports/<study>.
        storage: URL of the store; written without its password.
        command: The command line that asked for the report.
        thresholds: `[recommend]`, as for `recommend`.
        png: Also write each figure as a picture; without a browser to draw them, the rest is still
            written and `Report.png_problem` says what is missing.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = folder or Path("reports") / table.name
    limits = limits_of(table, thresholds)
    recommendations = recommend_all(table, limits)
    drawn = figures(table, recommendations)
    front, *others = (_figure(name, figure) for name, figure in drawn.items())
    blocks: list[Block] = [_header(table)]
    blocks.append(
        Section([Text("Which setting to use", "heading"), *choices(recommendations, table)])
    )
    if table.points:
        tables = (_results(table, limits), _values(table, limits), _influences(table))
        blocks += [front, _front(table), *others, *tables]
    else:
        blocks += [front, *others]
    blocks += [*_failures(table), _origin(table, parse_url(storage).masked, command)]
    results = results_frame(table)
    contents = {
        "report.html": _page(f"{table.name}: spec-opt report", blocks).encode(),
        "results.csv": csv_of(results),
        "results.parquet": parquet_of(results),
        "summary.md": summary(table, recommendations, limits).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    written = [folder / name for name in contents]
    if not png:
        return Report(tuple(written), None)
    try:
        return Report((*written, *write_pngs(drawn, folder)), None)
    except WorkError as error:
        return Report(tuple(written), str(error))


def summary(
    table: StudyTable, recommendations: Sequence[Recommendation], limits: RecommendConfig
) -> str:
    """Markdown to paste into a results file: the guide's closing lines, then what led to them."""
    blocks: list[Block] = [Text(table.name, "title")]
    best = closing_choice(recommendations)
    if best is None or best.point is None:
        blocks.append(Text("No setting meets any of the scenarios."))
    else:
        blocks.append(Text(_closing_lines(table, best.scenario, best.point)))
        blocks.append(Text(flags(best.point.setting), "code"))
    count = f"{len(table.front)} Pareto trials of {len(table.points)} completed."
    blocks += [Text(count), Text("Which setting to use", "heading")]
    blocks += choices(recommendations, table)
    if table.points:
        blocks.append(_results(table, limits))
    return f"{as_markdown(blocks)}\n"


def closing_choice(recommendations: Sequence[Recommendation]) -> Recommendation | None:
    """The one that stands for the study: balanced, else quality, else speed."""
    met = {r.scenario: r for r in recommendations if r.point is not None}
    return met.get("balanced") or met.get("quality") or met.get("speed")


def _closing_lines(table: StudyTable, scenario: str, point: Point) -> str:
    setting, result = point.setting, point.result
    measured, speedup = table.measured_speedup(point.number), "not measured"
    if measured is not None:
        where = f"{measured.device}, batch size {measured.batch_size}"
        speedup = f"{measured.speedup:.2f}x at best ({where})"
    elif result.predicted_speedup is not None:
        speedup += f" (predicted {result.predicted_speedup:.2f}x)"
    sigma, bias = exact(setting.sigma), exact(setting.bias)
    return (
        f"Optimal ({scenario}): sigma={sigma}, bias={bias}, k={setting.k}\n"
        f"Acceptance: {percent(result.acceptance_rate)}, MSE: {result.mse:.4f}, Speedup: {speedup}"
    )


def _header(table: StudyTable) -> Section:
    states = ", ".join(f"{count} {state}" for state, count in sorted(table.states.items()))
    facts = [plural(len(table.trials), "trial") + (f" ({states})" if states else "")]
    if table.config is not None:
        data = table.config.data
        facts += [
            f"{data.source}, {data.split} split, context {data.context}, horizon {data.horizon}",
            f"rule {table.config.decoding.rule}",
        ]
    facts += [f"{name}: MSE {mse:.4f}" for name, mse in table.levels.items()]
    if table.imported:
        facts.append(f"{table.imported} imported")
    return Section((Text(table.name, "title"), Bullets(tuple(facts))), "header")


def _figure(name: str, figure: go.Figure) -> Section:
    """A figure whose title is part of the page's text, where it can wrap on a phone."""
    title, subtitle = figure.layout.title.text, figure.layout.title.subtitle.text or ""
    note = f"{figure.layout.meta} {subtitle[:1].upper()}{subtitle[1:]}{'.' if subtitle else ''}"
    shown = go.Figure(figure).update_layout(
        title=None, margin={"t": 16, "l": 8, "r": 12}, paper_bgcolor="rgba(0,0,0,0)"
    )
    return Section((Text(title, "heading"), Text(note, "note"), Plot(name, shown)), "figure")


def _front(table: StudyTable) -> Section:
    """The front, one row for equal results, with the standing of each."""
    members = statistics.noise_aware_front(table)
    note = (
        "Clear: no other trial could be at least as good in both objectives, by the 95 % interval "
        "of the difference. Tie: another could. The interval beside an MSE is mostly shared by all "
        "trials: it says what other windows might give."
    )
    if len(members) > MOST_ROWS:
        note += f" {len(members) - MOST_ROWS} more are in results.csv."
    rows = [(*cells(m.points[0]), _standing(m)) for m in members[:MOST_ROWS]]
    return _listing("The front", note, (*COLUMNS, "standing"), rows)


def _listing(
    title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Section:
    return Section((Text(title, "heading"), Text(note, "note"), Table(columns, rows)))


def _standing(member: statistics.FrontMember) -> str:
    words = []
    if member.standing != "unknown":
        tied = f" with {_trials(member.tied_with)}" if member.tied_with else ""
        words.append(f"{member.standing}{tied}")
    if len(member.points) > 1:
        words.append(f"same values in {_trials([p.number for p in member.points[1:]])}")
    return "; ".join(words)


def _trials(found: Sequence[int]) -> str:
    return f"{len(found)} others" if len(found) > 3 else f"trial {numbers(found)}"


def _results(table: StudyTable, limits: RecommendConfig) -> Section:
    """How the results are distributed, and the best of them."""
    looks = {
        "acceptance_rate": ("acceptance", percent),
        "mse": ("MSE", "{:.4f}".format),
        "evaluation_seconds": ("seconds of measuring", "{:.3g}".format),
    }
    rows = [
        (looks[name][0], *map(looks[name][1], astuple(spread)))
        for name, spread in statistics.spreads(table.points).items()
    ]
    blocks: list[Block] = [Text("The results", "heading")]
    blocks.append(Table(("", "lowest", "median", "mean", "highest"), rows))
    best = {
        "Highest acceptance": statistics.top_by_acceptance(table),
        "Lowest MSE": statistics.top_by_mse(table),
        "Best balanced": statistics.best_balanced(table, limits, 5),
    }
    for title, points in best.items():
        found = Table(COLUMNS, [cells(p) for p in points]) if points else Text("none")
        blocks += [Text(title, "subheading"), found]
    return Section(blocks)


def _values(table: StudyTable, limits: RecommendConfig) -> Section:
    """Whether one value of a parameter is good whatever the others are."""
    note = "Good: within the bounds of the balanced scenario."
    columns = ("parameter", "value", "trials", "acceptance", "MSE", "on the front", "good")
    rows = []
    for v in statistics.by_value(table, limits):
        ranges = _range(v.acceptance_rate, percent), _range(v.mse, "{:.4f}".format)
        counts = str(v.trials), *ranges, str(v.on_front)
        rows.append((v.bin.parameter, v.bin.label, *counts, v.verdict))
    return _listing("Is one value consistently good?", note, columns, rows)


def _range(spread: statistics.Spread, show: Callable[[float], str]) -> str:
    return f"{show(spread.mean)} ({show(spread.lowest)} to {show(spread.highest)})"


def _influences(table: StudyTable) -> Section:
    """Importance and correlation of each parameter, for each objective."""
    note = (
        "Importance: the share of the differences between trials that a random forest attributes "
        f"to it (needs {statistics.ENOUGH_FOR_IMPORTANCE} trials). Correlation: Pearson's r, which "
        "does not see thresholds."
    )
    columns = ("parameter", "for acceptance", "correlation", "for MSE", "correlation")
    shares = {o: statistics.importances(table.points, o) for o in statistics.OBJECTIVES}
    correlations = statistics.correlations(table.points)
    rows = []
    for parameter in statistics.PARAMETERS:
        row = [parameter]
        for objective in statistics.OBJECTIVES:
            share = (shares[objective] or {}).get(parameter)
            r = correlations[parameter, objective]
            row += ["–" if share is None else percent(share), "–" if r is None else f"{r:+.2f}"]
        rows.append(row)
    return _listing("Which parameter matters", note, columns, rows)


def _failures(table: StudyTable) -> list[Section]:
    """The failed trials and why; nothing if there are none."""
    failed = [row for row in table.trials if row.state == "fail"]
    rows = [
        (str(row.number), str(row.setting or ""), row.error or "no reason was stored")
        for row in failed[:MOST_ROWS]
    ]
    title = plural(len(failed), "failed trial")
    listed = Section((Text(title, "heading"), Table(("trial", "setting", "error"), rows)))
    return [listed] if failed else []


def _origin(table: StudyTable, storage: str, command: str) -> Section:
    """What it takes to make the report again."""
    rows = [("command", command), ("storage", storage)]
    if table.fingerprints is not None:
        rows += [(f"{name} fingerprint", text) for name, text in asdict(table.fingerprints).items()]
    rows += table.versions.items()
    return Section((Text("How it was made", "heading"), Table(("", ""), rows)), "footer")


def _page(title: str, blocks: Sequence[Block]) -> str:
    """A page with everything in it, so that no request leaves it; light and dark."""
    assets = files("spec_opt.results") / "assets"
    parts = {
        "title": escape(title),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
        "body": as_html(blocks),
        "plotly": get_plotlyjs(),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # In one pass: text that looks like a place to fill stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def results_frame(table: StudyTable) -> pd.DataFrame:
    """The completed trials by number: the nine columns of the old script first, then ours."""
    frame = frame_of(table)
    done = frame[frame["acceptance_rate"].notna() & (frame["state"] == "complete")]
    old = done[["sigma", "bias", "k", "mse", "mae"]].assign(
        acceptance_pct=(100 * done["acceptance_rate"]).round(6),
        accepted=done["accepted"],
        attempted=done["tested"],
        total_time_s=done["total_time_s"].fillna(done["evaluation_seconds"]),
    )
    ours = done.drop(columns=[name for name in done.columns if name in OLD_COLUMNS])
    return old.join(ours).reset_index(drop=True)
