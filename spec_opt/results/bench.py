"""`spec-opt bench`: which settings it times, the document for scripts, the table and the verdict.

Times are in seconds, medians over repeats; `spec_opt.measure.bench` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from spec_opt.config.study_file import Setting, StudyConfig, check_setting
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.cost_model import acceptance_by_position
from spec_opt.measure.measurement import Baseline, BenchRow, Case
from spec_opt.results.recommend import recommend_all
from spec_opt.results.table import Point, Speedup, StudyTable, read_table
from spec_opt.results.wording import aligned, draft_alone, percent, relative, setting_cells
from spec_opt.study.store import Store, open_store

if TYPE_CHECKING:
    from spec_opt.measure.objective import StudyObjective

BATCH_SIZES: Final = (1, 8, 64)
"""Besides the study's own."""

_HEADINGS = (
    "trial", "sigma", "bias", "k", "batch", "target only, ms", "speculative, ms", "speedup",
    "(spread)", "predicted", "patches/s", "draft", "verify", "accept", "rest",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """All rows of one run of the command, on one device."""

    study: str
    device: str
    precision: str
    rule: str
    threads: int
    """Of the CPU."""
    repeats: int
    rows: tuple[BenchRow, ...]
    baseline: Baseline

    @property
    def speedups(self) -> tuple[Speedup, ...]:
        """What the study keeps of it."""
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
    """The whole of it for a script."""
    return {
        "study": bench.study,
        "device": bench.device,
        "precision": bench.precision,
        "rule": bench.rule,
        "threads": bench.threads,
        "repeats": bench.repeats,
        "baseline": asdict(bench.baseline),
        "rows": [_row_document(row) for row in bench.rows],
        "verdict": verdict(bench),
    }


def _row_document(row: BenchRow) -> dict[str, Any]:
    low, high = row.spread
    return {
        "trial": row.trial,
        "setting": row.setting.model_dump(),
        "context": row.context,
        "batch_size": row.batch_size,
        "windows": row.windows,
        "target_only_s": row.target_only_s,
        "speculative_s": row.speculative_s,
        "draft_only_s": row.draft_only_s,
        "speedup": row.speedup,
        "speedup_low": low,
        "speedup_high": high,
        "predicted_speedup": row.predicted_speedup,
        "target_only_patches_per_s": row.patches / row.target_only_s,
        "speculative_patches_per_s": row.patches / row.speculative_s,
        "target_only_latency_s": row.target_only_s / row.batches,
        "speculative_latency_s": row.speculative_s / row.batches,
        "target_only_calls": row.target_only_calls,
        "target_calls": row.target_calls,
        "draft_calls": row.draft_calls,
        "rounds": row.rounds,
        "shares": asdict(row.shares),
        "acceptance_rate": row.acceptance_rate,
        "mse": row.mse,
        "runs": {
            "target_only": list(row.target_only),
            "speculative": list(row.speculative),
            "draft_only": list(row.draft_only),
        },
    }


def bench_text(bench: Bench) -> str:
    """A table for a terminal, and the verdict."""
    context = bench.rows[0].context if bench.rows else "no"
    lines = [
        f"{bench.study}: rule {bench.rule}, {context} context, {bench.precision}, on {bench.device}"
        f" ({bench.threads} threads); medians of {bench.repeats} runs, per batch",
        "",
    ]
    lines += aligned([_HEADINGS, *(_cells(row) for row in bench.rows)])
    return "\n".join([*lines, "", verdict(bench)])


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
    """Whether speculation pays here, and what else to know, in plain words."""
    if not bench.rows:
        return "Nothing was measured: no batch size fits the device's memory."
    # One that is clear, before one whose median is higher but whose runs disagree.
    best = max(bench.rows, key=lambda row: (row.spread[0] > 1.0, row.speedup))
    sentences = [_best(best, bench.baseline)]
    losing = sorted({row.batch_size for row in bench.rows if row.spread[1] < 1.0})
    winning = {row.batch_size for row in bench.rows if row.spread[0] > 1.0}
    only_losing = [size for size in losing if size not in winning]
    if winning and only_losing:
        sizes = ", ".join(map(str, only_losing))
        sentences.append(f"It loses at batch size {sizes}.")
    if best.speedup < 1.0:
        step = best.target_only_s / best.patches
        sentences.append(
            f"Why: a round costs as much as {best.speculative_s / best.rounds / step:.1f} patches "
            f"of the target alone and emits {best.patches / best.rounds:.1f}."
        )
    draft = draft_alone(bench.baseline, "on the study's windows")
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


def merged(old: Sequence[Speedup], new: Sequence[Speedup]) -> tuple[Speedup, ...]:
    """What a study knew of speedups and what was found now, which counts where both speak."""

    def key(one: Speedup) -> tuple[int, str, int]:
        return one.trial, one.device, one.batch_size

    found = {key(one): one for one in (*old, *new)}
    return tuple(found[one] for one in sorted(found))


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

    What is found of trials is kept with the study, for its report.

    Raises:
        StudyError: no such study or trial, or it was measured with other models, data or decoding.
        InputError: series, checkpoints or device do not fit, or the rule takes no such setting.
        DecodingError: a forecast is not finite.
    """
    # These bring torch, which a report does without.
    from spec_opt.measure.bench import bench, device_name, thread_count
    from spec_opt.measure.objective import StudyObjective

    store, points = None, []
    if setting is not None:
        check_setting(setting, config.decoding.rule)
    else:
        store = open_store(url, create=False)
        table = read_table(store.optuna_study(config.name))
        points = [table.point(trial)] if trial is not None else _recommended(table, config)
    objective = StudyObjective.prepare(config)
    if store is not None and table.fingerprints not in (None, objective.fingerprints):
        raise StudyError(
            f"study {config.name}: its trials were measured with other models, data or decoding "
            "than the study file gives now"
        )
    cases = [_case_of(point, objective) for point in points]
    if setting is not None:
        cases = [_measured(None, setting, objective)]
    workload = objective.evaluator.workload
    sizes = batch_sizes or (*BATCH_SIZES, config.decoding.batch_size)
    result = Bench(
        study=config.name,
        device=device_name(workload.device),
        precision=config.decoding.precision,
        rule=config.decoding.rule,
        threads=thread_count(),
        repeats=repeats,
        rows=bench(
            workload,
            config.decoding.context,
            cases,
            sorted({min(size, len(workload.windows)) for size in sizes}),
            repeats,
        ),
        baseline=objective.baseline,
    )
    if store is not None:
        _keep(store, config.name, result)
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


def _keep(store: Store, study: str, result: Bench) -> None:
    kept = store.optuna_study(study)
    speedups = merged(read_table(kept).speedups, result.speedups)
    kept.set_user_attr("speedups", [asdict(one) for one in speedups])
