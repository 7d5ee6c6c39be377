"""Speculation, the target alone and the draft alone on the same windows, timed in turns."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.speculative import Decoded, Workload
from spec_opt.measure.cost_learning import LEAST_REPEATS, Stopwatch, learn_costs, spaced
from spec_opt.measure.cost_model import LearntCosts, predicted_speedup
from spec_opt.measure.measurement import BenchRow, Case, Shares
from spec_opt.models.device import is_out_of_memory

logger = logging.getLogger(__name__)

WINDOWS: Final = 64
"""Forecasts per run, evenly spaced over the study's windows, at every batch size."""
LEARNING_SECONDS: Final = 2.0
"""Time for learning costs, at each batch size."""
LEARNING_REPEATS: Final = 5
QUICK_DECODES: Final = 5 * (1 + LEAST_REPEATS)
"""To learn costs in little time: five decodes, once to warm up and then repeated."""
LEAST_LEARNING_SECONDS: Final = 0.5
"""With less time for all batch sizes together, none is begun."""
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
    costs: Mapping[int, LearntCosts] = MappingProxyType({}),
) -> tuple[BenchRow, ...]:
    """Time cases at each batch size; leaves out, with a warning, sizes beyond the memory.

    Args:
        context: rolling or growing, as `workload` has it.
        repeats: runs of each, at most.
        seconds: time to keep to, roughly: runs take fewer windows, and there are fewer of them,
            but at least one. No costs are learnt then. None: no limit.
        costs: by batch size, as far as they were learnt before. Without costs nothing is predicted.

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
        with _within_memory(batch_size):
            learnt = costs.get(batch_size)
            if learnt is None and share is None:
                largest_k = max(case.setting.k for case in cases)
                learnt = _learn(workload, batch_size, cases[0].setting.sigma, largest_k)
            rows += _bench_size(workload, context, cases, batch_size, repeats, share, learnt)
    return tuple(rows)


def learn_by_batch_size(
    workload: Workload,
    batch_sizes: Iterable[int],
    *,
    sigma: float,
    largest_k: int,
    seconds: float | None = None,
) -> dict[int, LearntCosts]:
    """Learn costs at each batch size, the smallest first, up to the first beyond the memory.

    Args:
        seconds: time to keep to, roughly: a size that would take longer ends it. None: no limit.

    Raises:
        DecodingError: a forecast is not finite.
    """
    learnt: dict[int, LearntCosts] = {}
    if seconds is not None and seconds < LEAST_LEARNING_SECONDS:
        return learnt
    began, last = time.monotonic(), 1
    taken = 0.0 if seconds is None else QUICK_DECODES * _single_decode(workload, sigma)
    for batch_size in sorted(batch_sizes):
        # A further window never costs more than the first.
        expected = taken * batch_size / last
        if seconds is not None and time.monotonic() - began + expected > seconds:
            break
        logger.info("learning what batches of %d cost", batch_size)
        start, quick = time.monotonic(), seconds is not None
        with _within_memory(batch_size):
            learnt[batch_size] = _learn(workload, batch_size, sigma, largest_k, is_quick=quick)
        if batch_size not in learnt:
            break
        taken, last = time.monotonic() - start, batch_size
    return learnt


def _single_decode(workload: Workload, sigma: float) -> float:
    """Seconds that the target alone takes for one window."""
    watch, index = Stopwatch(workload.device), spaced(len(workload.windows), 1)
    run = partial(workload.target_only, index, Setting(sigma=sigma, bias=1.0, k=1))
    watch.decode(run)  # warms up
    return watch.decode(run)


@contextmanager
def _within_memory(batch_size: int) -> Iterator[None]:
    """Warn, rather than fail, where the device's memory is too small."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("batch size %d does not fit into the device's memory", batch_size)


def _bench_size(
    workload: Workload,
    context: str,
    cases: Sequence[Case],
    batch_size: int,
    repeats: int,
    seconds: float | None,
    learnt: LearntCosts | None,
) -> list[BenchRow]:
    began = time.monotonic()
    costs = learnt.costs if learnt is not None and learnt.are_known else None
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


def _learn(
    workload: Workload, batch_size: int, sigma: float, largest_k: int, *, is_quick: bool = False
) -> LearntCosts:
    return learn_costs(
        workload,
        [min(batch_size, len(workload.windows))],
        sigma=sigma,
        ks=(1, largest_k),
        seconds=0.0 if is_quick else LEARNING_SECONDS,
        least_repeats=LEAST_REPEATS if is_quick else LEARNING_REPEATS,
    )


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

    A first turn, which warms up, is not counted. With `seconds` there is none, and no further turn
    begins once they have passed, or if it would not end in time and `LEAST_REPEATS` were taken.
    """
    watch, turns, began = Stopwatch(device), list[list[float]](), time.monotonic()
    uncounted = 1 if seconds is None else 0
    while len(turns) < repeats + uncounted:
        if turns and seconds is not None:
            taken = time.monotonic() - began
            coming = taken / len(turns) if len(turns) >= LEAST_REPEATS else 0.0
            if taken + coming > seconds:
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
