"""The k that a schedule predicts for each batch size, against the fastest k as measured, on ETTh1.

    SPEC_OPT_SHARED=folder python -m benchmarks.schedule [--pair] [--threads 2] [--repeats 5]

Costs are learnt at each batch size as `spec-opt bench STUDY --schedule` learns them, then every k
is timed. k = 0 is the target alone. By default with the 8-layer target of `benchmarks.speculation`,
which is trained on first use; with --pair on the trained pair (256/8/512/2).
"""

import argparse
from collections import defaultdict
from itertools import product

import torch

from benchmarks.environment import describe
from benchmarks.pair import evaluator
from benchmarks.speculation import MODES, deep
from spec_opt.config.study_file import Setting
from spec_opt.config.values import ContextMode
from spec_opt.measure.bench import bench, learn_by_batch_size
from spec_opt.measure.cost_model import acceptance_by_position
from spec_opt.measure.evaluator import Evaluator
from spec_opt.measure.measurement import BenchRow, Case

KS = range(1, 6)
SHARPNESS = ((0.3, 2.0), (0.1, 1.0))
"""sigma and bias: nearly all is accepted, and about seven in ten."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe()}\nrule point, median of {options.repeats} interleaved runs\n")
    print(
        "| context | sigma, bias | batch | best k predicted | best k measured "
        "| its speedup (spread) | speedup of the predicted k | predicted, k = 1 to 5 | measured |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    close = []
    for mode in MODES:
        measured = evaluator("point", mode) if options.pair else deep(mode, 336)
        close += table(measured, mode, options)
    print(f"\nThe predicted k is within one of the fastest in {sum(close)} of {len(close)} rows.")


def table(measured: Evaluator, mode: ContextMode, options: argparse.Namespace) -> list[bool]:
    """Print a row for each batch size; returns whether the predicted k is within one."""
    cases = []
    for (sigma, bias), k in product(SHARPNESS, KS):
        setting = Setting(sigma=sigma, bias=bias, k=k)
        found = measured.measure(setting)
        acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
        cases.append(Case(None, setting, acceptance, found.acceptance_rate, found.mse))
    sizes = options.batch_sizes
    costs = learn_by_batch_size(measured.workload, sizes, sigma=0.3, largest_k=max(KS))
    for size, learnt in costs.items():
        if not learnt.are_known:
            print(f"| {mode} | | {size} | not known: {learnt} | | | | | |")
    rows = bench(measured.workload, mode, cases, sizes, options.repeats, costs=costs)
    groups = defaultdict(list)
    for row in rows:
        groups[row.setting.sigma, row.setting.bias, row.batch_size].append(row)
    return [line(mode, *key, group) for key, group in groups.items() if group[0].predicted_speedup]


def line(mode: str, sigma: float, bias: float, batch_size: int, rows: list[BenchRow]) -> bool:
    predicted = {0: 1.0} | {row.setting.k: row.predicted_speedup or 0.0 for row in rows}
    speedups = {0: 1.0} | {row.setting.k: row.speedup.value for row in rows}
    chosen, fastest = (max(found, key=lambda k: found[k]) for found in (predicted, speedups))
    spread = next((row.speedup for row in rows if row.setting.k == fastest), None)
    shown = "" if spread is None else f" ({spread.low:.2f} to {spread.high:.2f})"
    lists = (" ".join(f"{found[k]:.2f}" for k in KS) for found in (predicted, speedups))
    print(
        f"| {mode} | {sigma:g}, {bias:g} | {batch_size} | {chosen} | {fastest} "
        f"| {speedups[fastest]:.2f}{shown} | {speedups[chosen]:.2f} | {' | '.join(lists)} |",
        flush=True,
    )
    return abs(chosen - fastest) <= 1


if __name__ == "__main__":
    main()
