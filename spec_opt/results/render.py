"""Recommendations as text, JSON, TOML, or command-line flags.

The Pareto front as a table for a terminal.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from spec_opt.config.study_file import Setting
from spec_opt.errors import StudyError
from spec_opt.results.recommend import Recommendation
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import (
    acceptance_text,
    aligned,
    exact,
    mse_text,
    outcome,
    relative,
    setting_cells,
)

RecommendFormat = Literal["text", "json", "toml", "flags"]

TITLES = {
    "speed": "Maximize speed",
    "quality": "Maintain quality",
    "balanced": "Balanced",
}


def render(recommendations: Sequence[Recommendation], style: RecommendFormat) -> str:
    """The recommendations in one format, without a trailing newline.

    Raises:
        StudyError: toml or flags are asked of a single scenario that nothing meets: there is no
            setting to print, and a script must not go on without one.
    """
    if style in ("toml", "flags") and len(recommendations) == 1:
        (only,) = recommendations
        if only.setting is None:
            raise StudyError(f"{only.scenario}: {only.why}")
    match style:
        case "text":
            return as_text(recommendations)
        case "json":
            documents = [as_document(r) for r in recommendations]
            one = documents[0] if len(documents) == 1 else documents
            return json.dumps(one, indent=2, ensure_ascii=False, allow_nan=False)
        case "toml":
            return "\n\n".join(_as_toml(r, len(recommendations) > 1) for r in recommendations)
        case "flags":
            return "\n".join(_as_flags(r, len(recommendations) > 1) for r in recommendations)


def as_text(recommendations: Sequence[Recommendation]) -> str:
    """Headings with indented sentences, for a terminal; what holds for all stands once, last."""
    common = common_sentences(recommendations)
    blocks = [_block(r, common) for r in recommendations]
    if common:
        blocks.append("\n".join(["Know before you use it", *(_wrapped(c, "- ") for c in common)]))
    return "\n\n".join(blocks)


def _block(recommendation: Recommendation, common: Sequence[str]) -> str:
    title, point = TITLES[recommendation.scenario], recommendation.point
    if point is None:
        heading = f"{title}: no trial meets this"
    else:
        heading = f"{title}: {point.setting}  (trial {point.number}: {outcome(point)})"
    body = [recommendation.why, recommendation.close, recommendation.would_change]
    lines = [_wrapped(sentence) for sentence in body if sentence]
    lines += [_wrapped(sentence, "- ") for sentence in recommendation.own(common)]
    return "\n".join([heading, *lines])


def common_sentences(recommendations: Sequence[Recommendation]) -> list[str]:
    """The cautions and advice that all of them share, in the order of the first."""
    lists = [r.cautions + r.advice for r in recommendations]
    return [s for s in lists[0] if all(s in other for other in lists)] if lists else []


def _wrapped(sentence: str, bullet: str = "") -> str:
    return textwrap.fill(
        sentence,
        width=96,
        initial_indent=f"  {bullet}",
        subsequent_indent="  " + " " * len(bullet),
        break_on_hyphens=False,
        break_long_words=False,
    )


def as_document(recommendation: Recommendation) -> dict[str, Any]:
    """The JSON form; `trial` and what depends on it are null where nothing meets the scenario."""
    setting = recommendation.setting
    return {
        "scenario": recommendation.scenario,
        "trial": recommendation.trial,
        "setting": None if setting is None else setting.model_dump(),
        "acceptance_rate": recommendation.acceptance_rate,
        "mse": recommendation.mse,
        "mse_ratio": recommendation.mse_ratio,
        "reason": recommendation.reason,
        "why": recommendation.why,
        "close": recommendation.close,
        "would_change": recommendation.would_change,
        "cautions": list(recommendation.cautions),
        "advice": list(recommendation.advice),
    }


def flags(setting: Setting) -> str:
    """The setting as the flags of the decoding scripts that the old sweep was made with."""
    return (
        f"--spec_sigma {exact(setting.sigma)} --spec_accept_bias {exact(setting.bias)} "
        f"--spec_k {setting.k}"
    )


def _as_toml(recommendation: Recommendation, several: bool) -> str:
    setting, scenario = recommendation.setting, recommendation.scenario
    if setting is None:
        return f"# {scenario}: {recommendation.why}"
    head = f"# {scenario}: trial {recommendation.trial}"
    table = f"[{scenario}.decoding]" if several else "[decoding]"
    values = f"sigma = {setting.sigma!r}\nbias = {setting.bias!r}\nk = {setting.k}"
    return f"{head}\n{table}\n{values}"


def _as_flags(recommendation: Recommendation, several: bool) -> str:
    setting, scenario = recommendation.setting, recommendation.scenario
    if setting is None:
        return f"# {scenario}: {recommendation.why}"
    return flags(setting) + (f"  # {scenario}" if several else "")


_HEADINGS = ("trial", "sigma", "bias", "k", "acceptance", "MSE", "against target", "patches/round")


def front_text(table: StudyTable) -> str:
    """The front from the highest acceptance down, and the baselines.

    Settings with equal results are one line, the mildest of them named.
    """
    if not table.front:
        return "No trial has completed yet."
    blocks = table.distinct_front
    rows = [_HEADINGS, *(_row(block, table.target_mse) for block in blocks)]
    if "speedup" in table.objectives:
        speedups = [f"{block[0].result.predicted_speedup or math.nan:.2f}" for block in blocks]
        column = ["predicted speedup", *speedups]
        rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
    lines = [f"Pareto front of {table.name}: {_size(table, len(blocks))}", ""]
    heading, *body = aligned(rows)
    lines.append(heading)
    for line, block in zip(body, blocks, strict=True):
        alike = f"  (and {len(block) - 1} with equal results)" if len(block) > 1 else ""
        lines.append(f"{line}{alike}")
    return "\n".join([*lines, "", *_baselines(table)])


def _size(table: StudyTable, distinct: int) -> str:
    among = f"of {len(table.points)} completed trials, {len(table.front)} are on the front"
    return among if distinct == len(table.front) else f"{among}, with {distinct} distinct results"


def _row(block: Sequence[Point], target_mse: float | None) -> tuple[str, ...]:
    point = block[0]
    result = point.result
    return (
        str(point.number),
        *setting_cells(point.setting),
        acceptance_text(result),
        mse_text(result),
        "" if target_mse is None else relative(result.mse, target_mse),
        "" if result.patches_per_round is None else f"{result.patches_per_round:.2f}",
    )


def _baselines(table: StudyTable) -> list[str]:
    lines = [f"{name.capitalize()}: MSE {mse:.4f}." for name, mse in table.levels.items()]
    return [" ".join(lines)] if lines else []
