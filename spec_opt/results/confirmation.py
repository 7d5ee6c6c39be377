"""Settings measured again: on a split that they were not tuned on, or on the same as a replay.

On another split each recommendation is judged by its own limits. Its error there is compared with
the target's on the same windows: splits differ in difficulty, so errors of two splits are not
compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from spec_opt.config.study_file import StudyConfig
from spec_opt.config.values import Split
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.measurement import Baseline, Measurement
from spec_opt.results.differences import Change
from spec_opt.results.document import Block, Bullets, Table, Text, as_text
from spec_opt.results.judgement import Judgement
from spec_opt.results.recommend import Recommendation, bounds_of, recommend_all
from spec_opt.results.stored import keep_records
from spec_opt.results.table import Point, Result, StudyTable
from spec_opt.results.verdict import ErrorRatio, draft_error_ratio, error_ratio, limit_of
from spec_opt.results.wording import allowed, percent, relative, setting_cells, with_error
from spec_opt.study.store import Store

BETWEEN_SPLITS = (
    "± is over windows within a split: what sets splits apart, such as a season, is not in it."
)
NOT_SPEED = "The speed is not judged here: `spec-opt bench` measures it."

ROUNDING = 1e-5
"""Relative difference allowed in a replayed MSE: devices and batch sizes round differently."""


@dataclass(frozen=True)
class Confirmed:
    """A trial of the study, and its setting measured again."""

    point: Point
    measurement: Measurement
    tuned_error: ErrorRatio | None
    """Against the target, on the split it was tuned on; None if that is not known."""
    error: ErrorRatio

    @property
    def acceptance(self) -> Change:
        """The tuned rate minus the confirmed one; two splits share no window."""
        return Change.between(self.point.result, self.measurement, "acceptance_rate", paired=False)

    @property
    def mse(self) -> Change:
        """The tuned MSE minus the confirmed one."""
        return Change.between(self.point.result, self.measurement, "mse", paired=False)

    @property
    def is_the_same(self) -> bool:
        """Whether the second measurement gave the trial's numbers, as a replay must."""
        tuned, again = self.point.result, self.measurement
        return tuned.acceptance_rate == again.acceptance_rate and math.isclose(
            tuned.mse, again.mse, rel_tol=ROUNDING
        )


@dataclass(frozen=True)
class Confirmation:
    """Settings measured on two splits, or twice on the same one (a replay)."""

    study: str
    tuned: Split
    """The split that the study was tuned on."""
    confirmed: Split
    settings: tuple[Confirmed, ...]
    baseline: Baseline
    """On the confirmed split."""
    judgements: tuple[Judgement, ...]
    """Of the recommendations among the settings and of the draft alone; none of a replay."""

    @property
    def is_replay(self) -> bool:
        return self.tuned == self.confirmed


def confirm_study(
    config: StudyConfig, table: StudyTable, split: Split, trial: int | None = None
) -> Confirmation:
    """Measure a trial, or by default the front and what is recommended, again on `split`.

    On the split that the study was tuned on, a trial is replayed and must give the same numbers.

    Raises:
        InputError: `split` is the one that the front was tuned on.
        StudyError: no completed trial to confirm, or the study file now names other models, data
            or decoding than the study was measured with.
    """
    # The study file may have been edited; the store knows which split the trials were tuned on.
    data = (table.config or config).data
    if trial is None and split == data.split:
        raise InputError(
            f"--split {split}: study {config.name} was tuned on it; name another split to confirm, "
            "or a --trial to replay"
        )
    points = to_confirm(table) if trial is None else [table.point(trial)]
    if not points:
        raise StudyError(
            f"study {config.name}: no trial has completed yet, so there is nothing to confirm"
        )
    from spec_opt.measure.objective import StudyObjective  # brings torch

    again = data.model_copy(update={"split": split, "source": config.data.source})
    objective = StudyObjective.prepare(config.model_copy(update={"data": again}))
    found = objective.fingerprints
    if table.fingerprints is not None and split != data.split:  # other windows, another fingerprint
        found = replace(found, data=table.fingerprints.data)
    table.check_fingerprints(found, objective.config)
    splits = (data.split, split)

    def measure(point: Point) -> Measurement:
        return objective.of(point.variant).measure(point.setting)

    return confirm_points(table, points, splits, measure, objective.baseline)


