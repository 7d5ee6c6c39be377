"""Recommendations as text, JSON, TOML or command-line flags, and the Pareto front as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spec_opt.config.study_file import Setting
from spec_opt.errors import StudyError
from spec_opt.results.document import Block, Bullets, Facts, Section, Table, Text, as_text
from spec_opt.results.export import document_of
from spec_opt.results.recommend import Recommendation, in_short, recommend_all
from spec_opt.results.schedule import Gain, Schedule
from spec_opt.results.speedup import timings
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.verdict import Decision, Verdict, verdict_of
from spec_opt.results.wording import (
    acceptance_text,
    exact,
    left_out,
    levels_text,
    mse_text,
    none_feasible,
    outcome,
    percent,
    plural,
    relative,
    setting_cells,
)

RecommendFormat = Literal["text", "json", "toml", "flags"]
"""Of recommendations; `schedule_blocks` shows a schedule."""

TITLES = {
    "speed": "Maximize speed",
    "quality": "Maintain quality",
    "balanced": "Balanced",
}
FRONT_ROWS = 6
"""Of the front, at the end of a run."""
COLUMNS = ("trial", "sigma", "bias", "k", "acceptance", "MSE")


def render(
    recommendations: Sequence[Recommendation],
    style: RecommendFormat,
    *,
    table: StudyTable,
    verdict: Verdict,
    width: int | None = None,
) -> str:
    """The recommendations in one format, without a trailing newline.

    Args:
        recommendations: One, or one for each scenario.
        style: The format.
        table: The study.
        verdict: Whether speculation pays; text and json begin with it.
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
        said = Text(verdict.reason), Text(levels_text(table))
        return as_text((*said, *advice(recommendations, table, verdict)), width)
    if style == "json":
        known = table.baseline
        document = {
            "study": table.name,
            "verdict": verdict.document(),
            "baseline": {
                "target_mse": table.target_mse,
                "draft_mse": known and known.draft_mse,
                "linear_mse": known and known.linear_mse,
            },
            "recommendations": [as_document(r) for r in recommendations],
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    parts = (_for_script(r, style, several=len(recommendations) > 1) for r in recommendations)
    return ("\n\n" if style == "toml" else "\n").join(parts)


DECISIONS: Mapping[Decision, str] = {
    "speculate": "Speculate",
    "draft_alone": "Use the draft alone",
    "target_alone": "Use the target alone",
    "unknown": "Not settled",
}


INSTEAD: Mapping[Decision, tuple[str, str]] = {
    "draft_alone": (
        "with the draft alone",
        "The draft alone is faster than the target and accurate enough, so nothing needs to be "
        "verified.",
    ),
    "target_alone": (
        "with the target alone",
        "No setting that was timed is both faster than the target alone and accurate enough; on "
        "another machine that may differ.",
    ),
}
"""Decisions against speculation: how `spec-opt forecast` then forecasts, and why."""


def heading_of(verdict: Verdict) -> str:
    """Of the settings that are recommended."""
    instead = verdict.decision in INSTEAD
    return "If you speculate all the same" if instead else "Which setting to use"


def banner(verdict: Verdict, table: StudyTable) -> Section:
    """The verdict on a study, in HTML in the colour of the decision, and how to use it."""
    blocks: list[Block] = [Text(DECISIONS[verdict.decision], "subheading"), Text(verdict.reason)]
    facts = []
    if (speedup := verdict.speedup) is not None:
        kind = "measured" if speedup.measured else "predicted"
        facts.append((f"{kind} speedup", f"{speedup} at batch size {speedup.batch_size}"))
        if speedup.range is not None:
            facts.append((f"in {speedup.runs} runs", speedup.range))
        facts.append(("device", speedup.device))
    if (error := verdict.error) is not None:
        facts.append(("MSE / target's", f"{error.value:.3f}"))
        if error.low is not None and error.high is not None:
            facts.append(("95 % interval", f"{error.low:.3f} to {error.high:.3f}"))
    if facts and table.points and (windows := table.points[0].result.windows) is not None:
        facts.append(("windows", str(windows)))
    if facts:
        blocks.append(Facts(facts))
    if verdict.setting is not None:
        blocks.append(Text(flags(verdict.setting), "code"))
    elif verdict.decision in INSTEAD:
        how, _ = INSTEAD[verdict.decision]
        blocks.append(Text(f"`spec-opt forecast` follows this verdict and forecasts {how}:"))
        blocks.append(Text(f"spec-opt forecast {table.name} --input FILE.csv", "code"))
    return Section(blocks, f"banner {verdict.decision}")


def advice(
    recommendations: Sequence[Recommendation], table: StudyTable, verdict: Verdict
) -> tuple[Block, ...]:
    """The recommended settings; where the verdict is against speculation, that goes first."""
    shown = choices(recommendations, table)
    if verdict.decision not in INSTEAD:
        return shown
    _, why = INSTEAD[verdict.decision]
    return Text(f"The verdict is: {DECISIONS[verdict.decision].lower()}. {why}"), *shown


def choices(recommendations: Sequence[Recommendation], table: StudyTable) -> tuple[Block, ...]:
    """A card for each recommended trial, then what to know of all of them."""
    first, *others = recommendations
    cautions = dict.fromkeys(caution for r in recommendations for caution in r.cautions)
    shared = (s for s in first.advice if all(s in other.advice for other in others))
    common = (*cautions, *shared)
    cards = tuple(_choice(group, common, table) for group in merged(recommendations))
    caution = Section((Text("Know before you use it", "subheading"), Bullets(common)))
    return (Section(cards, "cards"), *((caution,) if common else ()))


def merged(recommendations: Sequence[Recommendation]) -> list[list[Recommendation]]:
    """The recommendations, those of one trial together, and so those without one."""
    groups: dict[int | None, list[Recommendation]] = {}
    for recommendation in recommendations:
        groups.setdefault(recommendation.trial, []).append(recommendation)
    return list(groups.values())


def title_of(group: Sequence[Recommendation]) -> str:
    """The scenarios of a group, as `Maximize speed, balanced`."""
    return ", ".join(TITLES[r.scenario] for r in group).capitalize()


def _choice(group: Sequence[Recommendation], common: Sequence[str], table: StudyTable) -> Section:
    first = group[0]
    answer = "no trial meets this" if first.point is None else f"`{first.point.label}`"
    blocks: list[Block] = [Text(f"{title_of(group)}: {answer}", "subheading")]
    if first.point is not None:
        timed = timings(table.measured_speedups(first.point.number))
        blocks += [_facts(first.point, first.mse_ratio, table), Text(timed or "", "note")]
        blocks += [Text(flags(first.point.setting), "code")]
    is_shared = first.point is not None and len(group) > 1
    blocks += [Text(in_short(group))] if is_shared else [Text(r.why) for r in group]
    details: list[Block] = [Text(text) for text in dict.fromkeys(r.close for r in group) if text]
    summary = "What was close" if details else "What to try"
    every = dict.fromkeys(sentence for r in group for sentence in r.cautions + r.advice)
    if own := [sentence for sentence in every if sentence not in common]:
        details.append(Bullets(own))
    if details:
        blocks.append(Section(details, summary=summary))
    return Section(blocks, "card")


def _facts(point: Point, mse_ratio: float | None, table: StudyTable) -> Facts:
    pairs = [("acceptance", percent(point.result.acceptance_rate))]
    pairs.append(("MSE", f"{point.result.mse:.4f}"))
    if mse_ratio is not None:
        pairs.append(("MSE / target's", f"{mse_ratio:.3f}"))
    pairs.append(speedup_fact(table, point))
    return Facts((*pairs, ("trial", str(point.number))))


def speedup_fact(table: StudyTable, point: Point) -> tuple[str, str]:
    """What is known of a trial's speedup."""
    measured, predicted = table.measured_speedup(point.number), point.result.predicted_speedup
    if measured is not None:
        return "best measured speedup", f"{measured} at batch size {measured.batch_size}"
    if predicted is None:
        return "predicted speedup", "not known"
    where = f" at batch size {table.config.decoding.batch_size}" if table.config else ""
    return "predicted speedup", f"{predicted:.2f}x{where}"


def as_document(recommendation: Recommendation) -> dict[str, Any]:
    """The JSON form; `trial` and its numbers are null where no trial meets the scenario."""
    point = recommendation.point
    names = (
        "scenario", "trial", "acceptance_rate", "mse", "mse_ratio",
        "reason", "why", "close", "cautions", "advice",
    )  # fmt: skip
    return {name: getattr(recommendation, name) for name in names} | {
        "setting": point and point.setting.model_dump(),
        "variant": point and point.variant.given,
        "draft_path": point and point.draft_path,
    }


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
    draft = "" if r.point is None or r.point.draft_path is None else f"draft {r.point.draft_path}"
    if style == "flags":
        remark = ", ".join(part for part in (r.scenario if several else "", draft) if part)
        return flags(r.setting) + (f"  # {remark}" if remark else "")
    head = f"[{r.scenario}.decoding]" if several else "[decoding]"
    values = (f"{name} = {value!r}" for name, value in r.setting)
    about = ", ".join(part for part in (f"{r.scenario}: trial {r.trial}", draft) if part)
    return "\n".join([f"# {about}", head, *values])


def study_text(table: StudyTable, reference: str, width: int | None = None) -> str:
    """What `spec-opt run` prints, as `overview`."""
    found = verdict_of(table, reference), recommend_all(table)
    return as_text(overview(table, *found, reference), width)


def study_document(
    table: StudyTable, reference: str, *, storage: str, command: str
) -> dict[str, Any]:
    """What `spec-opt run --json` prints: the verdict, the front, and the recommendations."""
    document = document_of(table, all_trials=False, storage=storage, command=command)
    recommendations = [as_document(r) for r in recommend_all(table)]
    verdict = verdict_of(table, reference).document()
    return document | {"verdict": verdict, "recommendations": recommendations}


def overview(
    table: StudyTable,
    verdict: Verdict,
    recommendations: Sequence[Recommendation],
    reference: str,
) -> tuple[Block, ...]:
    """What a run ends with, on one screen.

    Args:
        reference: the study as it was named, for commands to paste.
    """
    said = Text(verdict.reason)
    if not table.points:
        return (said,)
    lines = [_line(group, table) for group in merged(recommendations)]
    lead: tuple[Block, ...] = ()
    more = f"Why: `spec-opt recommend {reference}`. "
    if verdict.decision in INSTEAD:
        how, _ = INSTEAD[verdict.decision]
        lead = (Text(f"{heading_of(verdict)}:"),)
        more = f"Forecast {how}: `spec-opt forecast {reference}`. {more}"
    hidden = len(table.distinct_front) - FRONT_ROWS
    if hidden > 0:
        more += f"{hidden} more results on the front: `spec-opt export {reference}`."
    return said, *front(table, FRONT_ROWS), *lead, Bullets(lines), Text(more)


def _line(group: Sequence[Recommendation], table: StudyTable) -> str:
    point = group[0].point
    if point is None:
        return f"{title_of(group)}: no trial meets this"
    facts = [f"{title_of(group)}: {point.setting}", outcome(point)]
    if table.target_mse is not None:
        facts[-1] += f" ({relative(point.result.mse, table.target_mse)} the target's)"
    return ", ".join([*facts, " ".join(speedup_fact(table, point))])


def front(table: StudyTable, at_most: int | None = None) -> tuple[Block, ...]:
    """The front from the highest acceptance down, and the baselines.

    Settings with equal results share a row, which names the mildest.
    """
    if not table.front:
        return (Text(none_feasible(table) or "No trial has completed yet."),)
    shown, target = table.distinct_front[:at_most], table.target_mse
    results = [block[0].result for block in shown]
    columns = {"against target": [relative(r.mse, target) if target else "" for r in results]}
    if "speedup" in table.objectives:
        speedups = [f"{r.predicted_speedup or math.nan:.2f}" for r in results]
        columns["predicted speedup"] = speedups
    size = f"of {len(table.points)} completed trials, {len(table.front)} are on the front"
    if len(table.distinct_front) < len(table.front):
        size += f", with {plural(len(table.distinct_front), 'distinct result')}"
        columns["trials"] = [str(len(block)) for block in shown]
    blocks = zip(shown, *columns.values(), strict=True)
    rows = [(*cells(block[0]), *more) for block, *more in blocks]
    return (
        Text(f"Pareto front of {table.name}: {size}", "heading"),
        Table((*COLUMNS, *columns), rows),
        Text(levels_text(table)),
        Text(left_out(table)),
    )


def schedule_blocks(schedule: Schedule) -> tuple[Block, ...]:
    """A row for each batch size, or why there is none."""
    if schedule.unknown is not None:
        return (Text(schedule.unknown),)
    learnt = ", ".join(map(str, schedule.learnt_at))
    origin = (
        f"Predictions rest on costs learnt at batch size {learnt}; they hold for "
        f"batches that decode in lockstep. `spec-opt bench {schedule.reference} --schedule` "
        "learns costs at more batch sizes, and measures where k changes."
    )
    if schedule.unpredicted is not None:
        origin = f"Nothing is predicted. {schedule.unpredicted}"
    return (
        Text(
            f"The fastest setting for each batch size on {schedule.device}, with "
            f"{schedule.bounds}. k = 0: the target alone."
        ),
        Table(_SCHEDULE_COLUMNS, [_schedule_cells(gain) for gain in schedule.best]),
        Text(origin),
    )


_SCHEDULE_COLUMNS = ("batch", "k", "sigma", "bias", "speedup", "", "acceptance", "MSE", "trial")


def _schedule_cells(gain: Gain) -> tuple[str, ...]:
    kind = "predicted" if gain.measured is None else "measured"
    if not gain.pays:
        why = f"k = {gain.point.setting.k}: {gain.speedup:.2f} {kind}"
        return (str(gain.batch_size), "0", "", "", "1.00", why, "", "", "")
    sigma, bias, k = setting_cells(gain.point.setting)
    found = percent(gain.point.result.acceptance_rate), f"{gain.point.result.mse:.4f}"
    number = str(gain.point.number)
    return (str(gain.batch_size), k, sigma, bias, f"{gain.speedup:.2f}", kind, *found, number)


def cells(point: Point) -> tuple[str, ...]:
    """A trial under `COLUMNS`."""
    outcome = acceptance_text(point.result), mse_text(point.result)
    return (str(point.number), *setting_cells(point.setting), *outcome)
