"""`reports/<study>/`: a page that opens offline, the results as tables, a summary to paste."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from spec_opt.config.files import write_file
from spec_opt.config.variants import AS_WRITTEN
from spec_opt.errors import WorkError
from spec_opt.results import statistics
from spec_opt.results.document import (
    Block,
    Bullets,
    Contents,
    Plot,
    Section,
    Table,
    Text,
    as_markdown,
    page,
)
from spec_opt.results.drafts import draft_blocks, fronts_by_draft
from spec_opt.results.export import csv_of, parquet_of
from spec_opt.results.figures import figures, write_pngs
from spec_opt.results.frame import frame_of
from spec_opt.results.recommend import Recommendation, closing_choice, recommend_all
from spec_opt.results.render import advice, banner, flags, heading_of, schedule_blocks
from spec_opt.results.schedule import schedule_of
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.verdict import Verdict, verdict_of
from spec_opt.results.wording import (
    exact,
    levels_text,
    none_feasible,
    numbers,
    percent,
    plural,
    precise,
)
from spec_opt.results.words import words
from spec_opt.study.database import parse_url
from spec_opt.study.reading import without_collection

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 25
"""Rows of a list shown on the page; results.csv has them all."""

OLD_COLUMNS = (
    "sigma", "bias", "k", "mse", "mae", "acceptance_pct", "accepted", "attempted", "total_time_s",
)  # fmt: skip
"""The columns of the old sweep script, in its order: its readers can read results.csv."""

COLUMNS = (
    "trial", "sigma", "bias", "k", "acceptance %", "±", "MSE", "±", "MSE / target's",
    "patches per round", "speedup", "at batch size", "trials",
)  # fmt: skip
"""Of distinct results, with six digits: these tables are copied."""


@dataclass(frozen=True)
class Report:
    """What was written; `png_problem` says why PNGs that were asked for are missing."""

    files: tuple[Path, ...]
    png_problem: str | None


@without_collection()
def write_report(
    table: StudyTable,
    folder: Path | None = None,
    *,
    storage: str,
    command: str,
    png: bool = False,
) -> Report:
    """Write report.html, results.csv, results.parquet, summary.md, and with `png` the figures.

    Each file is written whole or not at all. A study without results gives a report that says so.

    Args:
        table: The study.
        folder: Made if it is missing; by default reports/<study>.
        storage: URL of the store; written without its password.
        command: The command line that asked for the report.
        png: Also write each figure as a picture; without a browser to draw them, the rest is still
            written and `Report.png_problem` says what is missing.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = folder or Path("reports") / table.name
    recommendations, verdict = recommend_all(table), verdict_of(table)
    drawn, found = figures(table, recommendations), result_blocks(table)
    parts = _parts(table, recommendations, drawn, verdict, found)
    parts["How it was made"] = [_origin(table, parse_url(storage).masked, command)]
    blocks: list[Block] = [
        Text(f"spec-opt report: {table.name}", "title"),
        banner(verdict, table),
        Text(_outline(table), "note"),
        Contents([*parts]),
        *(Section([Text(title, "heading"), *part]) for title, part in parts.items()),
        words(),
    ]
    results = results_frame(table)
    contents = {
        "report.html": page(f"{table.name}: spec-opt report", blocks).encode(),
        "results.csv": csv_of(results),
        "results.parquet": parquet_of(results),
        "summary.md": summary(table, verdict, recommendations, found).encode(),
    }
    for name, content in contents.items():
        write_file(folder / name, content)
    written = [folder / name for name in contents]
    if not png:
        return Report(tuple(written), None)
    try:
        return Report((*written, *write_pngs(drawn, folder)), None)
    except WorkError as error:
        return Report(tuple(written), str(error))


def summary(
    table: StudyTable,
    verdict: Verdict,
    recommendations: Sequence[Recommendation],
    found: Sequence[Block],
) -> str:
    """Markdown to paste: the verdict, the guide's closing lines, then what led to them.

    Args:
        found: `result_blocks`.
    """
    heading = Text(heading_of(verdict), "heading")
    blocks: list[Block] = [Text(table.name, "title"), banner(verdict, table), heading]
    best = closing_choice(recommendations)
    if best is None or best.point is None:
        blocks.append(Text("No setting meets any of the scenarios."))
    else:
        blocks.append(Text(_closing_lines(table, best.scenario, best.point)))
        blocks.append(Text(flags(best.point.setting), "code"))
    count = f"{len(table.front)} Pareto trials of {len(table.points)} completed."
    blocks.append(Text(f"{count} {levels_text(table)}".rstrip()))
    blocks += _advice(table, recommendations, verdict)
    if drafts := draft_blocks(table):
        blocks += [Text("Drafts", "heading"), *drafts]
    blocks += found
    return f"{as_markdown(blocks)}\n"


