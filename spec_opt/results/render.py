"""Recommendations as text, JSON, TOML or command-line flags, and the Pareto front as text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

from spec_opt.config.study_file import RecommendConfig, Setting
from spec_opt.errors import StudyError
from spec_opt.results.document import Block, Bullets, Facts, Section, Table, Text, as_text
from spec_opt.results.export import document_of
from spec_opt.results.recommend import Recommendation, recommend_all
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import (
    acceptance_text,
    exact,
    mse_text,
    percent,
    relative,
    setting_cells,
)

RecommendFormat = Literal["text", "json", "toml", "flags"]

TITLES = {
    "speed": "Maximize speed",
    "quality": "Maintain quality",
    "balanced": "Balanced",
}
COLUMNS = ("trial", "sigma", "bias", "k", "acceptance", "MSE")


def render(
    recommendations: Sequence[Recommendation],
    style: RecommendFormat,
    *,
    table: StudyTable | None = None,
    width: int | None = None,
) -> str:
    """The recommendations in one format, without a trailing newline.

    Args:
        recommendations: One, or one for each scenario.
        style: The format.
        table: Adds speedups to the text.
        width: Columns of the terminal, for the text.

    Raises:
        StudyError: toml or flags are asked of a single scenario that no trial meets: there is no
            setting to print, and a script must not go on without one.
    """
    if style in ("toml", "flags") and len(recommendations) == 1:
        (only,) = recommendations
        if only.setting is None:
            raise StudyError(f"{only.scenario}: {only.why}")
    if style == "text":
        return as_text(choices(recommendations, table), width)
    if style == "json":
        documents = [as_document(r) for r in recommendations]
        one = documents[0] if len(documents) == 1 else documents
        return json.dumps(one, indent=2, ensure_ascii=False, allow_nan=False)
    parts = (_for_script(r, style, several=len(recommendations) > 1) for r in recommendations)
    return ("\n\n" if style == "toml" else "\n").join(parts)


def choices(
    recommendations: Sequence[Recommendation], table: StudyTable | None = None
) -> tuple[Block, ...]:
    """Each recommendation, then what to know of all of them; `table` adds speedups."""
    lists = [r.cautions + r.advice for r in recommendations]
    common = tuple(s for s in lists[0] if all(s in other for other in lists))
    cards = tuple(_choice(r, common, table) for r in recommendations)
    caution = Section((Text("Know before you use it", "subheading"), Bullets(common)))
    return (Section(cards, "cards"), *((caution,) if common else ()))


def _choice(r: Recommendation, common: Sequence[str], table: StudyTable | None) -> Section:
    answer = "no trial meets this" if r.point is None else f"`{r.point.setting}`"
    blocks: list[Block] = [Text(f"{TITLES[r.scenario]}: {answer}", "subheading")]
    if r.point is not None:
        blocks += [_facts(r.point, r.mse_ratio, table), Text(flags(r.point.setting), "code")]
    blocks.append(Text(r.why))
    details: list[Block] = [Text(text) for text in (r.close, r.would_change) if text]
    summary = "What was close, what would change it" if details else "What to try"
    if own := r.own(common):
        details.append(Bullets(own))
    if details:
        blocks.append(Section(details, summary=summary))
    return Section(blocks, "card")


def _facts(point: Point, mse_ratio: float | None, table: StudyTable | None) -> Facts:
    pairs = [("acceptance", percent(point.result.acceptance_rate))]
    pairs.append(("MSE", f"{point.result.mse:.4f}"))
    if mse_ratio is not None:
        pairs.append(("MSE / target's", f"{mse_ratio:.3f}"))
    if table is not None:
        measured = table.measured_speedup(point.number)
        if measured is not None:
            pairs.append(("best measured speedup", f"{measured.speedup:.2f}x"))
        elif point.result.predicted_speedup is not None:
            pairs.append(("predicted speedup", f"{point.result.predicted_speedup:.2f}x"))
    return Facts((*pairs, ("trial", str(point.number))))


def as_document(recommendation: Recommendation) -> dict[str, Any]:
    """The JSON form; `trial` and its numbers are null where no trial meets the scenario."""
    setting = recommendation.setting
    numbers = ("scenario", "trial", "acceptance_rate", "mse", "mse_ratio")
    words = ("reason", "why", "close", "would_change", "cautions", "advice")
    document = {name: getattr(recommendation, name) for name in numbers + words}
    return document | {"setting": None if setting is None else setting.model_dump()}


def flags(setting: Setting) -> str:
    """The setting as flags of the decoding scripts that the sweep guide uses."""
    return (
        f"--spec_sigma {exact(setting.sigma)} --spec_accept_bias {exact(setting.bias)} "
        f"--spec_k {setting.k}"
    )


def _for_script(r: Recommendation, style: RecommendFormat, *, several: bool) -> str:
    """As flags or TOML; a comment where no trial meets the scenario."""
    if r.setting is None:
        return f"# {r.scenario}: {r.why}"
    if style == "flags":
        return flags(r.setting) + (f"  # {r.scenario}" if several else "")
    head = f"[{r.scenario}.decoding]" if several else "[decoding]"
    values = (f"{name} = {value!r}" for name, value in r.setting)
    return "\n".join([f"# {r.scenario}: trial {r.trial}", head, *values])


def study_text(table: StudyTable, thresholds: RecommendConfig, width: int | None = None) -> str:
    """What `spec-opt run` prints: the front and the recommended settings."""
    blocks = choices(recommend_all(table, thresholds), table) if table.points else ()
    return as_text((*front(table), *blocks), width)


def study_document(
    table: StudyTable, thresholds: RecommendConfig, *, storage: str, command: str
) -> dict[str, Any]:
    """What `spec-opt run --json` prints: the export of the front, and the recommendations."""
    document = document_of(table, all_trials=False, storage=storage, command=command)
    recommendations = [as_document(r) for r in recommend_all(table, thresholds)]
    return document | {"recommendations": recommendations}


def front(table: StudyTable) -> tuple[Block, ...]:
    """The front from the highest acceptance down, and the baselines.

    Settings with equal results share a row, which names the mildest.
    """
    if not table.front:
        return (Text("No trial has completed yet."),)
    columns = [*COLUMNS, "against target", "patches per round"]
    rows = [_front_row(table, block) for block in table.distinct_front]
    if "speedup" in table.objectives:
        columns.append("predicted speedup")
        for row, block in zip(rows, table.distinct_front, strict=True):
            row.append(f"{block[0].result.predicted_speedup or math.nan:.2f}")
    size = f"of {len(table.points)} completed trials, {len(table.front)} are on the front"
    if len(table.distinct_front) < len(table.front):
        size += f", with {len(table.distinct_front)} distinct results"
        columns.append("")
        for row, (_, *others) in zip(rows, table.distinct_front, strict=True):
            row.append(f"(and {len(others)} with equal results)" if others else "")
    levels = [f"{name.capitalize()}: MSE {mse:.4f}." for name, mse in table.levels.items()]
    return (
        Text(f"Pareto front of {table.name}: {size}", "heading"),
        Table(columns, rows),
        Text(" ".join(levels)),
    )


def _front_row(table: StudyTable, block: Sequence[Point]) -> list[str]:
    result, target = block[0].result, table.target_mse
    against = "" if target is None else relative(result.mse, target)
    per_round = result.patches_per_round
    return [*cells(block[0]), against, "" if per_round is None else f"{per_round:.2f}"]


def cells(point: Point) -> tuple[str, ...]:
    """A trial under `COLUMNS`."""
    outcome = acceptance_text(point.result), mse_text(point.result)
    return (str(point.number), *setting_cells(point.setting), *outcome)
