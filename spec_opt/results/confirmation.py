"""Settings measured again: on a split that they were not tuned on, or on the same as a replay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.values import Split
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.measurement import Baseline, Measurement
from spec_opt.results.document import Table, as_text
from spec_opt.results.table import Point, Result, StudyTable
from spec_opt.results.wording import (
    draft_alone,
    percent,
    relative,
    setting_cells,
    with_error,
)

_HEADINGS = (
    "trial", "sigma", "bias", "k", "acceptance", "", "drop", "MSE", "", "drop", "of target's", "",
)  # fmt: skip

BETWEEN_SPLITS = (
    "± is over windows within a split: what sets splits apart, such as a season, is not in it."
)

ROUNDING = 1e-5
"""Relative difference allowed in a replayed MSE: devices and batch sizes round differently."""


@dataclass(frozen=True)
class Drop:
    """The tuned value minus the confirmed one."""

    value: float
    half_width: float | None
    """Of the 95 % interval, from both splits: they share no window. None if not known."""

    @property
    def is_clear(self) -> bool | None:
        """Whether the drop is beyond noise; None if the noise is not known."""
        return None if self.half_width is None else self.value > self.half_width


@dataclass(frozen=True)
class Confirmed:
    """A trial of the study, and its setting measured again."""

    point: Point
    measurement: Measurement

    @property
    def acceptance(self) -> Drop:
        return self._drop("acceptance_rate", "acceptance_ci95")

    @property
    def mse(self) -> Drop:
        return self._drop("mse", "mse_ci95")

    def _drop(self, name: str, half_width: str) -> Drop:
        tuned, again = vars(self.point.result), vars(self.measurement)
        noise = tuned[half_width], again[half_width]
        return Drop(tuned[name] - again[name], None if None in noise else math.hypot(*noise))

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
    tuned_baseline: Baseline | None
    baseline: Baseline
    """On the confirmed split."""
    equivalence_margin: float

    @property
    def is_replay(self) -> bool:
        return self.tuned == self.confirmed


def confirm_study(
    config: StudyConfig, table: StudyTable, split: Split, trial: int | None = None
) -> Confirmation:
    """Measure a trial, or by default every setting of the front, again on `split`.

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
    points = [block[0] for block in table.distinct_front] if trial is None else [table.point(trial)]
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
    table.check_fingerprints(found)
    return confirm_points(table, points, (data.split, split), objective, objective.baseline)


def confirm_points(
    table: StudyTable,
    points: Sequence[Point],
    splits: tuple[Split, Split],
    measure: Callable[[Setting], Measurement],
    baseline: Baseline,
) -> Confirmation:
    """Measure trials again; `splits` are the tuned one and that of `measure` and `baseline`."""
    return Confirmation(
        study=table.name,
        tuned=splits[0],
        confirmed=splits[1],
        settings=tuple(Confirmed(point, measure(point.setting)) for point in points),
        tuned_baseline=table.baseline,
        baseline=baseline,
        equivalence_margin=table.equivalence_margin,
    )


def confirmation_text(confirmation: Confirmation) -> str:
    """A table for a terminal: each number as tuned and as confirmed, and the drop."""
    baseline, where = confirmation.baseline, f"on {confirmation.confirmed}"
    sentences = (
        f"Target alone {where}: MSE {baseline.target_mse:.4f}, draft alone: MSE "
        f"{baseline.draft_mse:.4f}.",
        _sameness(confirmation) if confirmation.is_replay else _worst(confirmation),
        None if confirmation.is_replay else BETWEEN_SPLITS,
        draft_alone(baseline, where, confirmation.equivalence_margin),
    )
    rows = [_row(confirmation, one) for one in confirmation.settings]
    return "\n".join(
        [
            f"{confirmation.study}: {confirmation.tuned} (tuned on) -> {confirmation.confirmed}",
            "",
            as_text([Table(_HEADINGS, rows)], 200),
            "",
            *(sentence for sentence in sentences if sentence),
        ]
    )


def _row(confirmation: Confirmation, one: Confirmed) -> tuple[str, ...]:
    result, again, tuned = one.point.result, one.measurement, confirmation.tuned_baseline
    acceptance, mse = one.acceptance, one.mse
    noise = (acceptance.half_width, mse.half_width)
    if confirmation.is_replay:  # the same windows
        noise = (None, None)
    return (
        str(one.point.number),
        *setting_cells(one.point.setting),
        percent(result.acceptance_rate),
        f"-> {percent(again.acceptance_rate)}",
        with_error(f"{100 * acceptance.value:.1f}", noise[0] and 100 * noise[0], 1),
        f"{result.mse:.4f}",
        f"-> {again.mse:.4f}",
        with_error(f"{mse.value:.4f}", noise[1], 4),
        "" if tuned is None else relative(result.mse, tuned.target_mse),
        f"-> {relative(again.mse, confirmation.baseline.target_mse)}",
    )


def _worst(confirmation: Confirmation) -> str:
    """How far the acceptance fell at most. Not the MSE: splits differ in difficulty."""
    worst = max(confirmation.settings, key=lambda one: one.acceptance.value)
    drop = worst.acceptance
    if drop.value <= 0:
        return "Acceptance falls nowhere."
    noise = {
        True: "outside the 95 % interval",
        False: "inside the 95 % interval",
        None: "of unknown noise",
    }[drop.is_clear]
    return (
        f"Acceptance falls most for {worst.point.setting}: by {100 * drop.value:.1f} percentage "
        f"points, {noise}."
    )


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
        "baseline": {
            "target_mse": confirmation.baseline.target_mse,
            "draft_mse": confirmation.baseline.draft_mse,
        },
        "settings": [
            {
                "trial": one.point.number,
                "setting": one.point.setting.model_dump(),
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
    return {name: vars(measured)[name] for name in names}
