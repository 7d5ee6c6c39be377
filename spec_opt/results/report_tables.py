"""The tables of a report's page, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from html import escape

from spec_opt.config import RecommendConfig
from spec_opt.results import statistics
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import (
    acceptance_text,
    mse_text,
    numbers,
    percent,
    plural,
    setting_cells,
)

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
