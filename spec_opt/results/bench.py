"""`spec-opt bench`, and the bench that ends a run: what is timed, kept with the study and shown.

`spec_opt.measure.bench` does the timing. Times are in seconds, medians over runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from spec_opt.config.study_file import Setting, StudyConfig, check_setting
from spec_opt.config.variants import Variant
from spec_opt.errors import InputError, StoreError, WorkError
from spec_opt.measure.cost_model import BatchCosts, LearntCosts, acceptance_by_position
from spec_opt.measure.measurement import Baseline, BenchRow, Case, Measurement, Ratio
from spec_opt.results.document import Block, Bullets, Table, Text, as_text
from spec_opt.results.recommend import bounds_on_results
from spec_opt.results.render import schedule_blocks
from spec_opt.results.schedule import Schedule, doublings, schedule_of
from spec_opt.results.speedup import Speedup
from spec_opt.results.stored import keep_records
from spec_opt.results.table import Point, Result, StudyTable, table_of
from spec_opt.results.verdict import (
    Candidate,
    Verdict,
    draft_candidate,
    error_ratio,
    judge,
    limit_of,
    verdict_of,
    worth_timing,
)
from spec_opt.results.wording import narrower, percent, plural, setting_cells
from spec_opt.study.store import Store, open_store
from spec_opt.study.study import update_attribute

if TYPE_CHECKING:
    from spec_opt.measure.objective import StudyObjective

log = logging.getLogger(__name__)

BATCH_SIZES: Final = (1, 8, 64)
"""Timed besides the study's own."""
MOST_RUNS: Final = 9
"""At the end of `run`, however much time there is."""
COSTS_SHARE: Final = 0.25
"""Of the time at the end of `run`, for learning costs at several batch sizes."""
PREPARATION_SECONDS: Final = 60.0
"""For models and data, before anything is timed: a guess."""
TIMING_KEY: Final = "timing_until"

