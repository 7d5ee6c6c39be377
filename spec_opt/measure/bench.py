"""Speculation, the target alone and the draft alone on the same windows, timed in turns."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

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
RUNS_IN_TIME: Final = 6
"""Where time is limited, runs are made so short that this many should fit."""

Run = Callable[[Tensor], object]
"""Forecasts one batch of windows."""


def thread_count() -> int:
    """Threads that torch uses on the CPU."""
    return torch.get_num_threads()


def bench(
    workload: Workload,
    context: str,
    cases: Sequence[Case],
    batch_sizes: Sequence[int],
    repeats: int,
    seconds: float | None = None,
) -> tuple[BenchRow, ...]:
    """Time cases at each batch size; leaves out, with a warning, sizes beyond the memory.

    Args:
        context: rolling or growing, as `workload` has it.
        repeats: runs of each, at most.
        seconds: time to keep to, roughly: runs take fewer windows, and there are fewer of them,
            but at least one. No costs are learnt then, so nothing is predicted. None: no limit.

    Raises:
        DecodingError: a forecast is not finite.
    """
    rows: list[BenchRow] = []
    until = None if seconds is None else time.monotonic() + seconds
    for index, batch_size in enumerate(batch_sizes):
        logger.info("timing batches of %d", batch_size)
        share = None
        if until is not None:
            share = max(0.0, until - time.monotonic()) / (len(batch_sizes) - index)
        try:
            rows += _bench_size(workload, context, cases, batch_size, repeats, share)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("batch size %d does not fit into the device's memory", batch_size)
    return tuple(rows)


def _bench_size(
    workload: Workload,
    context: str,
    cases: Sequence[Case],
    batch_size: int,
    repeats: int,
    seconds: float | None,
) -> list[BenchRow]:
    began = time.monotonic()
    costs = None if seconds is not None else _costs(workload, cases, batch_size)
    runs: list[Run] = [
        partial(workload.target_only, setting=cases[0].setting),
        workload.draft_only,
        *(partial(workload.speculatively, setting=case.setting) for case in cases),
    ]
    parts = _parts(workload, runs, spaced_batches(len(workload.windows), batch_size), seconds)
    observed = [_observed(workload, parts[0], case) for case in cases]
    timed = [_part_by_part(run, parts) for run in runs]
    left = None if seconds is None else seconds - (time.monotonic() - began)
    target_only, draft_only, *speculative = interleave(timed, repeats, workload.device, left)
    windows = sum(map(len, parts[0]))
    return [
        BenchRow(
            trial=case.trial,
            setting=case.setting,
            context=context,
            batch_size=batch_size,
            windows=windows,
            patches=windows * workload.patches,
            rounds=sum(int(one.counters.rounds.sum()) for one in decoded),
            target_only=target_only,
            speculative=times,
            draft_only=draft_only,
            predicted_speedup=None
            if costs is None
            else predicted_speedup(case.acceptance, workload.patches, costs, len(parts[0][0])),
            target_only_calls=workload.patches * len(parts[0]),
            target_calls=sum(one.target_calls for one in decoded),
            draft_calls=sum(one.draft_calls for one in decoded),
            shares=shares,
            acceptance_rate=case.acceptance_rate,
            mse=case.mse,
        )
        for case, times, (decoded, shares) in zip(cases, speculative, observed, strict=True)
    ]


def _costs(workload: Workload, cases: Sequence[Case], batch_size: int) -> Costs | None:
    """None where timings varied too much."""
    learnt = learn_costs(
        workload,
        [min(batch_size, len(workload.windows))],
        sigma=cases[0].setting.sigma,
        ks=(1, max(case.setting.k for case in cases)),
        seconds=LEARNING_SECONDS,
        least_repeats=LEARNING_REPEATS,
    )
    return learnt.costs if learnt.are_known else None


def _parts(
    workload: Workload, runs: Sequence[Run], batches: Sequence[Tensor], seconds: float | None
) -> list[list[Tensor]]:
    """The batches of one run, or of several that take turns so that each fits into the time."""
    watch = Stopwatch(workload.device)
    turn = sum(watch.decode(partial(run, batches[0])) for run in runs)  # warms up
    count = len(batches)
    if seconds is not None:
        count = max(1, min(count, int(seconds / turn / RUNS_IN_TIME)))
    apart = len(batches) // count
    return [list(batches[first::apart][:count]) for first in range(apart)]


def spaced_batches(windows: int, batch_size: int) -> list[Tensor]:
    """`WINDOWS` windows, or a full batch if that is more, evenly spaced, in batches of one size."""
    size = min(batch_size, windows)
    count = max(1, min(WINDOWS, windows) // size) * size
    return list(torch.split(spaced(windows, count), size))


def interleave(
    runs: Sequence[Callable[[], object]],
    repeats: int,
    device: torch.device,
    seconds: float | None = None,
) -> list[tuple[float, ...]]:
    """Seconds of each of `runs`, taken in turns so that other load on the machine affects them all.

    A first turn, which warms up, is not counted. With `seconds` there is none, and once they have
    passed no further turn begins.
    """
    watch, turns, began = Stopwatch(device), list[list[float]](), time.monotonic()
    uncounted = 1 if seconds is None else 0
    while len(turns) < repeats + uncounted:
        if turns and seconds is not None and time.monotonic() - began > seconds:
            break
        turns.append([watch.decode(run) for run in runs])
    return list(zip(*turns[uncounted:], strict=True))


def _part_by_part(run: Run, parts: Iterable[Sequence[Tensor]]) -> Callable[[], None]:
    """Forecasts the next of `parts` at each call."""
    coming = itertools.cycle(parts)

    def forecast() -> None:
        for batch in next(coming):
            run(batch)

    return forecast


def _observed(
    workload: Workload, batches: Sequence[Tensor], case: Case
) -> tuple[list[Decoded], Shares]:
    """Decode once, observed by a stopwatch."""
    watch = Stopwatch(workload.device)
    observed = replace(workload, observer=watch)
    decoded: list[Decoded] = []
    total = watch.decode(
        lambda: decoded.extend(observed.speculatively(index, case.setting) for index in batches)
    )
    draft, target, acceptance = (
        watch.within[name] / total for name in ("draft", "target", "acceptance")
    )
    overhead = max(0.0, 1.0 - draft - target - acceptance)
    return decoded, Shares(draft, target, acceptance, overhead)
