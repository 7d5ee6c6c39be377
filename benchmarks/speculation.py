"""Speedup of speculative over target-only decoding on ETTh1, measured and predicted.

    SPEC_OPT_SHARED=folder python -m benchmarks.speculation [--threads 2] [--deep] [--repeats 7]

By default it uses the trained pair (256/8/512/2) in both context modes, with k from 1 to 5. With
--deep it uses a target of 8 layers with a draft of one, at a near and a far horizon; they are
trained on first use, which takes minutes.
"""

import argparse
import math
from collections.abc import Iterable

import torch

from benchmarks.environment import describe
from benchmarks.pair import CONTEXT, evaluator, windows
from spec_opt.config.models import (
    DistillationConfig,
    DraftConfig,
    ScaleConfig,
    TargetConfig,
    TrainingConfig,
)
from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting, StudyConfig
from spec_opt.config.values import ContextMode
from spec_opt.data.windows import load_dataset
from spec_opt.measure.bench import bench
from spec_opt.measure.cost_model import acceptance_by_position
from spec_opt.measure.evaluator import Evaluator
from spec_opt.measure.measurement import Case
from spec_opt.models.preparation import prepare_models

MODES: tuple[ContextMode, ...] = ("rolling", "growing")
DEEP = StudyConfig(
    name="deep",
    data=DataConfig(source="ETTh1", context=CONTEXT, horizon=336),
    target=TargetConfig(layers=8, training=TrainingConfig(epochs=3, max_windows=2000)),
    draft=DraftConfig(
        scale=ScaleConfig(layers=0.125),
        distillation=DistillationConfig(teacher_noise=0.05),
        training=TrainingConfig(learning_rate=1e-3, epochs=6, max_windows=4000),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe()}\nrule point, median of {options.repeats} interleaved runs\n")
    if options.deep:
        for horizon, ks in ((336, (2, 3)), (720, (3, 5, 7))):
            settings = [Setting(sigma=0.3, bias=2.0, k=k) for k in ks]
            settings += [Setting(sigma=0.1, bias=1.0, k=3)]
            for mode in MODES:
                table(deep(mode, horizon), mode, settings, options)
    else:
        for sigma, bias in ((0.15, 2.0), (0.1, 1.0)):
            settings = [Setting(sigma=sigma, bias=bias, k=k) for k in range(1, 6)]
            for mode in MODES:
                table(evaluator("point", mode), mode, settings, options)


def deep(mode: ContextMode, horizon: int) -> Evaluator:
    forecast = windows(horizon)  # also sets SPEC_OPT_DATA
    models = prepare_models(DEEP, load_dataset(DEEP.data))
    config = DecodingConfig(rule="point", context=mode, device="cpu")
    return Evaluator(models.target, models.draft, forecast, config)


def table(
    measured: Evaluator,
    mode: ContextMode,
    settings: Iterable[Setting],
    options: argparse.Namespace,
) -> None:
    baseline = measured.baseline()
    print(
        f"{mode}, horizon {measured.workload.windows.horizon}: MSE of the target "
        f"{baseline.target_mse:.4f}, of the draft {baseline.draft_mse:.4f}\n\n"
        "| setting | acceptance | MSE | batch | target only, ms | speculative, ms | draft only, ms "
        "| speedup (spread) | predicted | error | draft / verify / accept / rest, % |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    cases = []
    for setting in settings:
        found = measured.measure(setting)
        acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
        cases.append(Case(None, setting, acceptance, found.acceptance_rate, found.mse))
    for row in bench(measured.workload, mode, cases, options.batch_sizes, options.repeats):
        ratio, predicted = row.speedup, row.predicted_speedup or math.nan
        shares = " / ".join(f"{100 * share:.0f}" for share in vars(row.shares).values())
        print(
            f"| {row.setting} | {100 * row.acceptance_rate:.1f} % | {row.mse:.4f} "
            f"| {row.batch_size} | {1e3 * row.target_only_s / row.batches:.2f} "
            f"| {1e3 * row.speculative_s / row.batches:.2f} "
            f"| {1e3 * row.draft_only_s / row.batches:.2f} "
            f"| {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | {predicted:.2f} "
            f"| {100 * (predicted / ratio.value - 1):+.0f} % | {shares} |",
            flush=True,
        )
    print()


if __name__ == "__main__":
    main()
