"""What the dashboard shows of ours, in the attributes where optuna-dashboard looks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

from sqlalchemy import Connection, delete, insert, select

from spec_opt.config import RecommendConfig
from spec_opt.results.plots import figures
from spec_opt.results.recommend import Recommendation, recommend_all
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import outcome, percent, relative
from spec_opt.tuning.ledger import lock_study
from spec_opt.tuning.store import study_system_attributes, trials

CHUNK = 2045
"""optuna-dashboard cuts what it stores into pieces of this many characters."""

SIGNATURE = "*Written by spec-opt.*"
"""Ends each of our notes: one without it is somebody's own."""

CARD_HEIGHT = 450
"""Pixels: the dashboard's cards cut what is higher."""

MOST_NOTES = 1000
"""With more trials than this only those of the front get a note: the dashboard loads them all."""


@dataclass(frozen=True)
class Content:
    """What is to be shown."""

    note: str
    trial_notes: Mapping[int, str]
    """By trial number."""
    graphs: Mapping[str, str]
    """Figures as plotly JSON."""


def contents(table: StudyTable, thresholds: RecommendConfig | None = None) -> Content:
    """Notes and graphs of a study; a study without results has a note that says so."""
    recommendations = recommend_all(table, thresholds)
    drawn = figures(table, recommendations)
    for figure in drawn.values():
        figure.update_layout(height=CARD_HEIGHT)
    noted = table.points if len(table.points) <= MOST_NOTES else table.front
    return Content(
        note=_study_note(table, recommendations),
        trial_notes={point.number: _trial_note(table, point) for point in noted},
        graphs={name: figure.to_json() for name, figure in drawn.items()},
    )


def write_contents(connection: Connection, study_id: int, content: Content) -> None:
    """Put notes and graphs into the store, in one transaction; others' notes stay."""
    lock_study(connection, study_id)
    stored = _stored(connection, study_id)
    changes: dict[str, object] = {}
    changes |= _note_changes(stored, "dashboard:", content.note)
    for number, trial_id in _trial_ids(connection, study_id).items():
        if number in content.trial_notes:
            note = content.trial_notes[number]
            changes |= _note_changes(stored, f"dashboard:{trial_id}:", note)
    for name, figure in content.graphs.items():
        changes |= _pieces(stored, f"dashboard:plot_data:{name}:", figure)
    table = study_system_attributes
    changed = {key: value for key, value in changes.items() if stored.get(key) != value}
    for keys in _batches(list(changed)):
        connection.execute(delete(table).where(table.c.study_id == study_id, table.c.key.in_(keys)))
    if changed:
        rows = [
            {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
            for key, value in changed.items()
        ]
        connection.execute(insert(table), rows)


def _stored(connection: Connection, study_id: int) -> dict[str, object]:
    table = study_system_attributes
    query = select(table.c.key, table.c.value_json).where(
        table.c.study_id == study_id, table.c.key.startswith("dashboard:")
    )
    return {key: json.loads(text) for key, text in connection.execute(query)}


def _trial_ids(connection: Connection, study_id: int) -> dict[int, int]:
    query = select(trials.c.number, trials.c.trial_id).where(trials.c.study_id == study_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def _note_changes(stored: Mapping[str, object], owner: str, note: str) -> dict[str, object]:
    """The attributes of a note, its version counted up; none where somebody wrote their own."""
    text_prefix, version_key = f"{owner}note_str:", f"{owner}note_ver"
    before = "".join(str(stored[key]) for key in _keys(stored, text_prefix))
    if before == note or (before and not before.rstrip().endswith(SIGNATURE)):
        return {}
    version = stored.get(version_key)
    number = version + 1 if isinstance(version, int) else 1
    return {version_key: number} | _pieces(stored, text_prefix, note)


def _keys(stored: Mapping[str, object], prefix: str) -> list[str]:
    """The keys of a text's pieces that are stored, in order."""
    return list(takewhile(stored.__contains__, (f"{prefix}{i}" for i in count())))


def _pieces(stored: Mapping[str, object], prefix: str, text: str) -> dict[str, object]:
    """A text in pieces; pieces of a longer text that stood there before become empty."""
    starts = range(0, len(text), CHUNK)
    pieces: dict[str, object] = {
        f"{prefix}{i}": text[start : start + CHUNK] for i, start in enumerate(starts)
    }
    emptied: dict[str, object] = dict.fromkeys(_keys(stored, prefix), "")
    return emptied | pieces


def _batches(keys: list[str], size: int = 500) -> list[list[str]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def _study_note(table: StudyTable, recommendations: tuple[Recommendation, ...]) -> str:
    common = common_sentences(recommendations)
    lines = ["## Which setting to use", ""]
    for r in recommendations:
        heading = "no trial meets this" if r.point is None else f"`{r.point.setting}`"
        lines += [f"### {TITLES[r.scenario]}: {heading}", "", r.why, ""]
        if r.point is not None:
            lines += [f"    {flags(r.point.setting)}", ""]
        own = r.own(common)
        lines += [f"- {sentence}" for sentence in own] + [""] if own else []
    if common:
        lines += ["### Know before you use it", "", *(f"- {s}" for s in common), ""]
    states = ", ".join(f"{number} {state}" for state, number in sorted(table.states.items()))
    lines += [f"Trials: {states or 'none yet'}; {len(table.front)} on the front.", "", SIGNATURE]
    return "\n".join(lines)


def _trial_note(table: StudyTable, point: Point) -> str:
    result = point.result
    facts = outcome(point)
    if table.target_mse is not None:
        facts += f", {relative(result.mse, table.target_mse)} the target alone"
    lines = [f"**{point.setting}**", "", facts, "", f"    {flags(point.setting)}", ""]
    if result.acceptance_se is not None and result.mse_se is not None:
        lines += [
            f"Standard errors: acceptance {percent(result.acceptance_se)}, MSE {result.mse_se:.4f}",
            "",
        ]
    return "\n".join([*lines, SIGNATURE])
