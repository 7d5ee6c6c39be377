"""Growing and rolling contexts compared on the trained ETTh1 pair: time in the target, and errors.

SPEC_OPT_SHARED=folder python -m benchmarks.growing [--threads 2] [--no-times | --no-errors]
"""

import argparse
import statistics
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.environment import describe
from benchmarks.pair import CONTEXT, evaluator, model, windows
from spec_opt.config.study_file import DecodingConfig, Setting
from spec_opt.config.values import ContextMode, Rule
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import GROWING, ROLLING, Contexts, patches_to_cover
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Workload
from spec_opt.measure.cost_learning import Stopwatch
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.forecaster import Forecaster, Gaussian, Memory
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

MODES: tuple[ContextMode, ...] = ("rolling", "growing")
SETTINGS: dict[Rule, tuple[Setting, ...]] = {
    "point": (
        Setting(sigma=0.1, bias=1.0, k=3),
        Setting(sigma=0.15, bias=2.0, k=3),
        Setting(sigma=0.25, bias=2.0, k=4),
    ),
    "stride": (
        Setting(sigma=0.25, bias=1.0, k=1),
        Setting(sigma=0.25, bias=1.0, k=3),
        Setting(sigma=0.5, bias=1.0, k=4),
    ),
    "exact": (Setting(sigma=0.1, bias=1.0, k=3), Setting(sigma=0.25, bias=1.0, k=3)),
}
SIZES = (
    # d_model, heads, feedforward, layers; context; batch sizes
    ((256, 8, 512, 2), 672, (1, 8, 64)),
    ((256, 8, 512, 2), 1536, (1, 8, 64)),
    ((256, 8, 512, 8), 672, (1, 8, 64)),
    ((1024, 8, 2048, 1), 1536, (1, 8)),
)
REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--no-errors", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe()}\n")
    if not options.no_times:
        target_times()
    if not options.no_errors:
        errors()
        positions()


def target_times() -> None:
    """Time in the target, rolling and growing alternating; the weights do not matter here."""
    print(
        "| d_model/heads/feedforward/layers | context | batch | what | rolling, ms | growing, ms "
        "| ratio (spread) | goal |\n|---|---|---|---|---|---|---|---|"
    )
    for sizes, context, batches in SIZES:
        workloads = [made_up(sizes, context, mode) for mode in MODES]
        for batch in batches:
            for name, alone, goal in (
                ("target only", True, "< 0.50"),
                ("verification, k = 3", False, "< 0.40"),
            ):
                runs = [
                    [target_seconds(work, batch, alone=alone) for work in workloads]
                    for _ in range(REPEATS + 1)
                ][1:]
                rolling, growing = (1e3 * statistics.median(run[m] for run in runs) for m in (0, 1))
                ratios = [run[1] / run[0] for run in runs]
                print(
                    f"| {'/'.join(map(str, sizes))} | {context} | {batch} | {name} | {rolling:.2f} "
                    f"| {growing:.2f} | {growing / rolling:.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}) | {goal} |",
                    flush=True,
                )
    print()


def made_up(sizes: tuple[int, int, int, int], context: int, mode: ContextMode) -> Workload:
    """An untrained target of these sizes and a small draft, on noise; horizon 336, 7 channels."""
    torch.manual_seed(0)
    target = FrozenTimerXL(TimerXL(TimerXLConfig(96, *sizes)))
    draft = FrozenTimerXL(TimerXL(TimerXLConfig(96, 64, 2, 128, 1, stochastic=True)))
    forecast = Windows(torch.randn(context + 336 + 63, 7), torch.arange(64), context, 336)
    return Evaluator(
        target, draft, forecast, DecodingConfig(rule="point", context=mode, device="cpu")
    ).workload


def target_seconds(workload: Workload, batch: int, *, alone: bool) -> float:
    watch, index = Stopwatch(torch.device("cpu")), torch.arange(batch)
    # Scripted at random, so that both modes accept the same 60 % of proposals.
    work = replace(workload, observer=watch, scripted_acceptance=0.6)
    setting = Setting(sigma=0.25, bias=1.0, k=3)
    if alone:
        work.target_only(index, setting)
    else:
        work.speculatively(index, setting)
    return watch.within["target"]


def errors() -> None:
    """Acceptance and MSE of settings of all three rules in both modes."""
    print("| rule | setting | acceptance, rolling | growing | MSE, rolling | growing |")
    print("|---|---|---|---|---|---|")
    for rule, settings in SETTINGS.items():
        both = [evaluator(rule, mode) for mode in MODES]
        if rule == "point":
            rolling, growing = (one.baseline() for one in both)
            print(f"| target alone | | | | {rolling.target_mse:.4f} | {growing.target_mse:.4f} |")
            print(f"| draft alone | | | | {rolling.draft_mse:.4f} | {growing.draft_mse:.4f} |")
        for setting in settings:
            found = [one.measure(setting) for one in both]
            rates = " | ".join(f"{100 * m.acceptance_rate:.1f} %" for m in found)
            print(f"| {rule} | {setting} | {rates} | {found[0].mse:.4f} | {found[1].mse:.4f} |")
    print()


class Strided:
    """A network whose cache gives tokens other positions."""

    def __init__(self, network: FrozenTimerXL, stride: int) -> None:
        self._network, self._stride = network, stride
        self.patch, self.fingerprint = network.patch, network.fingerprint

    def predict(self, context: Tensor) -> Gaussian:
        return self._network.predict(context)

    def remember(self, context: Tensor, room: int) -> Memory:
        return self._network.remember(context, room, self._stride)


def positions() -> None:
    """MSE of each model alone, with two ways to number appended tokens."""
    print("| alone | horizon | rolling | growing, c·N + n | growing, c·(N + M) + n |")
    print("|---|---|---|---|---|")
    tokens = CONTEXT // 96
    for horizon in (336, 720):
        forecast, patches = windows(horizon), patches_to_cover(horizon, 96)
        for role in ("target", "draft"):
            network = model(role)
            found = (
                mse_alone(network, forecast, ROLLING),
                mse_alone(Strided(network, tokens), forecast, GROWING),
                mse_alone(Strided(network, tokens + patches), forecast, GROWING),
            )
            print(f"| {role} | {horizon} | " + " | ".join(f"{mse:.4f}" for mse in found) + " |")


def mse_alone(network: Forecaster, forecast: Windows, contexts: Contexts) -> float:
    total, work = 0.0, Workload(network, network, RULES["point"], forecast, 0, contexts)
    for index in torch.split(torch.arange(len(forecast)), 64):
        found = work.draft_only(index)
        total += float((found - forecast.futures(index)).double().square().sum())
    return total / (len(forecast) * forecast.horizon * forecast.values.shape[1])


if __name__ == "__main__":
    main()