def to_confirm(table: StudyTable) -> list[Point]:
    """The recommended trials, and one of each distinct result of the front."""
    recommended = [r.point for r in recommend_all(table) if r.point is not None]
    front = [block[0] for block in table.distinct_front]
    return list({point.number: point for point in (*recommended, *front)}.values())


def confirm_points(
    table: StudyTable,
    points: Sequence[Point],
    splits: tuple[Split, Split],
    measure: Callable[[Point], Measurement],
    baseline: Baseline,
) -> Confirmation:
    """Measure trials again; `splits` are the tuned one and that of `measure` and `baseline`."""
    settings = []
    for point in points:
        again, result, tuned = measure(point), point.result, None
        if table.baseline is not None:
            tuned = error_ratio(result.mse, result.blocks, table.baseline)
        error = error_ratio(again.mse, again.blocks, baseline)
        settings.append(Confirmed(point, again, tuned, error))
    judgements: list[Judgement] = []
    if splits[0] != splits[1]:
        known = {one.point.number: one for one in settings}
        judgements = [
            _judge(table, choice, known[choice.trial], splits[1], baseline)
            for choice in recommend_all(table)
            if choice.trial in known
        ]
        limit, error = limit_of(table), draft_error_ratio(baseline)
        judgements.append(_judgement("draft_alone", splits[1], error, limit))
    return Confirmation(
        table.name, splits[0], splits[1], tuple(settings), baseline, tuple(judgements)
    )


def _judge(
    table: StudyTable,
    choice: Recommendation,
    one: Confirmed,
    split: Split,
    baseline: Baseline,
) -> Judgement:
    """A recommendation by the limits of its scenario; an absolute limit stays absolute."""
    floor = bounds_of(table, choice.scenario).min_acceptance
    asked = vars(table.limits)[choice.scenario]
    absolute: float | None = getattr(asked, "max_mse", None)
    limit = asked.max_mse_ratio if absolute is None else absolute / baseline.target_mse
    judgement = _judgement(choice.scenario, split, one.error, limit)
    rate, width = one.measurement.acceptance_rate, one.measurement.acceptance_ci95
    judgement = replace(judgement, trial=choice.trial, acceptance_rate=rate)
    if judgement.outcome == "not confirmed" or rate - (width or 0.0) >= floor:
        return judgement
    outcome = "not confirmed" if rate < floor else "not settled"
    why = f"{percent(rate)} accepted, at least {percent(floor)} wanted"
    return replace(judgement, outcome=outcome, why=why)


def _judgement(scenario: str, split: str, error: ErrorRatio, limit: float) -> Judgement:
    if error.value > limit:
        outcome = "not confirmed"
    else:
        outcome = "confirmed" if error.is_inside(limit) else "not settled"
    why = None
    if outcome != "confirmed":
        width = None if error.high is None else 100 * (error.high - error.value)
        noise = f", by these windows ±{width:.1f}%" if width and outcome == "not settled" else ""
        why = f"MSE {relative(error.value, 1.0)} the target's{noise}, {allowed(limit)}"
    return Judgement(
        scenario, split, None, outcome, why, error.value, error.low, error.high, limit, None
    )


def keep_judgements(store: Store, confirmation: Confirmation) -> None:
    """Store what was judged with the study, in place of earlier judgements of the same kind."""
    judgements = confirmation.judgements
    keep_records(store, confirmation.study, "judgements", judgements, ("scenario", "split"))


