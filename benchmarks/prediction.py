"""The speedup that a study predicts, held against what is measured.

    SPEC_OPT_SHARED=folder python -m benchmarks.prediction [--wide] [--repeats 5]

Costs are learnt as a study's worker learns them. By default on the trained ETTh1 pair: 60 rows over
settings, batch sizes and context modes. With --wide on an untrained pair whose target is so large
that one decode of a whole batch takes seconds; run it with OMP_NUM_THREADS=1, and beside a second
process that keeps a core busy too.
"""

import argparse
from dataclasses import replace
from statistics import median

import torch

from benchmarks.environment import describe
from benchmarks.pair import CONTEXT, evaluator
from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting, SyntheticConfig
from spec_opt.config.values import ContextMode
from spec_opt.data.windows import load_dataset
from spec_opt.decoding.speculative import Workload
from spec_opt.measure.bench import interleave, spaced_batches
from spec_opt.measure.cost_learning import learn_costs_quickly
from spec_opt.measure.cost_model import acceptance_by_position, predicted_speedup
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

MODES: tuple[ContextMode, ...] = ("rolling", "growing")
GOAL = 0.15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{describe()}\nrule point, medians of {options.repeats} interleaved runs\n")
    print(
        "| context | batch | setting | acceptance | predicted | measured (spread) | error |\n"
        "|---|---|---|---|---|---|---|"
    )
    errors: list[float] = []
    if options.wide:
        settings = [Setting(sigma=1e6, bias=1.0, k=k) for k in (1, 3, 5)]
        errors += compare(wide(), "rolling", 32, settings, options.repeats)
    else:
        pairs = ((0.15, 2.0), (0.1, 1.0))
        settings = [Setting(sigma=s, bias=b, k=k) for s, b in pairs for k in range(1, 6)]
        for mode in MODES:
            for batch_size in (1, 8, 64):
                errors += compare(
                    evaluator("point", mode), mode, batch_size, settings, options.repeats
                )
    if errors:
        within = sum(abs(error) <= GOAL for error in errors)
        print(f"\nWithin {100 * GOAL:g} %: {within} of {len(errors)} rows.")


def wide() -> Evaluator:
    """A large untrained target and a draft, which accept each other at a large sigma."""
    torch.manual_seed(0)
    target = TimerXLConfig(96, 1024, 8, 2048, 2)
    draft = replace(target, d_model=256, heads=2, feedforward=512, layers=1)
    data = DataConfig(
        source="synthetic",
        context=CONTEXT,
        horizon=336,
        max_windows=32,
        synthetic=SyntheticConfig(rows=8000, channels=7),
    )
    windows = load_dataset(data).windows("validation", CONTEXT, 336, 1, 32)
    config = DecodingConfig(rule="point", device="cpu", batch_size=32)
    models = [FrozenTimerXL(TimerXL(sizes)) for sizes in (target, draft)]
    return Evaluator(models[0], models[1], windows, config)


def compare(
    measured: Evaluator, mode: str, batch_size: int, settings: list[Setting], repeats: int
) -> list[float]:
    """Print a row for each setting; returns the relative errors of the predictions."""
    workload = measured.workload
    largest = max(setting.k for setting in settings)
    learnt = learn_costs_quickly(
        workload, batch_size, sigma=settings[0].sigma, largest_k=largest, seconds=0.5
    )
    errors = []
    for setting in settings:
        found = measured.measure(setting)
        acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
        ratios = speedups(workload, setting, batch_size, repeats)
        speedup, predicted = median(ratios), "not known"
        error = ""
        if learnt.are_known:
            value = predicted_speedup(acceptance, workload.patches, learnt.costs, batch_size)
            errors.append(value / speedup - 1.0)
            predicted, error = f"{value:.2f}", f"{100 * errors[-1]:+.0f} %"
        print(
            f"| {mode} | {batch_size} | {setting} | {100 * found.acceptance_rate:.1f} % "
            f"| {predicted} | {speedup:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {error} |",
            flush=True,
        )
    print(f"| | | | | | {learnt} | |", flush=True)
    return errors


def speedups(workload: Workload, setting: Setting, batch_size: int, repeats: int) -> list[float]:
    """Target-only over speculative time of each turn."""
    batches = spaced_batches(len(workload.windows), batch_size)
    alone, together = interleave(
        [
            lambda: [workload.target_only(index, setting) for index in batches],
            lambda: [workload.speculatively(index, setting) for index in batches],
        ],
        repeats,
        workload.device,
    )
    return [a / b for a, b in zip(alone, together, strict=True)]


if __name__ == "__main__":
    main()
