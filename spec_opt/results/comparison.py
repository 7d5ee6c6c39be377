"""Studies beside each other: what differs between them, and by how much, within the noise.

Two studies that were measured on the same windows share most of their noise, easy and hard windows
above all. There a difference is paired, block by block. Otherwise the errors of both add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from spec_opt.config.study_file import RecommendConfig, StudyConfig
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.uncertainty import ACCEPTANCE, MSE, Quantity, difference
from spec_opt.results.recommend import SCENARIOS, Recommendation, Scenario, recommend_all
from spec_opt.results.render import as_document
from spec_opt.results.table import Point, StudyTable, load_table
from spec_opt.results.verdict import Verdict, verdict_of
from spec_opt.study.database import parse_url


@dataclass(frozen=True)
class Compared:
    """One of the studies."""

    label: str
    """Its name; with its place among the studies, where another has the same name."""
    storage: str
    """Without passwords."""
    table: StudyTable
    thresholds: RecommendConfig

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """In the order of `SCENARIOS`."""
        return recommend_all(self.table, self.thresholds)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.table, self.thresholds)


@dataclass(frozen=True)
class Change:
    """A result of one study minus that of another."""

    value: float
    half_width: float | None
    """Half of the 95 % interval; None if the noise of either is not known."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.half_width is not None and abs(self.value) > self.half_width


@dataclass(frozen=True)
class Difference:
    """What a study recommends for a scenario, against what the first study does."""

    scenario: Scenario
    study: str
    against: str
    acceptance_rate: Change
    mse: Change
    paired: bool
    """Whether both were measured on the same windows."""


@dataclass(frozen=True)
class Comparison:
    """Two or more studies; differences are those from the first."""

    studies: tuple[Compared, ...]
    same_windows: bool
    """Whether all were measured on the same windows, so that their MSEs can be compared."""
    differences: tuple[Difference, ...]


def compare_studies(named: Sequence[tuple[StudyConfig, str]]) -> Comparison:
    """Read studies, each with its settings from the store at its URL, and compare them.

    Raises:
        InputError: fewer than two studies, or one of them twice.
        StudyError: there is no such store or study, or it has no completed trial.
    """
    if len(named) < 2:
        raise InputError("compare: name two studies or more")
    found = [_load(config, url) for config, url in named]
    for one, other in pairwise(sorted(found, key=lambda c: (c.table.name, c.storage))):
        if (one.table.name, one.storage) == (other.table.name, other.storage):
            raise InputError(f"compare: study {one.table.name} is named twice")
    return comparison_of(found)


def _load(config: StudyConfig, url: str) -> Compared:
    table = load_table(url, config)
    if not table.points:
        raise StudyError(f"study {table.name}: no trial has completed, so there is no comparison")
    return Compared(table.name, parse_url(url).masked, table, config.recommend)


def comparison_of(studies: Sequence[Compared]) -> Comparison:
    """Compare studies that were read."""
    names = [compared.table.name for compared in studies]
    labelled = tuple(
        c if names.count(c.label) == 1 else replace(c, label=f"{c.label} ({place})")
        for place, c in enumerate(studies, 1)
    )
    first, *others = labelled
    differences = [
        _difference(scenario, other, first, theirs.point, ours.point)
        for other in others
        for scenario, theirs, ours in zip(
            SCENARIOS, other.recommendations, first.recommendations, strict=True
        )
        if theirs.point is not None and ours.point is not None
    ]
    same = all(_are_on_same_windows(first.table, other.table) for other in others)
    return Comparison(labelled, same, tuple(differences))


def _are_on_same_windows(one: StudyTable, other: StudyTable) -> bool:
    prints = one.fingerprints, other.fingerprints
    return None not in prints and len({p.data for p in prints if p is not None}) == 1


def _difference(
    scenario: Scenario, study: Compared, against: Compared, point: Point, reference: Point
) -> Difference:
    paired = _are_on_same_windows(study.table, against.table)
    one, other = asdict(point.result), asdict(reference.result)
    blocks = point.result.blocks, reference.result.blocks

    def change(quantity: Quantity, name: str) -> Change:
        value = one[name] - other[name]
        if paired and blocks[0] is not None and blocks[1] is not None:
            found = difference(quantity, blocks[0], blocks[1])
            return Change(value, None if found is None else found.half_width)
        widths = one[_WIDTHS[name]], other[_WIDTHS[name]]
        return Change(value, None if None in widths else math.hypot(*widths))

    acceptance, mse = change(ACCEPTANCE, "acceptance_rate"), change(MSE, "mse")
    return Difference(scenario, study.label, against.label, acceptance, mse, paired)


_WIDTHS = {"acceptance_rate": "acceptance_ci95", "mse": "mse_ci95"}


def comparison_document(found: Comparison) -> dict[str, Any]:
    """For `compare --json`."""
    return {
        "studies": [_study_document(compared) for compared in found.studies],
        "same_windows": found.same_windows,
        "differences": [
            asdict(one) | {name: _change_document(getattr(one, name)) for name in _WIDTHS}
            for one in found.differences
        ],
    }


def _study_document(compared: Compared) -> dict[str, Any]:
    table = compared.table
    prints, baseline = table.fingerprints, table.baseline
    return {
        "study": table.name,
        "label": compared.label,
        "storage": compared.storage,
        "fingerprints": None if prints is None else asdict(prints),
        "baseline": None if baseline is None else asdict(baseline),
        "verdict": compared.verdict.document(),
        "front": [
            {"trial": p.number, "setting": p.setting.model_dump()}
            | {name: getattr(p.result, name) for name in ("acceptance_rate", "mse", "mse_ratio")}
            for p in table.front
        ],
        "recommendations": [as_document(one) for one in compared.recommendations],
    }


def _change_document(change: Change) -> dict[str, Any]:
    low = high = None
    if change.half_width is not None:
        low, high = change.value - change.half_width, change.value + change.half_width
    return {"value": change.value, "low": low, "high": high, "clear": change.is_clear}