def _closing_lines(table: StudyTable, scenario: str, point: Point) -> str:
    setting, result = point.setting, point.result
    measured, speedup = table.measured_speedup(point.number), "not measured"
    if measured is not None:
        where = f"{measured.device}, batch size {measured.batch_size}"
        speedup = f"{measured} at best ({where})"
    elif result.predicted_speedup is not None:
        speedup += f" (predicted {result.predicted_speedup:.2f}x)"
    sigma, bias = exact(setting.sigma), exact(setting.bias)
    lines = [
        f"Optimal ({scenario}): sigma={sigma}, bias={bias}, k={setting.k}",
        f"Acceptance: {percent(result.acceptance_rate)}, MSE: {result.mse:.4f}, Speedup: {speedup}",
    ]
    if point.draft_path is not None:
        made = f"{point.variant}, " if point.variant != AS_WRITTEN else ""
        lines.append(f"Draft: {made}{point.draft_path}")
    return "\n".join(lines)


def _parts(
    table: StudyTable,
    recommendations: Sequence[Recommendation],
    drawn: dict[str, go.Figure],
    verdict: Verdict,
    results: Sequence[Block],
) -> dict[str, Sequence[Block]]:
    """The parts of the page by their headings: the front and what to use, then all there is."""
    shown = (_figure(*item) for item in drawn.items())
    front, load, speedup, scatter, *heatmaps, k, position, volume = shown
    pairs = Section(heatmaps, "pair"), Section([k, position], "pair")
    schedule = schedule_of(table)
    drawn_load = [load] if schedule.unknown is None else []  # an empty figure would say it again
    fronts = fronts_by_draft(table)
    drafts = [] if fronts is None else [_figure("fronts_by_draft", fronts), *draft_blocks(table)]
    parts: dict[str, Sequence[Block]] = {
        "Pareto front": [front, *_front(table)],
        heading_of(verdict): _advice(table, recommendations, verdict),
        "Drafts": drafts,
        "A k for each batch size": [*drawn_load, *schedule_blocks(schedule)],
        "Figures": [speedup, scatter, *pairs, volume],
        "Results": results,
        "Failed trials": _failures(table),
    }
    return {heading: blocks for heading, blocks in parts.items() if blocks}


def _outline(table: StudyTable) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(table.states.items()))
    facts = [plural(len(table.trials), "trial") + (f" ({states})" if states else "")]
    if table.config is not None:
        data = table.config.data
        facts.append(f"{data.source}, {data.split} split, context {data.context}")
        facts.append(f"horizon {data.horizon}, rule {table.config.decoding.rule}")
    if table.imported:
        facts.append(f"{table.imported} imported")
    if table.ended is not None:
        facts.append(f"ended: {table.ended}")
    return f"{', '.join(facts)}."


def _advice(
    table: StudyTable, recommendations: Sequence[Recommendation], verdict: Verdict
) -> list[Block]:
    """The recommendations, and what became of them on other splits."""
    blocks: list[Block] = [*advice(recommendations, table, verdict)]
    if table.judgements:
        found = (f"{j.scenario.replace('_', ' ')}, {j.split} split: {j}" for j in table.judgements)
        again = (Text("Measured again on other splits", "subheading"), Bullets(tuple(found)))
        blocks.append(Section(again))
    return blocks


def _figure(name: str, figure: go.Figure) -> Section:
    """A figure whose title is part of the page's text, where it can wrap on a phone."""
    title, subtitle = figure.layout.title.text, figure.layout.title.subtitle.text or ""
    note = f"{figure.layout.meta} {subtitle[:1].upper()}{subtitle[1:]}{'.' if subtitle else ''}"
    shown = go.Figure(figure).update_layout(
        title=None, margin={"t": 16, "l": 8, "r": 12}, paper_bgcolor="rgba(0,0,0,0)"
    )
    parts: list[Block] = [Text(title, "subheading"), Text(note, "note"), Plot(name, shown)]
    # The front has the heading of its section.
    return Section(parts[1:] if name == "pareto_frontier" else parts, "figure")


def _front(table: StudyTable) -> list[Block]:
    """The front, one row for equal results, with the standing of each."""
    members = statistics.noise_aware_front(table)
    notes = [f"{name.capitalize()}: MSE {precise(mse)}." for name, mse in table.levels.items()]
    notes.append(
        "± is half of a 95 % interval; that of an MSE is mostly shared by all trials: it says what "
        "other windows might give. Trials: how many have exactly this result. Clear: by the 95 % "
        "interval of the difference, no other result could be at least as good in both objectives. "
        "Tie: another could."
    )
    if not table.in_detail:
        notes.append("In a study of so many trials only those on the front are compared.")
    if len(members) > MOST_ROWS:
        notes.append(f"{len(members) - MOST_ROWS} more are in results.csv.")
    rows = [(*_cells(table, m.points), _standing(m)) for m in members[:MOST_ROWS]]
    if not rows:
        return [Text(none_feasible(table))] if table.points else []
    return [Text(" ".join(notes), "note"), Table((*COLUMNS, "standing"), rows)]


