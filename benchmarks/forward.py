"""Forward pass of the target for the next patch, compared with one that computes every position.

    python -m benchmarks.forward

Both are spec-opt's and give the same numbers; runs alternate, medians are compared. Before that it
measures the effect of letting the C library keep freed memory (`models/device.py`). A process
cannot undo that, so those runs do not alternate.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.environment import describe
from spec_opt.models.device import resolve_device
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

BATCH, CHANNELS, REPEATS = 64, 7, 15
Case = tuple[int, int, int, int, int, float]
CASES: tuple[Case, ...] = (
    # d_model, heads, feedforward, layers, context, ratio at most
    (256, 8, 512, 2, 672, 0.75),
    (1024, 8, 2048, 1, 1536, 0.35),
)


def main() -> None:
    print(f"{describe()}\nC={CHANNELS}, medians of {REPEATS}\n")
    kept_memory()
    lean()


def kept_memory() -> None:
    """The lean forward pass on large batches, before and after freed memory is kept."""
    forwards = [
        (case, batch, network(case), torch.randn(batch, case[4], CHANNELS))
        for case in CASES
        for batch in (BATCH, 4 * BATCH)
    ]
    before = [statistics.median(times(model.predict, x)) for _, _, model, x in forwards]
    resolve_device("cpu")
    after = [statistics.median(times(model.predict, x)) for _, _, model, x in forwards]
    print("| sizes | context | batch | memory returned, ms | memory kept, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for (case, batch, *_), returned, kept in zip(forwards, before, after, strict=True):
        print(f"| {sizes(case)} | {case[4]} | {batch} | {returned:.1f} | {kept:.1f} ", end="")
        print(f"| {kept / returned:.2f} |")
    print()


def lean() -> None:
    print(f"B={BATCH}, in turns\n")
    print("| sizes | context | every position, ms | lean, ms | ratio (spread) | goal |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        model, windows = network(case), torch.randn(BATCH, case[4], CHANNELS)
        both: list[tuple[float, float]] = []
        for _ in range(REPEATS + 2):
            (plain,), (leanly,) = (
                times(run, windows, repeats=1, warm_up=0)
                for run in (partial(every_position, model.network), model.predict)
            )
            both.append((plain, leanly))
        plains, leans = zip(*both[2:], strict=True)  # the first two warm up
        ratios = [leanly / plain for plain, leanly in zip(plains, leans, strict=True)]
        plain, leanly = statistics.median(plains), statistics.median(leans)
        print(
            f"| {sizes(case)} | {case[4]} | {plain:.1f} | {leanly:.1f} "
            f"| {leanly / plain:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {case[5]} |"
        )


@torch.inference_mode()
def every_position(network: TimerXL, context: Tensor) -> Gaussian:
    """The forecasts of all tokens, of which only the last ones are wanted."""
    forecast: Gaussian = network(context, dropout=0.0)
    return forecast


def network(case: Case) -> FrozenTimerXL:
    torch.manual_seed(0)
    width, heads, feedforward, layers, *_ = case
    return FrozenTimerXL(TimerXL(TimerXLConfig(96, width, heads, feedforward, layers)))


def sizes(case: Case) -> str:
    return "/".join(map(str, case[:4]))


def times(
    run: Callable[[Tensor], object], windows: Tensor, repeats: int = REPEATS, warm_up: int = 2
) -> list[float]:
    """Milliseconds of each run."""
    taken = []
    for _ in range(warm_up + repeats):
        began = time.perf_counter()
        run(windows)
        taken.append(1e3 * (time.perf_counter() - began))
    return taken[warm_up:]


if __name__ == "__main__":
    main()