_COLUMNS = (
    "trial", "sigma", "bias", "k", "batch", "target ms", "draft ms", "spec. ms", "speedup",
    "low", "high", "pred.",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What was timed on one device, and the verdict that follows."""

    study: str
    device: str
    precision: str
    rule: str
    threads: int
    """CPU threads."""
    rows: tuple[BenchRow, ...]
    baseline: Baseline
    verdict: Verdict
    schedule: Schedule | None = None
    """With the speedups that were measured for it."""
    predicted: Schedule | None = None
    """The schedule before they were."""


def bench_document(bench: Bench) -> dict[str, Any]:
    """Everything, for `bench --json`."""
    names = ("study", "device", "precision", "rule", "threads")
    return {name: getattr(bench, name) for name in names} | {
        "rows": [_row_document(row) for row in bench.rows],
        "baseline": asdict(bench.baseline),
        "verdict": bench.verdict.document(),
        "schedule": bench.schedule and bench.schedule.rows,
    }


def _row_document(row: BenchRow) -> dict[str, Any]:
    document = asdict(row)
    runs = {name: list(document.pop(name)) for name in ("target_only", "speculative", "draft_only")}
    return document | {
        "setting": row.setting.model_dump(),
        **{f"{name}_s": getattr(row, f"{name}_s") for name in runs},
        "speedup": row.speedup.value,
        "speedup_low": row.speedup.low,
        "speedup_high": row.speedup.high,
        "draft_speedup": row.draft_speedup.value,
        "target_only_patches_per_s": row.patches / row.target_only_s,
        "speculative_patches_per_s": row.patches / row.speculative_s,
        "target_only_latency_s": row.target_only_s / row.batches,
        "speculative_latency_s": row.speculative_s / row.batches,
        "runs": runs,
    }


def bench_text(bench: Bench, width: int | None = None) -> str:
    """The verdict, a table, and what else the times say, for a terminal of `width` columns."""
    blocks: list[Block] = [Text(bench.verdict.reason)]
    if not bench.rows:
        blocks.append(Text("Nothing was measured: no batch size fits the device's memory."))
        return as_text(blocks, width)
    first = bench.rows[0]
    blocks.append(
        Text(
            f"{bench.study}: rule {bench.rule}, {first.context} context, {bench.precision}, on "
            f"{bench.device} ({plural(bench.threads, 'thread')}); medians of "
            f"{len(first.speculative)} runs, per batch; low and high are the slowest and the "
            "fastest run, pred. is the prediction"
        )
    )
    blocks.append(Table(_COLUMNS, [_cells(row) for row in bench.rows]))
    if any(row.predicted_speedup is None for row in bench.rows):
        blocks.append(
            Text(
                "Where pred. is - what decoding costs is not known: timings of the same work "
                "varied too much. The same command on an idle machine learns it."
            )
        )
    if bench.schedule is not None and bench.predicted is not None:
        after = {gain.batch_size: gain.k for gain in bench.schedule.best}
        agreement = [
            f"Batch size {gain.batch_size}: k = {gain.k} was predicted, k = "
            f"{after[gain.batch_size]} is the fastest as measured."
            for gain in bench.predicted.best
            if gain.batch_size in bench.predicted.to_time
        ]
        blocks += [Bullets(agreement), *schedule_blocks(bench.schedule)]
    return as_text([*blocks, Text(_why_slower(bench.rows))], width)


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = (row.target_only_s, row.draft_only_s, row.speculative_s)
    predicted = row.predicted_speedup
    return (
        "-" if row.trial is None else str(row.trial),
        *setting_cells(row.setting),
        str(row.batch_size),
        *(f"{1e3 * seconds / row.batches:.4g}" for seconds in times),
        *(f"{ratio:.2f}" for ratio in (row.speedup.value, row.speedup.low, row.speedup.high)),
        "-" if predicted is None else f"{predicted:.2f}",
    )


def _why_slower(rows: Sequence[BenchRow]) -> str:
    """Where the time of the fastest setting goes; empty if it is faster than the target."""
    best = max(rows, key=lambda row: row.speedup.value)
    if best.speedup.value >= 1.0:
        return ""
    step, shares = best.target_only_s / best.patches, asdict(best.shares)
    parts = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    return (
        f"At best, with {best.setting} and batches of {best.batch_size}, a round costs as much as "
        f"{best.speculative_s / best.rounds / step:.1f} patches of the target alone and emits "
        f"{best.patches / best.rounds:.1f}; its time: {parts}."
    )


def bench_study(
    config: StudyConfig,
    url: str,
    *,
    trial: int | None,
    setting: Setting | None,
    batch_sizes: Sequence[int],
    repeats: int,
    reference: str,
) -> Bench:
    """Bench a trial, a given setting, or (with neither) the recommended ones.

    Results for trials, and for the draft alone, are stored with the study. A given setting needs
    no study, and the verdict is about it alone.

    Args:
        reference: the study as it was named, for commands to paste.

    Raises:
        StudyError: no such study or trial, or it was measured with other models, data or decoding.
        InputError: series, checkpoints or device do not fit, or the rule takes no such setting.
        DecodingError: a forecast is not finite.
    """
    from spec_opt.measure.objective import StudyObjective  # imports torch

    if setting is not None:
        check_setting(setting, config.decoding.rule)
    else:
        store = open_store(url, create=False)
        table = table_of(store, config, also=() if trial is None else (trial,))
        points = worth_timing(table) if trial is None else [table.point(trial)]
        if not points:
            raise InputError(
                f"study {table.name}: no setting is recommended, so there is none to bench; "
                "give --trial, or --sigma, --bias and --k"
            )
    objective = StudyObjective.prepare(config)
    count = len(objective.evaluator.workload.windows)
    sizes = batch_sizes or (*BATCH_SIZES, config.decoding.batch_size)
    fitting = sorted({min(size, count) for size in sizes})
    if setting is not None:
        return _bench_setting(objective, setting, fitting, repeats, reference)
    table.check_fingerprints(objective.fingerprints, config)
    return _bench_points(store, objective, points, fitting, repeats, None, reference, {})


def bench_schedule(
    config: StudyConfig,
    url: str,
    *,
    batch_sizes: Sequence[int],
    repeats: int,
    reference: str,
) -> Bench:
    """Learn what decoding costs at each batch size, and time the schedule where its k changes.

    Args:
        batch_sizes: the largest is the schedule's; by default the study's own. Others are added.
        reference: the study as it was named, for commands to paste.

    Raises:
        StudyError: no such study, or it was measured with other models, data or decoding.
        InputError: no trial is within the bounds, or series, checkpoints or device do not fit.
        WorkError: no costs were learnt, timings varied too much, or all trials are imported.
        DecodingError: a forecast is not finite.
    """
    from spec_opt.measure.objective import StudyObjective  # imports torch

    store = open_store(url, create=False)
    table = table_of(store, config)
    bounds = bounds_on_results(table, "speed")
    if not any(p.result.feasible and bounds.hold(p) for p in table.points):
        raise InputError(
            f"study {table.name}: no trial has {bounds.text}, so there is no schedule; "
            f"`spec-opt recommend {reference}` says what comes closest"
        )
    objective = StudyObjective.prepare(config)
    table.check_fingerprints(objective.fingerprints, config)
    count = len(objective.evaluator.workload.windows)
    fitting = {min(size, count) for size in batch_sizes or (config.decoding.batch_size,)}
    costs = _learn_costs(store, objective, table, fitting | {*doublings(max(fitting))}, None)

    def scheduled(device: str | None) -> Schedule:
        return schedule_of(table_of(store, config), "speed", reference, device)

    predicted = scheduled(_device_name(objective))
    if predicted.unknown is not None:
        raise WorkError(f"study {table.name}: no schedule. {predicted.unknown}")
    points, sizes = predicted.rivals, predicted.to_time
    found = _bench_points(store, objective, points, sizes, repeats, None, reference, costs)
    return replace(found, predicted=predicted, schedule=scheduled(found.device))


def _learn_costs(
    store: Store,
    objective: StudyObjective,
    table: StudyTable,
    batch_sizes: Iterable[int],
    seconds: float | None,
) -> dict[int, LearntCosts]:
    """Costs by batch size, as far as they are known, learnt and kept with the study.

    Raises:
        WorkError: none is known, although there was no limit of time.
    """
    from spec_opt.measure import bench as timing  # imports torch

    learnt = timing.learn_by_batch_size(
        objective.evaluator.workload,
        batch_sizes,
        sigma=table.points[0].setting.sigma,
        largest_k=max(point.setting.k for point in table.points),
        seconds=seconds,
    )
    device = _device_name(objective)
    known = {size: costs for size, costs in learnt.items() if costs.are_known}
    # Others were learnt on a busy machine, and must not replace better ones.
    new = [BatchCosts(device, size, costs) for size, costs in known.items()]
    if new:
        keep_records(store, table.name, "batch_costs", new, ("device", "batch_size"))
    elif seconds is None:
        spread = next(iter(learnt.values()))
        raise WorkError(f"study {table.name}: {spread}, so no cost is known; try an idle machine")
    return known


def _device_name(objective: StudyObjective) -> str:
    from spec_opt.models.device import device_name  # imports torch

    return device_name(objective.evaluator.workload.device)


def bench_run(
    config: StudyConfig, store: Store, objective: StudyObjective | None, reference: str
) -> Bench | None:
    """The bench that ends a run, within `bench.seconds`; None if its results are there already.

    Args:
        objective: what the trials were measured with; by default it is prepared if need be.
        reference: the study as it was named, for commands to paste.

    Raises:
        SpecOptError: a forecast is not finite, or the models cannot be loaded.
    """
    if config.bench.seconds == 0:
        return None
    from spec_opt.measure.objective import StudyObjective  # imports torch
    from spec_opt.models.device import device_name, resolve_device

    table = table_of(store, config)
    points = worth_timing(table)
    batch_size = config.decoding.batch_size
    sizes = sorted({1, *(min(batch_size, p.result.windows or batch_size) for p in points)})
    device = device_name(resolve_device(config.decoding.device))
    timed = {(s.trial, s.batch_size) for s in table.speedups if s.device == device and s.runs}
    if all((point.number, size) in timed for point in points for size in sizes):
        return None
    seconds = config.bench.seconds
    log.info("timing what is recommended, for about %g s", seconds)
    with _noted(store, config.name, seconds):
        objective, began = objective or StudyObjective.prepare(config), time.monotonic()
        sparse = {*doublings(sizes[-1])[::2], sizes[-1]}
        costs = _learn_costs(store, objective, table, sparse, COSTS_SHARE * seconds)
        left = max(0.0, seconds - (time.monotonic() - began))
        return _bench_points(store, objective, points, sizes, MOST_RUNS, left, reference, costs)


@contextmanager
def _noted(store: Store, name: str, seconds: float) -> Iterator[None]:
    """Let the study say, while inside, that it is timed now; after a time it no longer counts."""
    until = datetime.now(UTC) + timedelta(seconds=2 * seconds + PREPARATION_SECONDS)
    update_attribute(store, name, TIMING_KEY, lambda _: until.isoformat())
    try:
        yield
    finally:
        with suppress(StoreError):
            update_attribute(store, name, TIMING_KEY, lambda _: None)


def _bench_points(
    store: Store,
    objective: StudyObjective,
    points: Sequence[Point],
    batch_sizes: Sequence[int],
    repeats: int,
    seconds: float | None,
    reference: str,
    costs: Mapping[int, LearntCosts],
) -> Bench:
    config, device = objective.config, _device_name(objective)
    by_variant: dict[Variant, list[Point]] = {}
    for point in points:
        by_variant.setdefault(point.variant, []).append(point)
    share = None if seconds is None else seconds / len(by_variant)
    rows: list[BenchRow] = []
    for variant, some in by_variant.items():
        own, of_variant = variant == objective.variant, objective.of(variant)
        cases = [_case_of(point, of_variant) for point in some]
        timed = _timed(of_variant, cases, batch_sizes, repeats, share, costs if own else {})
        # The study keeps the times of its own draft alone.
        kept = [s for s in speedups_of(timed, device) if own or s.trial is not None]
        keep_records(store, config.name, "speedups", kept, ("trial", "device", "batch_size"))
        rows += timed
    verdict = verdict_of(table_of(store, config), reference)
    return _bench_of(objective, tuple(rows), verdict)


def _bench_setting(
    objective: StudyObjective,
    setting: Setting,
    batch_sizes: Sequence[int],
    repeats: int,
    reference: str,
) -> Bench:
    config, baseline, device = objective.config, objective.baseline, _device_name(objective)
    found = objective.measure(setting)
    rows = _timed(objective, [_case(None, setting, found)], batch_sizes, repeats, None, {})
    table = StudyTable(
        name=config.name,
        trials=(),
        config=config,
        limits=config.recommend,
        baseline=baseline,
        series=objective.inputs.series.as_document(),
        speedups=speedups_of(rows, device),
    )
    measured = tuple(_speedup(None, row, row.speedup, device) for row in rows)
    error = error_ratio(found.mse, found.blocks, baseline)
    candidate = Candidate(setting, None, error, measured)
    limit = limit_of(table)
    verdict = judge([candidate], draft_candidate(table), limit, reference, narrower(table))
    verdict = verdict.cautioned(measured)
    return _bench_of(objective, rows, verdict)


def _bench_of(objective: StudyObjective, rows: tuple[BenchRow, ...], verdict: Verdict) -> Bench:
    from spec_opt.measure import bench as timing  # imports torch

    decoding = objective.config.decoding
    return Bench(
        study=objective.config.name,
        device=_device_name(objective),
        precision=decoding.precision,
        rule=decoding.rule,
        threads=timing.thread_count(),
        rows=rows,
        baseline=objective.baseline,
        verdict=verdict,
    )


def _timed(
    objective: StudyObjective,
    cases: Sequence[Case],
    batch_sizes: Sequence[int],
    repeats: int,
    seconds: float | None,
    costs: Mapping[int, LearntCosts],
) -> tuple[BenchRow, ...]:
    from spec_opt.measure import bench as timing  # imports torch

    workload, context = objective.evaluator.workload, objective.config.decoding.context
    return timing.bench(workload, context, cases, batch_sizes, repeats, seconds, costs)


def _case_of(point: Point, objective: StudyObjective) -> Case:
    found: Result | Measurement = point.result
    if found.accepted_by_position is None or found.tested_by_position is None:  # imported
        check_setting(point.setting, objective.config.decoding.rule)
        found = objective.measure(point.setting)
    return _case(point.number, point.setting, found)


def _case(trial: int | None, setting: Setting, found: Result | Measurement) -> Case:
    accepted, tested = found.accepted_by_position or (), found.tested_by_position or ()
    acceptance = acceptance_by_position(accepted, tested)
    return Case(trial, setting, acceptance, found.acceptance_rate, found.mse)


def speedups_of(rows: Sequence[BenchRow], device: str) -> tuple[Speedup, ...]:
    """What is kept with the study: those of trials, and of the draft alone at each batch size."""
    drafts = {row.batch_size: _speedup(None, row, row.draft_speedup, device) for row in rows}
    trials = [row for row in rows if row.trial is not None]
    return (*drafts.values(), *(_speedup(row.trial, row, row.speedup, device) for row in trials))


def _speedup(trial: int | None, row: BenchRow, ratio: Ratio, device: str) -> Speedup:
    return Speedup(
        trial=trial,
        device=device,
        batch_size=row.batch_size,
        predicted_speedup=None if trial is None else row.predicted_speedup,
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        runs=len(row.target_only),
        target_low_s=min(row.target_only),
        target_high_s=max(row.target_only),
        windows=row.windows,
    )