def _cells(table: StudyTable, points: Sequence[Point]) -> tuple[str, ...]:
    """A distinct result under `COLUMNS`, by the mildest of its trials."""
    point, result = points[0], points[0].result
    setting, ci95 = point.setting, result.acceptance_ci95
    measured = table.measured_speedup(point.number)
    speedup, batch_size = "–", ""
    if measured is not None:
        speedup, batch_size = f"{measured} measured", str(measured.batch_size)
    elif result.predicted_speedup is not None:
        speedup = f"{result.predicted_speedup:.2f}x predicted"
        batch_size = str(table.config.decoding.batch_size) if table.config else ""
    return (
        f"{point.number} {point.variant}".rstrip(),
        *map(precise, (setting.sigma, setting.bias, setting.k)),
        precise(100 * result.acceptance_rate),
        precise(None if ci95 is None else 100 * ci95, 2),
        precise(result.mse),
        precise(result.mse_ci95, 2),
        *map(precise, (result.mse_ratio, result.patches_per_round)),
        speedup,
        batch_size,
        str(len(points)),
    )


def _standing(member: statistics.FrontMember) -> str:
    if member.standing == "unknown":
        return "not known"
    others = member.tied_with
    if not others:
        return member.standing
    named = f" (trial {numbers(others)})" if len(others) <= 3 else ""
    return f"{member.standing} with {plural(len(others), 'other result')}{named}"


def result_blocks(table: StudyTable) -> list[Block]:
    """How results are distributed, the best by three measures, and each value of a parameter."""
    spreads = [
        (name, *map(precise, astuple(spread)))
        for name, spread in statistics.spreads(table.points).items()
    ]
    if not spreads:
        return []
    blocks: list[Block] = [Table(("", "lowest", "median", "mean", "highest"), spreads)]
    for title, groups in statistics.best(table).items():
        rows = [_cells(table, points) for points in groups]
        blocks += [Text(title, "subheading"), Table(COLUMNS, rows) if rows else Text("none")]
    return [*blocks, *_values(table)]


def _values(table: StudyTable) -> list[Block]:
    """Whether one value of a parameter is good whatever the others are."""
    columns = ("parameter", "value", "trials", "acceptance", "MSE", "on the front", "good")
    rows = []
    for v in statistics.by_value(table):
        ranges = _range(v.acceptance_rate, percent), _range(v.mse, "{:.4f}".format)
        counts = str(v.trials), *ranges, str(v.on_front)
        rows.append((v.bin.parameter, v.bin.label, *counts, v.verdict))
    title = Text("Is one value consistently good?", "subheading")
    note = Text("Good: within the bounds of the balanced scenario.", "note")
    return [title, note, Table(columns, rows)]


def _range(spread: statistics.Spread, show: Callable[[float], str]) -> str:
    return f"{show(spread.mean)} ({show(spread.lowest)} to {show(spread.highest)})"


def _failures(table: StudyTable) -> list[Block]:
    """The failed trials and why; nothing if there are none."""
    failed = [row for row in table.trials if row.state == "fail"]
    found = [(str(row.number), row.label, row.error or "no reason was stored") for row in failed]
    shown = Table(("trial", "setting", "error"), found[:MOST_ROWS])
    return [Text(f"{len(failed)} failed."), shown] if failed else []


def _origin(table: StudyTable, storage: str, command: str) -> Table:
    """What was measured where, and what it takes to make the report again."""
    finished = [row.finished for row in table.trials if row.finished]
    ends = (f"{f(finished):%Y-%m-%d %H:%M} UTC" for f in (min, max) if finished)
    found = {
        "measured": " to ".join(dict.fromkeys(ends)),
        "machine": _joined(row.worker and row.worker.rsplit(":", 1)[0] for row in table.trials),
        "device": _joined(row.device for row in table.trials),
        "costs learnt on": "; ".join(table.costs),
        "windows": _joined(str(point.result.windows or "") for point in table.points),
        "series": table.series.get("summary", ""),
        "decoding": _decoding(table),
        **{
            f"{role} model": about.get("summary") or _listed(about)
            for role, about in table.models.items()
        },
        "command": command,
        "storage": storage,
    }
    prints = {} if table.fingerprints is None else asdict(table.fingerprints)
    found |= {f"{name} fingerprint": text for name, text in prints.items()} | table.versions
    return Table(("", ""), [(name, text) for name, text in found.items() if text])


def _joined(found: Iterable[str | None]) -> str:
    """The distinct ones."""
    return ", ".join(sorted(filter(None, set(found))))


def _decoding(table: StudyTable) -> str:
    """The settings of `[decoding]` that the measurements depend on."""
    if table.config is None:
        return ""
    decoding = table.config.decoding
    parts = (f"rule {decoding.rule}", f"{decoding.context} context", decoding.precision)
    seeds = f"seed {decoding.seed}"
    if decoding.seeds > 1:
        seeds = f"seeds {decoding.seed} to {decoding.seed + decoding.seeds - 1}"
    return f"{', '.join(parts)}, batch size {decoding.batch_size}, {seeds}"


def _listed(about: object) -> str:
    """A stored value as words."""
    if isinstance(about, dict):
        return ", ".join(f"{name} {_listed(value)}" for name, value in about.items())
    return str(about)


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
