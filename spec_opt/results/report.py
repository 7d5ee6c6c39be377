"""`reports/<study>/`: one HTML page that opens offline, the tables as files, a summary to paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_opt.config import RecommendConfig
from spec_opt.errors import WorkError
from spec_opt.results.export import csv_of, parquet_of, write_atomically
from spec_opt.results.frame import frame_of
from spec_opt.results.plots import figures, write_pngs
from spec_opt.results.recommend import Recommendation, limits_of, recommend_all
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.report_page import page
from spec_opt.results.report_tables import (
    COLUMNS,
    SPREAD_COLUMNS,
    best_lists,
    cells,
    spread_rows,
)
from spec_opt.results.table import StudyTable
from spec_opt.results.wording import exact, percent
from spec_opt.tuning.store_url import parse_url

if TYPE_CHECKING:
    import pandas as pd

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
