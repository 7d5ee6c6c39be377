"""What `spec-opt bench` found: rows, the document for scripts, the table and the verdict in words.

Times are in seconds, medians over repeats; `spec_opt.bench` measures them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spec_opt.config import Setting
from spec_opt.measurement import Baseline
from spec_opt.results.table import Speedup
from spec_opt.results.wording import aligned, draft_alone, percent, relative, setting_cells

_HEADINGS = (
    "trial", "sigma", "bias", "k", "batch", "target only, ms", "speculative, ms", "speedup",
    "(spread)", "predicted", "patches/s", "draft", "verify", "accept", "rest",
)  # fmt: skip


@dataclass(frozen=True)
class Shares:
    """Where the time of speculative decoding goes; they add up to 1."""

    draft: float
    verification: float
    acceptance: float
    """Sampling, judging, replacing."""
    overhead: float


@dataclass(frozen=True)
class BenchRow:
    """One setting at one batch size: repeated runs over the same windows, taken in turns."""

    trial: int | None
    """None for a setting that was given."""
    setting: Setting
    context: str
    """rolling or growing"""
    batch_size: int
    windows: int
    """Forecasts per run; they are made in batches, one after the other."""
    patches: int
    """Patches per run."""
    rounds: int
    """Rounds per run, over all windows."""
    target_only: tuple[float, ...]
    """Seconds of each run: the target alone, with the same emission, precision and contexts."""
    speculative: tuple[float, ...]
    draft_only: tuple[float, ...]
    """The draft's means."""
    predicted_speedup: float
    target_only_calls: int
    """Calls of the model per run."""
    target_calls: int
    draft_calls: int
    shares: Shares
    acceptance_rate: float
    mse: float

    @property
    def target_only_s(self) -> float:
        return statistics.median(self.target_only)

    @property
    def speculative_s(self) -> float:
        return statistics.median(self.speculative)

    @property
    def draft_only_s(self) -> float:
        return statistics.median(self.draft_only)

    @property
    def speedup(self) -> float:
        """Target-only over speculative, medians."""
        return self.target_only_s / self.speculative_s

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and highest speedup of runs that stood side by side."""
        ratios = [a / b for a, b in zip(self.target_only, self.speculative, strict=True)]
        return min(ratios), max(ratios)

    @property
    def batches(self) -> int:
        """Batches per run; a forecast is there when its batch is."""
        return -(-self.windows // self.batch_size)


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
