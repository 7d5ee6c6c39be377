"""Recommendations as text, JSON, TOML, or command-line flags."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from spec_opt.config import Setting
from spec_opt.errors import StudyError
from spec_opt.results.recommend import Recommendation
from spec_opt.results.wording import exact, outcome

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
