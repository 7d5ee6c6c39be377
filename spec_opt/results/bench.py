"""`spec-opt bench`, and the bench that ends a run: what is timed, kept with the study and shown.

`spec_opt.measure.bench` does the timing. Times are in seconds, medians over runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from spec_opt.config.study_file import Setting, StudyConfig, check_setting
from spec_opt.config.variants import Variant
from spec_opt.errors import InputError, WorkError
from spec_opt.measure.cost_model import BatchCosts, LearntCosts, acceptance_by_position
from spec_opt.measure.measurement import Baseline, BenchRow, Case, Ratio
from spec_opt.results.document import Block, Bullets, Table, Text, as_text
from spec_opt.results.recommend import bounds_on_results
from spec_opt.results.render import schedule_blocks
from spec_opt.results.schedule import Schedule, doublings, schedule_of
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import Point, StudyTable, table_of
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
from spec_opt.results.wording import percent, plural, setting_cells
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
    plain = {name: getattr(bench, name) for name in ("study", "device", "precision", "rule")}
    return plain | {
        "threads": bench.threads,
        "rows": [_row_document(row) for row in bench.rows],
        "baseline": asdict(bench.baseline),
        "verdict": bench.verdict.document(),
        "schedule": None if bench.schedule is None else bench.schedule.rows,
    }


def _row_document(row: BenchRow) -> dict[str, Any]:
    document = asdict(row)
    runs = {name: list(document.pop(name)) for name in ("target_only", "speculative", "draft_only")}
    return document | {
        "setting": row.setting.model_dump(),
        "target_only_s": row.target_only_s,
        "speculative_s": row.speculative_s,
        "draft_only_s": row.draft_only_s,
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
    if bench.schedule is not None and bench.predicted is not None:
        blocks.append(Bullets(_agreement(bench.predicted, bench.schedule)))
        blocks += schedule_blocks(bench.schedule)
    if (why := _why_slower(bench.rows)) is not None:
        blocks.append(Text(why))
    return as_text(blocks, width)


def _agreement(predicted: Schedule, measured: Schedule) -> list[str]:
    """At each batch size that was timed, the k that was predicted and the fastest one measured."""
    after = {gain.batch_size: gain for gain in measured.best}
    return [
        f"Batch size {gain.batch_size}: k = {gain.k} was predicted, k = "
        f"{after[gain.batch_size].k} is the fastest as measured."
        for gain in predicted.best
        if gain.batch_size in predicted.to_time
    ]


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


def _why_slower(rows: Sequence[BenchRow]) -> str | None:
    """Where the time of the fastest setting goes; None if it is faster than the target."""
    best = max(rows, key=lambda row: row.speedup.value)
    if best.speedup.value >= 1.0:
        return None
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
        points = worth_timing(table, config.recommend) if trial is None else [table.point(trial)]
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
    return _bench_points(store, objective, points, fitting, repeats, None, reference)


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
    bounds = bounds_on_results(table, "speed", config.recommend)
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
        now = table_of(store, config)
        return schedule_of(now, "speed", config.recommend, reference, device)

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
    key = ("device", "batch_size")
    if new:
        name = objective.config.name
        update_attribute(store, name, "batch_costs", lambda old: merged(old or [], new, key))
    elif seconds is None:
        spread = next(iter(learnt.values()))
        raise WorkError(f"study {table.name}: {spread}, so no cost is known; try an idle machine")
    return known


def _device_name(objective: StudyObjective) -> str:
    from spec_opt.models.device import device_name  # imports torch

    return device_name(objective.evaluator.workload.device)


def bench_run(
    config: StudyConfig, store: Store, prepare: Callable[[], StudyObjective], reference: str
) -> Bench | None:
    """The bench that ends a run, within `bench.seconds`; None if its results are there already.

    Args:
        prepare: gives the models on the windows; called only if there is something to time.
        reference: the study as it was named, for commands to paste.

    Raises:
        SpecOptError: a forecast is not finite, or `prepare` failed.
    """
    from spec_opt.models.device import device_name, resolve_device  # imports torch

    table = table_of(store, config)
    points = worth_timing(table, config.recommend)
    batch_size = config.decoding.batch_size
    sizes = sorted({1, *(min(batch_size, p.result.windows or batch_size) for p in points)})
    device = device_name(resolve_device(config.decoding.device))
    timed = {(s.trial, s.batch_size) for s in table.speedups if s.device == device and s.runs}
    if all((point.number, size) in timed for point in points for size in sizes):
        return None
    seconds = config.bench.seconds
    log.info("timing what is recommended, for about %g s", seconds)
    objective, began = prepare(), time.monotonic()
    sparse = {*doublings(sizes[-1])[::2], sizes[-1]}
    costs = _learn_costs(store, objective, table, sparse, COSTS_SHARE * seconds)
    left = max(0.0, seconds - (time.monotonic() - began))
    return _bench_points(store, objective, points, sizes, MOST_RUNS, left, reference, costs)


def _bench_points(
    store: Store,
    objective: StudyObjective,
    points: Sequence[Point],
    batch_sizes: Sequence[int],
    repeats: int,
    seconds: float | None,
    reference: str,
    costs: Mapping[int, LearntCosts] = MappingProxyType({}),
) -> Bench:
    config = objective.config
    by_variant: dict[Variant, list[Point]] = {}
    for point in points:
        by_variant.setdefault(point.variant, []).append(point)
    share = None if seconds is None else seconds / len(by_variant)
    rows: list[BenchRow] = []
    for variant, some in by_variant.items():
        of_variant = objective.of(variant)
        cases = [_case_of(point, of_variant) for point in some]
        known = costs if variant == objective.variant else {}
        timed, device = _timed(of_variant, cases, batch_sizes, repeats, share, known)
        speedups = speedups_of(timed, device)
        if variant != objective.variant:  # the study keeps the times of its own draft alone
            speedups = tuple(s for s in speedups if s.trial is not None)
        _keep(store, config.name, speedups)
        rows += timed
    table = table_of(store, config)
    verdict = verdict_of(table, config.recommend, reference)
    return _bench_of(objective, tuple(rows), _device_name(objective), verdict)


def _bench_setting(
    objective: StudyObjective,
    setting: Setting,
    batch_sizes: Sequence[int],
    repeats: int,
    reference: str,
) -> Bench:
    config, baseline = objective.config, objective.baseline
    found = objective(setting)
    acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
    case = Case(None, setting, acceptance, found.acceptance_rate, found.mse)
    rows, device = _timed(objective, [case], batch_sizes, repeats, None)
    table = StudyTable(
        name=config.name,
        trials=(),
        config=config,
        baseline=baseline,
        speedups=tuple(_speedup(None, row, row.draft_speedup, device) for row in rows),
    )
    measured = tuple(_speedup(None, row, row.speedup, device) for row in rows)
    error = error_ratio(found.mse, found.blocks, baseline)
    candidate = Candidate(setting, None, error, measured)
    limit = limit_of(table, config.recommend)
    verdict = judge([candidate], draft_candidate(table), limit, reference).cautioned(measured)
    return _bench_of(objective, rows, device, verdict)


def _bench_of(
    objective: StudyObjective, rows: tuple[BenchRow, ...], device: str, verdict: Verdict
) -> Bench:
    from spec_opt.measure import bench as timing  # imports torch

    config = objective.config
    return Bench(
        study=config.name,
        device=device,
        precision=config.decoding.precision,
        rule=config.decoding.rule,
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
    costs: Mapping[int, LearntCosts] = MappingProxyType({}),
) -> tuple[tuple[BenchRow, ...], str]:
    """The rows, and the device."""
    from spec_opt.measure import bench as timing  # imports torch

    workload, context = objective.evaluator.workload, objective.config.decoding.context
    rows = timing.bench(workload, context, cases, batch_sizes, repeats, seconds, costs)
    return rows, _device_name(objective)


def _case_of(point: Point, objective: StudyObjective) -> Case:
    result = point.result
    accepted, tested = result.accepted_by_position, result.tested_by_position
    rate, mse = result.acceptance_rate, result.mse
    if accepted is None or tested is None:  # imported
        check_setting(point.setting, objective.config.decoding.rule)
        found = objective(point.setting)
        accepted, tested = found.accepted_by_position, found.tested_by_position
        rate, mse = found.acceptance_rate, found.mse
    return Case(point.number, point.setting, acceptance_by_position(accepted, tested), rate, mse)


def speedups_of(rows: Sequence[BenchRow], device: str) -> tuple[Speedup, ...]:
    """What is kept with the study: those of trials, and of the draft alone at each batch size."""
    drafts = {row.batch_size: _speedup(None, row, row.draft_speedup, device) for row in rows}
    trials = (
        _speedup(row.trial, row, row.speedup, device) for row in rows if row.trial is not None
    )
    return (*drafts.values(), *trials)


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
    )


def _keep(store: Store, name: str, new: Sequence[Speedup]) -> None:
    """Add speedups to those of the study; another bench may do so at the same time."""
    update_attribute(store, name, "speedups", lambda old: merged(old or [], new))


def merged(
    old: Sequence[dict[str, Any]],
    new: Sequence[Speedup] | Sequence[BatchCosts],
    names: Sequence[str] = ("trial", "device", "batch_size"),
) -> list[dict[str, Any]]:
    """Stored speedups (or costs) and, at the end, new ones.

    A new one replaces that which equals it in all of `names`.
    """

    def key(stored: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(stored[name] for name in names)

    added = [asdict(one) for one in new]
    replaced = {key(one) for one in added}
    return [*(one for one in old if key(one) not in replaced), *added]
