"""Speculative against target-only decoding on the same windows, timed in turns."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.speculative import Decoded, Workload
from spec_opt.measure.cost_learning import Stopwatch, learn_costs, spaced
from spec_opt.measure.cost_model import Costs, predicted_speedup
from spec_opt.measure.measurement import BenchRow, Case, Shares
from spec_opt.models.device import is_out_of_memory

logger = logging.getLogger(__name__)

WINDOWS: Final = 64
"""Forecasts per run, evenly spaced over the study's windows, at every batch size."""
LEARNING_SECONDS: Final = 2.0
"""Time for learning costs, at each batch size."""
LEARNING_REPEATS: Final = 5


def thread_count() -> int:
    """Threads that torch uses on the CPU."""
    return torch.get_num_threads()


def bench(
    workload: Workload,
    context: str,
    cases: Sequence[Case],
    batch_sizes: Sequence[int],
    repeats: int,
) -> tuple[BenchRow, ...]:
    """Time each case at each batch size; leaves out, with a warning, sizes beyond the memory.

    Raises:
        DecodingError: a forecast is not finite.
    """
    rows: list[BenchRow] = []
    for batch_size in batch_sizes:
        try:
            costs = learn_costs(
                workload,
                [min(batch_size, len(workload.windows))],
                sigma=cases[0].setting.sigma,
                ks=(1, max(case.setting.k for case in cases)),
                seconds=LEARNING_SECONDS,
                least_repeats=LEARNING_REPEATS,
            ).costs
            rows += [_row(workload, context, case, batch_size, costs, repeats) for case in cases]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("batch size %d does not fit into the device's memory", batch_size)
    return tuple(rows)


def _row(
    workload: Workload, context: str, case: Case, batch_size: int, costs: Costs, repeats: int
) -> BenchRow:
    logger.info("timing %s at batch size %d", case.setting, batch_size)
    batches = spaced_batches(len(workload.windows), batch_size)
    target_only, speculative, draft_only = interleave(
        [
            lambda: [workload.target_only(index, case.setting) for index in batches],
            lambda: [workload.speculatively(index, case.setting) for index in batches],
            lambda: [workload.draft_only(index) for index in batches],
        ],
        repeats,
        workload.device,
    )
    decoded, shares = _shares(workload, batches, case.setting)
    windows = sum(map(len, batches))
    return BenchRow(
        trial=case.trial,
        setting=case.setting,
        context=context,
        batch_size=batch_size,
        windows=windows,
        patches=windows * workload.patches,
        rounds=sum(int(one.counters.rounds.sum()) for one in decoded),
        target_only=target_only,
        speculative=speculative,
        draft_only=draft_only,
        predicted_speedup=predicted_speedup(
            case.acceptance, workload.patches, costs, len(batches[0])
        ),
        target_only_calls=workload.patches * len(batches),
        target_calls=sum(one.target_calls for one in decoded),
        draft_calls=sum(one.draft_calls for one in decoded),
        shares=shares,
        acceptance_rate=case.acceptance_rate,
        mse=case.mse,
    )


def spaced_batches(windows: int, batch_size: int) -> list[Tensor]:
    """`WINDOWS` windows, or a full batch if that is more, evenly spaced, in batches of one size."""
    size = min(batch_size, windows)
    count = max(1, min(WINDOWS, windows) // size) * size
    return list(torch.split(spaced(windows, count), size))


def interleave(
    runs: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[tuple[float, ...]]:
    """Seconds of each of `runs`, taken in turns so that other load on the machine affects them all.

    A first turn, which warms up, is not counted.
    """
    watch = Stopwatch(device)
    turns = [[watch.decode(run) for run in runs] for _ in range(repeats + 1)]
    return list(zip(*turns[1:], strict=True))


def _shares(
    workload: Workload, batches: Sequence[Tensor], setting: Setting
) -> tuple[list[Decoded], Shares]:
    """Decode once more, observed by a stopwatch."""
    watch = Stopwatch(workload.device)
    observed = replace(workload, observer=watch)
    decoded: list[Decoded] = []
    total = watch.decode(
        lambda: decoded.extend(observed.speculatively(index, setting) for index in batches)
    )
    draft, target, acceptance = (
        watch.within[name] / total for name in ("draft", "target", "acceptance")
    )
    overhead = max(0.0, 1.0 - draft - target - acceptance)
    return decoded, Shares(draft, target, acceptance, overhead)
