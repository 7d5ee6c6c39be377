"""The linear draft against the network draft, timed in turns with the target alone, on ETTh1.

    SPEC_OPT_SHARED=folder python -m benchmarks.linear_draft [--threads 2] [--deep] [--repeats 7]

By default it uses the trained target (256/8/512/2) with both drafts, rule point, k from 1 to 5, in
both context modes. With --deep it uses the target of 8 layers of `benchmarks.speculation`, at
horizon 720; that pair is trained on first use, which takes minutes.
"""

import argparse
import time

import torch

from benchmarks.environment import describe
from benchmarks.pair import CONTEXT, model, shared, windows
from benchmarks.speculation import DEEP, MODES
from spec_opt.config.models import DraftConfig, TargetConfig
from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting, StudyConfig
from spec_opt.config.values import ContextMode
from spec_opt.data.windows import Windows, load_dataset
from spec_opt.decoding.speculative import Workload
from spec_opt.measure.bench import bench
from spec_opt.measure.cost_model import acceptance_by_position
from spec_opt.measure.evaluator import Evaluator
from spec_opt.measure.measurement import BenchRow, Case
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.preparation import Models, prepare_models

SETTINGS = ((0.2, 2.0), (0.15, 2.0), (0.1, 1.0))
"""sigma and bias"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe()}\nrule point, median of {options.repeats} interleaved runs\n")

    horizon = 720 if options.deep else 336
    test = windows(horizon)  # also sets SPEC_OPT_DATA
    target, network, linear = models(options.deep)
    contexts = test.contexts()
    for name, draft in (("network", network), ("linear", linear)):
        gap = draft.predict(contexts).mean - target.predict(contexts).mean
        print(f"{name}: next patch {float(gap.square().mean()):.4f} from the target's (MSE)")
    for mode in options.modes:
        table(target, {"network": network, "linear": linear}, test, mode, options)


def models(deep: bool) -> tuple[MovableForecaster, MovableForecaster, MovableForecaster]:
    """Target, network draft, linear draft."""
    if deep:
        pair = prepare_models(DEEP, load_dataset(DEEP.data))
        target, network = pair.target, pair.draft
        return target, network, fitted(DEEP.model_copy(update={"draft": DraftConfig()})).draft
    study = StudyConfig(
        name="linear",
        data=DataConfig(source="ETTh1", context=CONTEXT, horizon=336),
        target=TargetConfig(checkpoint=shared() / "checkpoints" / "etth1_target_checkpoint.pth"),
    )
    pair = fitted(study)
    return pair.target, model("draft"), pair.draft


def fitted(study: StudyConfig) -> Models:
    dataset = load_dataset(study.data)
    began = time.perf_counter()
    pair = prepare_models(study, dataset)
    print(f"models prepared in {time.perf_counter() - began:.1f} s (less if they were cached)")
    return pair


def table(
    target: MovableForecaster,
    drafts: dict[str, MovableForecaster],
    test: Windows,
    mode: ContextMode,
    options: argparse.Namespace,
) -> None:
    config = DecodingConfig(rule="point", context=mode, device="cpu")
    evaluators = {name: Evaluator(target, draft, test, config) for name, draft in drafts.items()}
    baselines = {name: one.baseline() for name, one in evaluators.items()}
    alone = ", ".join(f"{name} {one.draft_mse:.4f}" for name, one in baselines.items())
    print(
        f"\n{mode}, horizon {test.horizon}: MSE of the target "
        f"{baselines['linear'].target_mse:.4f}, of the drafts alone: {alone}\n\n"
        "| setting | draft | acceptance | MSE | batch | target only, ms | speculative, ms "
        "| speedup (spread) | draft alone |\n|---|---|---|---|---|---|---|---|---|"
    )
    ks = (3, 5, 7) if options.deep else range(1, 6)
    for sigma, bias in SETTINGS:
        for k in ks:
            setting = Setting(sigma=sigma, bias=bias, k=k)
            cases = {name: case_of(one, setting) for name, one in evaluators.items()}
            for batch_size in options.batch_sizes:
                for name, one in evaluators.items():
                    row = timed(one.workload, mode, cases[name], batch_size, options.repeats)
                    print_row(row, name)


def case_of(measured: Evaluator, setting: Setting) -> Case:
    found = measured.measure(setting)
    acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
    return Case(None, setting, acceptance, found.acceptance_rate, found.mse)


def timed(
    workload: Workload, mode: ContextMode, case: Case, batch_size: int, repeats: int
) -> BenchRow:
    # A generous limit: costs are not learnt then, which would take longer than the runs.
    (row,) = bench(workload, mode, [case], [batch_size], repeats, seconds=3600.0)
    return row


def print_row(row: BenchRow, name: str) -> None:
    ratio = row.speedup
    print(
        f"| {row.setting} | {name} | {100 * row.acceptance_rate:.1f} % | {row.mse:.4f} "
        f"| {row.batch_size} | {1e3 * row.target_only_s / row.batches:.2f} "
        f"| {1e3 * row.speculative_s / row.batches:.2f} "
        f"| {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) "
        f"| {row.draft_speedup.value:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
