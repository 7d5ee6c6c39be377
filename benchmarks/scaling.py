"""How the cost of a grid grows with its settings and windows, on the trained ETTh1 pair.

    SPEC_OPT_SHARED=folder python -m benchmarks.scaling [--rule stride] [--windows 255]

Each cell measures all settings of a grid with a new evaluator.
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
from torch import Tensor

from benchmarks.environment import describe
from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting
from spec_opt.config.values import Rule
from spec_opt.data.windows import Dataset, load_dataset
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL

CONTEXT, HORIZON = 672, 336
WINDOWS = (255, 1000, 2545)


def grid(sigmas: list[float], biases: list[float], most_proposals: int) -> list[Setting]:
    """Settings in the order of a study's grid: all of one sigma together."""
    ks = range(1, most_proposals + 1)
    return [Setting(sigma=s, bias=b, k=k) for s, b, k in product(sigmas, biases, ks)]


GRIDS = {
    8: grid([0.25, 0.5], [1.0, 10.0], 2),
    80: grid([0.1, 0.25, 0.5, 1.0], [1.0, 2.0, 5.0, 10.0], 5),
    800: grid(np.linspace(0.1, 1.0, 8).tolist(), np.linspace(1.0, 10.0, 20).tolist(), 5),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", default="stride", choices=["stride", "exact", "point"])
    parser.add_argument("--windows", type=int, nargs="*", default=WINDOWS)
    options = parser.parse_args()
    rule, counts = options.rule, options.windows
    shared = Path(os.environ["SPEC_OPT_SHARED"])
    pair = [shared / "checkpoints" / f"etth1_{role}_checkpoint.pth" for role in ("target", "draft")]
    source = str(shared / "data" / "ETTh1.csv")
    dataset = load_dataset(DataConfig(source=source, context=CONTEXT, horizon=HORIZON))

    print(f"{describe()}\nrule {rule}; seconds, of them in models, target evaluations per window\n")
    print("| settings | " + " | ".join(f"{count} windows" for count in counts) + " |")
    print("|---" * (len(counts) + 1) + "|")
    measure(dataset, pair, rule, GRIDS[8], counts[0])  # warm-up
    for size, settings in GRIDS.items():
        cells = [measure(dataset, pair, rule, settings, count) for count in counts]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


def measure(
    dataset: Dataset, pair: list[Path], rule: Rule, settings: list[Setting], count: int
) -> str:
    windows = dataset.windows("test", CONTEXT, HORIZON, max_windows=count)
    target, draft = (load_timer_xl(path) for path in pair)
    evaluator = Evaluator(target, draft, windows, DecodingConfig(rule=rule))
    model_seconds = 0.0
    predict = FrozenTimerXL.predict

    def timed(model: FrozenTimerXL, context: Tensor) -> Gaussian:
        nonlocal model_seconds
        began = time.perf_counter()
        answer = predict(model, context)
        model_seconds += time.perf_counter() - began
        return answer

    began = time.perf_counter()
    with mock.patch.object(FrozenTimerXL, "predict", timed):
        for setting in settings:
            evaluator.measure(setting)
    seconds = time.perf_counter() - began
    evaluations = evaluator.cache_statistics.target_evaluations / count
    return f"{seconds:.1f} s, {model_seconds:.1f} s, {evaluations:.1f}"


if __name__ == "__main__":
    main()
