"""`spec-opt bench`: which settings are timed, and the results as JSON, as a table and in words.

`spec_opt.measure.bench` does the timing. Times are in seconds, medians over repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import optuna

from spec_opt.config.study_file import Setting, StudyConfig, check_setting
from spec_opt.errors import InputError
from spec_opt.measure.cost_model import acceptance_by_position
from spec_opt.measure.measurement import Baseline, BenchRow, Case
from spec_opt.results.document import Table, as_text
from spec_opt.results.recommend import recommend_all
from spec_opt.results.table import Point, Speedup, StudyTable, read_table
from spec_opt.results.wording import draft_alone, percent, relative, setting_cells
from spec_opt.study.store import open_store

if TYPE_CHECKING:
    from spec_opt.measure.objective import StudyObjective

BATCH_SIZES: Final = (1, 8, 64)
"""Timed besides the study's own."""

_HEADINGS = (
    "trial", "sigma", "bias", "k", "batch", "target only, ms", "speculative, ms", "speedup",
    "(spread)", "predicted", "patches/s", "draft", "verify", "accept", "rest",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """All measurements of one run of the command, on one device."""

    study: str
    device: str
    precision: str
    rule: str
    threads: int
    """CPU threads."""
    repeats: int
    rows: tuple[BenchRow, ...]
    baseline: Baseline
    equivalence_margin: float

    @property
    def speedups(self) -> tuple[Speedup, ...]:
        """What is stored with the study: the rows of trials."""
        return tuple(
            Speedup(
                trial=row.trial,
                device=self.device,
                batch_size=row.batch_size,
                predicted_speedup=row.predicted_speedup,
                speedup=row.speedup,
                speedup_low=row.spread[0],
            )
            for row in self.rows
            if row.trial is not None
        )


def bench_document(bench: Bench) -> dict[str, Any]:
    """Everything, for `bench --json`."""
    rows = [_row_document(row) for row in bench.rows]
    return asdict(bench) | {"rows": rows, "verdict": verdict(bench)}


def _row_document(row: BenchRow) -> dict[str, Any]:
    document = asdict(row)
    runs = {name: list(document.pop(name)) for name in ("target_only", "speculative", "draft_only")}
    low, high = row.spread
    return document | {
        "setting": row.setting.model_dump(),
        "target_only_s": row.target_only_s,
        "speculative_s": row.speculative_s,
        "draft_only_s": row.draft_only_s,
        "speedup": row.speedup,
        "speedup_low": low,
        "speedup_high": high,
        "target_only_patches_per_s": row.patches / row.target_only_s,
        "speculative_patches_per_s": row.patches / row.speculative_s,
        "target_only_latency_s": row.target_only_s / row.batches,
        "speculative_latency_s": row.speculative_s / row.batches,
        "runs": runs,
    }


def bench_text(bench: Bench) -> str:
    """A table for a terminal, and the verdict."""
    context = bench.rows[0].context if bench.rows else "no"
    heading = (
        f"{bench.study}: rule {bench.rule}, {context} context, {bench.precision}, on {bench.device}"
        f" ({bench.threads} threads); medians of {bench.repeats} runs, per batch"
    )
    rows = as_text([Table(_HEADINGS, [_cells(row) for row in bench.rows])], 200)
    return f"{heading}\n\n{rows}\n\n{verdict(bench)}"


def _cells(row: BenchRow) -> tuple[str, ...]:
    low, high = row.spread
    return (
        "-" if row.trial is None else str(row.trial),
        *setting_cells(row.setting),
        str(row.batch_size),
        f"{1e3 * row.target_only_s / row.batches:.2f}",
        f"{1e3 * row.speculative_s / row.batches:.2f}",
        f"{row.speedup:.2f}",
        f"({low:.2f}-{high:.2f})",
        f"{row.predicted_speedup:.2f}",
        f"{row.patches / row.speculative_s:.0f}",
        *(percent(share) for share in asdict(row.shares).values()),
    )


def verdict(bench: Bench) -> str:
    """Whether speculation pays on this device, and what else to know."""
    if not bench.rows:
        return "Nothing was measured: no batch size fits the device's memory."
    # A clear gain counts before a higher median whose runs disagree.
    best = max(bench.rows, key=lambda row: (row.spread[0] > 1.0, row.speedup))
    sentences = [_best(best, bench.baseline)]
    losing = {row.batch_size for row in bench.rows if row.spread[1] < 1.0}
    winning = {row.batch_size for row in bench.rows if row.spread[0] > 1.0}
    if winning and losing - winning:
        sizes = ", ".join(map(str, sorted(losing - winning)))
        sentences.append(f"It loses at batch size {sizes}.")
    if best.speedup < 1.0:
        step = best.target_only_s / best.patches
        sentences.append(
            f"Why: a round costs as much as {best.speculative_s / best.rounds / step:.1f} patches "
            f"of the target alone and emits {best.patches / best.rounds:.1f}."
        )
    draft = draft_alone(bench.baseline, "on the study's windows", bench.equivalence_margin)
    if draft is not None:
        fastest = max(bench.rows, key=lambda row: row.target_only_s / row.draft_only_s)
        sentences.append(
            f"{draft} It is up to {fastest.target_only_s / fastest.draft_only_s:.1f} times as fast "
            f"as the target (batch size {fastest.batch_size})."
        )
    return " ".join(sentences)


def _best(row: BenchRow, baseline: Baseline) -> str:
    low, high = row.spread
    where = (
        f"at {row.setting}, batch size {row.batch_size} "
        f"({low:.2f} to {high:.2f} over {len(row.speculative)} runs)"
    )
    if low > 1.0:
        return (
            f"Speculation pays here: up to {row.speedup:.2f} times as fast as the target alone "
            f"{where}, with an MSE {relative(row.mse, baseline.target_mse)} the target's."
        )
    if high < 1.0:
        return (
            "Speculation does not pay here: at best it takes "
            f"{1 / row.speedup:.2f} times as long as the target alone, {where}."
        )
    return (
        "Speculation makes no clear difference here: at best it is "
        f"{row.speedup:.2f} times as fast as the target alone, {where}."
    )


def bench_study(
    config: StudyConfig,
    url: str,
    *,
    trial: int | None,
    setting: Setting | None,
    batch_sizes: Sequence[int],
    repeats: int,
) -> Bench:
    """Bench a trial, a given setting, or (with neither) the recommended ones.

    Results for trials are stored with the study, for its report.

    Raises:
        StudyError: no such study or trial, or it was measured with other models, data or decoding.
        InputError: series, checkpoints or device do not fit, or the rule takes no such setting.
        DecodingError: a forecast is not finite.
    """
    from spec_opt.measure import bench as timing  # imports torch
    from spec_opt.measure.objective import StudyObjective
    from spec_opt.models.device import device_name

    if setting is not None:
        check_setting(setting, config.decoding.rule)
        objective = StudyObjective.prepare(config)
        cases = [_measured(None, setting, objective)]
    else:
        store = open_store(url, create=False)
        table = read_table(store.optuna_study(config.name), config.search)
        points = _recommended(table, config) if trial is None else [table.point(trial)]
        objective = StudyObjective.prepare(config)
        table.check_fingerprints(objective.fingerprints)
        cases = [_case_of(point, objective) for point in points]
    workload = objective.evaluator.workload
    sizes = batch_sizes or (*BATCH_SIZES, config.decoding.batch_size)
    fitting = sorted({min(size, len(workload.windows)) for size in sizes})
    result = Bench(
        study=config.name,
        device=device_name(workload.device),
        precision=config.decoding.precision,
        rule=config.decoding.rule,
        threads=timing.thread_count(),
        repeats=repeats,
        rows=timing.bench(workload, config.decoding.context, cases, fitting, repeats),
        baseline=objective.baseline,
        equivalence_margin=config.recommend.equivalence_margin,
    )
    if setting is None:
        _store_speedups(store.optuna_study(config.name), result)
    return result


def _recommended(table: StudyTable, config: StudyConfig) -> list[Point]:
    choices = recommend_all(table, config.recommend)
    points = {choice.point.number: choice.point for choice in choices if choice.point is not None}
    if not points:
        raise InputError(
            f"study {table.name}: no setting is recommended, so there is none to bench; "
            "give --trial, or --sigma, --bias and --k"
        )
    return list(points.values())


def _case_of(point: Point, objective: StudyObjective) -> Case:
    result = point.result
    accepted, tested = result.accepted_by_position, result.tested_by_position
    if accepted is None or tested is None:  # imported
        check_setting(point.setting, objective.config.decoding.rule)
        return _measured(point.number, point.setting, objective)
    acceptance = acceptance_by_position(accepted, tested)
    return Case(point.number, point.setting, acceptance, result.acceptance_rate, result.mse)


def _measured(trial: int | None, setting: Setting, objective: StudyObjective) -> Case:
    found = objective(setting)
    acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
    return Case(trial, setting, acceptance, found.acceptance_rate, found.mse)


def _store_speedups(study: optuna.Study, result: Bench) -> None:
    speedups = merged(read_table(study).speedups, result.speedups)
    study.set_user_attr("speedups", [asdict(one) for one in speedups])


def merged(old: Sequence[Speedup], new: Sequence[Speedup]) -> tuple[Speedup, ...]:
    """Stored and new speedups; a new one replaces that of the same trial, device and batch size."""
    found = {(one.trial, one.device, one.batch_size): one for one in (*old, *new)}
    return tuple(found[key] for key in sorted(found))
