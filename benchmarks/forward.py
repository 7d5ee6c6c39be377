"""One next-patch forward of the target: the lean one against one that computes every position.

    python -m benchmarks.forward

Both are ours and give the same numbers; runs alternate, medians are compared.
"""

import statistics
import time

import torch

from benchmarks.environment import describe
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

BATCH, CHANNELS, REPEATS = 64, 7, 15
CASES = (
    # d_model, heads, feedforward, layers, context, ratio at most
    (256, 8, 512, 2, 672, 0.75),
    (1024, 8, 2048, 1, 1536, 0.35),
)


def main() -> None:
    print(f"{describe()}\nB={BATCH}, C={CHANNELS}, median of {REPEATS} alternating runs\n")
    print(
        "| d_model/heads/feedforward/layers | context | every position, ms | lean, ms | ratio "
        "(spread) | goal |"
    )
    print("|---|---|---|---|---|---|")
    for width, heads, feedforward, layers, context, goal in CASES:
        torch.manual_seed(0)
        config = TimerXLConfig(96, width, heads, feedforward, layers)
        model = TimerXL(config).eval()
        windows = torch.randn(BATCH, context, CHANNELS)
        runs = {"plain": model.predict_every_position, "lean": model.predict}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(REPEATS + 2):
            for name, run in runs.items():
                began = time.perf_counter()
                run(windows)
                if repeat >= 2:  # the first two warm up
                    times[name].append(1e3 * (time.perf_counter() - began))
        ratios = [lean / plain for lean, plain in zip(times["lean"], times["plain"], strict=True)]
        plain, lean = (statistics.median(times[name]) for name in ("plain", "lean"))
        print(
            f"| {width}/{heads}/{feedforward}/{layers} | {context} | {plain:.1f} | {lean:.1f} "
            f"| {lean / plain:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {goal} |"
        )


if __name__ == "__main__":
    main()
