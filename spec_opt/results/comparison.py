"""Studies beside each other: what differs, and by how much, within the noise; as text and page.

Two studies that were measured on the same windows share most of their noise, easy and hard windows
above all. There a difference is paired, block by block. Otherwise the errors of both add.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from spec_opt.config.study_file import StudyConfig
from spec_opt.errors import InputError, StudyError
from spec_opt.results.differences import QUANTITIES, Change
from spec_opt.results.document import Block, Bullets, Plot, Section, Table, Text, as_text, page
from spec_opt.results.figure_style import BASELINE_DASHES, COOL_TO_WARM, DASHES, empty
from spec_opt.results.recommend import SCENARIOS, Recommendation, Scenario, recommend_all
from spec_opt.results.render import as_document, cells, speedup_fact
from spec_opt.results.table import StudyTable, load_table
from spec_opt.results.verdict import Verdict, verdict_of
from spec_opt.results.wording import outcome, percent
from spec_opt.study.database import parse_url

RECOMMENDED = (
    "scenario", "study", "trial", "sigma", "bias", "k", "acceptance", "MSE", "MSE / target's",
    "speedup",
)  # fmt: skip
DIFFERENCES = ("scenario", "study", "acceptance", "MSE", "windows")
READING = (
    "Better: a lower MSE and a higher acceptance. The page draws them over each other; lines "
    "across are the target alone (dashes), the draft alone (dots) and a linear model alone (both)."
)
PROPERTIES = (
    "trials", "series", "horizon", "rule", "context", "sampler", "target", "draft", "devices",
    *(f"MSE of the {name}" for name in BASELINE_DASHES),
)  # fmt: skip
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "pentagon")


@dataclass(frozen=True)
class Compared:
    """One of the studies."""

    label: str
    """Its name; with its place among the studies, where another has the same name."""
    storage: str
    """Without passwords."""
    table: StudyTable

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """In the order of `SCENARIOS`."""
        return recommend_all(self.table)

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.table)


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
    names = [compared.label for compared in found]
    first, *others = labelled = tuple(
        c if names.count(c.label) == 1 else replace(c, label=f"{c.label} ({place})")
        for place, c in enumerate(found, 1)
    )
    differences = [found for other in others for found in _differences(other, first)]
    same = all(_are_on_same_windows(first.table, other.table) for other in others)
    return Comparison(labelled, same, tuple(differences))


def _load(config: StudyConfig, url: str) -> Compared:
    table = load_table(url, config)
    if not table.points:
        raise StudyError(f"study {table.name}: no trial has completed, so there is no comparison")
    return Compared(table.name, parse_url(url).masked, table)


def _are_on_same_windows(one: StudyTable, other: StudyTable) -> bool:
    prints = one.fingerprints, other.fingerprints
    return None not in prints and len({p.data for p in prints if p is not None}) == 1


def _differences(study: Compared, against: Compared) -> Iterator[Difference]:
    """One a scenario that both meet."""
    paired = _are_on_same_windows(study.table, against.table)
    pairs = zip(study.recommendations, against.recommendations, strict=True)
    for one, other in pairs:
        if one.point is not None and other.point is not None:
            results = one.point.result, other.point.result
            acceptance = Change.between(*results, "acceptance_rate", paired=paired)
            mse = Change.between(*results, "mse", paired=paired)
            yield Difference(one.scenario, study.label, against.label, acceptance, mse, paired)


def comparison_document(found: Comparison) -> dict[str, Any]:
    """For `compare --json`."""
    return {
        "studies": [_study_document(compared) for compared in found.studies],
        "same_windows": found.same_windows,
        "differences": [
            asdict(one) | {name: _change_document(getattr(one, name)) for name in QUANTITIES}
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
        "fingerprints": prints and asdict(prints),
        "baseline": baseline and asdict(baseline),
        "verdict": compared.verdict.document(),
        "front": [
            {"trial": p.number, "setting": p.setting.model_dump()}
            | {name: getattr(p.result, name) for name in ("acceptance_rate", "mse", "mse_ratio")}
            for p in table.front
        ],
        "recommendations": [as_document(one) for one in compared.recommendations],
    }


def _change_document(change: Change) -> dict[str, Any]:
    value, width = change.value, change.half_width
    low, high = (None, None) if width is None else (value - width, value + width)
    return {"value": value, "low": low, "high": high, "clear": change.is_clear}


def comparison_text(found: Comparison, width: int | None = None) -> str:
    """For a terminal of `width` columns."""
    return as_text(_blocks(found), width)


def comparison_page(found: Comparison) -> str:
    """A page of HTML that needs nothing beside it."""
    title = " and ".join(compared.label for compared in found.studies)
    return page(
        f"{title}: spec-opt compare", [Text(f"spec-opt compare: {title}", "title"), *_blocks(found)]
    )


def _blocks(found: Comparison) -> list[Block]:
    stores = [f"{one.label}: {one.storage}" for one in found.studies]
    verdicts = [f"{one.label}: {one.verdict.reason}" for one in found.studies]
    drawn = Plot("fronts_figure", fronts(found))
    parts: dict[str, Sequence[Block]] = {
        "What is compared": [Bullets(stores), _about(found.studies), Text(_pairing(found))],
        "Verdicts": [Bullets(verdicts)],
        "Fronts": [Text(READING, "note"), drawn, _spans(found.studies)],
        "Recommended settings": [Table(RECOMMENDED, _recommended(found.studies))],
        f"Differences from {found.studies[0].label}": _difference_blocks(found),
    }
    return [Section([Text(heading, "heading"), *blocks]) for heading, blocks in parts.items()]


def _pairing(found: Comparison) -> str:
    if found.same_windows:
        return (
            "All were measured on the same windows, so differences are paired: what easy and hard "
            "windows do to both cancels."
        )
    return (
        "Not all were measured on the same windows, by the fingerprints of their data. Differences "
        "between those are unpaired: the noise of both adds, and their MSEs are best compared "
        "relative to the target's."
    )


def _about(studies: Sequence[Compared]) -> Table:
    """One row a property, one column a study."""
    columns = [_properties(compared.table) for compared in studies]
    rows = [(name, *(column.get(name) or "–" for column in columns)) for name in PROPERTIES]
    return Table(("", *(compared.label for compared in studies)), rows)


def _properties(table: StudyTable) -> dict[str, str]:
    """Those of `PROPERTIES` that are known."""
    found = {"trials": str(len(table.points))}
    if (config := table.config) is not None:
        found |= {
            "series": f"{config.data.source}, {config.data.split}",
            "horizon": str(config.data.horizon),
            "rule": config.decoding.rule,
            "context": config.decoding.context,
            "sampler": config.search.sampler,
        }
    models = {role: about for role, about in table.models.items() if isinstance(about, dict)}
    found |= {role: about.get("summary", "") for role, about in models.items()}
    found["devices"] = ", ".join(sorted({p.device for p in table.points if p.device}))
    return found | {f"MSE of the {name}": f"{mse:.4f}" for name, mse in table.levels.items()}


def _spans(studies: Sequence[Compared]) -> Table:
    """Between what each front lies."""
    rows = []
    for compared in studies:
        front = compared.table.front
        mse = [point.result.mse for point in front]
        accepted = [point.result.acceptance_rate for point in front]
        span = f"{percent(min(accepted))} to {percent(max(accepted))}"
        rows.append((compared.label, str(len(front)), f"{min(mse):.4f} to {max(mse):.4f}", span))
    return Table(("study", "on the front", "MSE", "acceptance"), rows)


def _recommended(studies: Sequence[Compared]) -> list[tuple[str, ...]]:
    rows = []
    for index, scenario in enumerate(SCENARIOS):
        for compared in studies:
            chosen = compared.recommendations[index]
            if chosen.point is None:
                rows.append((scenario, compared.label, "none", *[""] * 7))
                continue
            ratio = "–" if chosen.mse_ratio is None else f"{chosen.mse_ratio:.3f}"
            name, speedup = speedup_fact(compared.table, chosen.point)
            if speedup != "not known":
                speedup += f", {name.split()[-2]}"
            rows.append((scenario, compared.label, *cells(chosen.point), ratio, speedup))
    return rows


def _difference_blocks(found: Comparison) -> list[Block]:
    if not found.differences:
        return [Text("No scenario is met by both.")]
    rows = [
        (
            one.scenario,
            one.study,
            _shown(one.acceptance_rate, 100.0, 1, " pp"),
            _shown(one.mse, 1.0, 4),
            "same" if one.paired else "different",
        )
        for one in found.differences
    ]
    note = "± is half of a 95 % interval; * marks a difference whose interval excludes 0."
    return [Table(DIFFERENCES, rows), Text(note)]


def _shown(change: Change, scale: float, digits: int, unit: str = "") -> str:
    text = f"{scale * change.value:+.{digits}f}"
    if change.half_width is not None:
        text += f" ±{scale * change.half_width:.{digits}f}"
    return f"{text}{unit}{' *' if change.is_clear else ''}"


def fronts(found: Comparison) -> go.Figure:
    """The fronts over each other; relative to the target's MSE where the windows differ."""
    figure = empty()
    for index, compared in enumerate(found.studies):
        table, color = compared.table, COOL_TO_WARM[index % len(COOL_TO_WARM)]
        scale = 1.0 if found.same_windows else 1.0 / (table.target_mse or 1.0)
        points = [block[0] for block in table.distinct_front]
        line = {"color": color, "dash": DASHES[index % len(DASHES)], "width": 2, "shape": "hv"}
        figure.add_scatter(
            x=[100 * p.result.acceptance_rate for p in points],
            y=[scale * p.result.mse for p in points],
            name=compared.label, mode="lines+markers", line=line,
            marker={"symbol": MARKERS[index % len(MARKERS)], "size": 9},
            hovertext=[f"<b>{compared.label}: {p.setting}</b><br>{outcome(p)}" for p in points],
            hoverinfo="text",
        )  # fmt: skip
        levels = table.levels if found.same_windows or table.target_mse else {}
        for name, level in levels.items():
            look = {"color": color, "width": 1.5, "dash": BASELINE_DASHES[name]}
            figure.add_hline(y=scale * level, line=look, opacity=0.6)
    figure.update_xaxes(title_text="acceptance rate (%)")
    mse = "MSE (standardised units)" if found.same_windows else "MSE / target's"
    figure.update_yaxes(title_text=mse)
    return figure.update_layout(margin={"t": 16, "l": 8, "r": 12})