def confirmation_text(confirmation: Confirmation, width: int | None = None) -> str:
    """For a terminal of `width` columns: the judgements, then a table of both splits."""
    baseline, tuned, again = confirmation.baseline, confirmation.tuned, confirmation.confirmed
    blocks: list[Block] = [
        Text(f"{confirmation.study}: tuned on {tuned}, measured again on {again}")
    ]
    if confirmation.is_replay:
        blocks.append(Text(_sameness(confirmation)))
    else:
        blocks.append(Bullets([_sentence(confirmation, one) for one in confirmation.judgements]))
    columns = ["trial", "sigma", "bias", "k", "MSE, % tuned", "MSE, % again"]
    columns += ["accepted tuned", "accepted again", "drop"]
    rows = [_row(confirmation, one) for one in confirmation.settings]
    blocks.append(Table(columns, rows))
    levels = ", ".join(f"{name} {mse:.4f}" for name, mse in baseline.levels.items())
    remarks = (
        "MSEs are compared with that of the target alone on the same windows. On "
        f"{again}: {levels}."
    )
    if not confirmation.is_replay:
        remarks = f"{remarks} {BETWEEN_SPLITS} {NOT_SPEED}"
    blocks.append(Text(remarks))
    return as_text(blocks, width)


def _sentence(confirmation: Confirmation, one: Judgement) -> str:
    name = one.scenario.replace("_", " ")
    settings = {c.point.number: c.point.setting for c in confirmation.settings}
    setting = settings.get(one.trial) if one.trial is not None else None
    what = "MSE" if one.acceptance_rate is None else "MSE and acceptance"
    limit = f"MSE {relative(one.mse_ratio, 1.0)} the target's, {allowed(one.limit)}"
    found = f"{what} confirmed: {limit}" if one.outcome == "confirmed" else one
    return f"{name}{f' ({setting})' if setting else ''}: {found}"


def _row(confirmation: Confirmation, one: Confirmed) -> tuple[str, ...]:
    drop, noisy = one.acceptance, not confirmation.is_replay  # a replay has the same windows
    width = drop.half_width if noisy else None
    return (
        str(one.point.number),
        *setting_cells(one.point.setting),
        "-" if one.tuned_error is None else _signed(one.tuned_error, noisy),
        _signed(one.error, noisy),
        percent(one.point.result.acceptance_rate),
        percent(one.measurement.acceptance_rate),
        with_error(f"{100 * drop.value:.1f}", width and 100 * width, 1),
    )


def _signed(error: ErrorRatio, noisy: bool) -> str:
    width = None if error.high is None or not noisy else 100 * (error.high - error.value)
    return with_error(f"{100 * error.value - 100:+.1f}", width, 1)


def _sameness(confirmation: Confirmation) -> str:
    others = [str(one.point.number) for one in confirmation.settings if not one.is_the_same]
    if not others:
        return "The same numbers again."
    return (
        f"Not the same numbers for trial {', '.join(others)}: another device or precision may "
        "round a proposal over the edge; else the store's numbers are not this study file's."
    )


def confirmation_document(confirmation: Confirmation) -> dict[str, Any]:
    """Everything, for `confirm --json`."""
    return {
        "study": confirmation.study,
        "tuned_on": confirmation.tuned,
        "confirmed_on": confirmation.confirmed,
        "judgements": [asdict(one) for one in confirmation.judgements],
        "baseline": {
            "target_mse": confirmation.baseline.target_mse,
            "draft_mse": confirmation.baseline.draft_mse,
            "linear_mse": confirmation.baseline.linear_mse,
        },
        "settings": [
            {
                "trial": one.point.number,
                "setting": one.point.setting.model_dump(),
                "mse_ratio": asdict(one.error),
                "tuned": _numbers(one.point.result),
                "confirmed": _numbers(one.measurement),
            }
            | ({"same": one.is_the_same} if confirmation.is_replay else {"drop": _drops(one)})
            for one in confirmation.settings
        ],
    }


def _drops(one: Confirmed) -> dict[str, float | None]:
    return {
        "acceptance_rate": one.acceptance.value,
        "acceptance_ci95": one.acceptance.half_width,
        "mse": one.mse.value,
        "mse_ci95": one.mse.half_width,
    }


def _numbers(measured: Measurement | Result) -> dict[str, float | None]:
    names = ("acceptance_rate", "acceptance_se", "acceptance_ci95", "mse", "mse_se", "mse_ci95")
    return {name: getattr(measured, name) for name in names}
