"""Trials per second that a store sustains, with real workers and an objective that takes no time.

    python -m benchmarks.store_throughput                       # the table
    python -m benchmarks.store_throughput --sampler tpe --workers 1 --settings 100
    python -m benchmarks.store_throughput --long                # 8 workers on SQLite for 2 minutes

Each trial is a claim, a result with all its attributes, and the worker's own bookkeeping, so one
worker's seconds per trial are an upper bound of the store's share. The SQLite file is on the disk
of the temporary folder; Postgres is an embedded server with its default durability. The time
includes the sampler's own, which grows with the number of trials.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from spec_opt.config.values import FloatRange, IntRange
from spec_opt.study.claims import Heartbeat
from spec_opt.study.store import open_store
from spec_opt.study.study import load_study
from spec_opt.study.worker import run_worker
from tests.study.postgres import postgres_of_our_own
from tests.study.stand_in import StandIn, stand_in_study

HEARTBEAT = Heartbeat(interval=0.5, grace=30.0)


@dataclass(frozen=True)
class WorkerResult:
    trials: int
    seconds: float
    error: str | None


@dataclass(frozen=True)
class Result:
    """Several workers on one store."""

    trials: int
    per_second: float
    least: int
    most: int
    """Trials of the worker with the fewest and the most."""
    errors: tuple[str, ...]
    in_store: int
    """Distinct settings that are complete in the store."""


def search(sampler: str, settings: int) -> dict[str, Any]:
    """A search of `settings` trials in a continuous space, or a grid of about as many settings."""
    if sampler != "grid":
        return {
            "sampler": sampler,
            "n_trials": settings,
            "sigma": FloatRange(low=0.05, high=1.0, log=True),
            "bias": FloatRange(low=1.0, high=10.0),
            "k": IntRange(low=1, high=10),
        }
    sigmas = max(1, settings // 80)
    return {
        "sigma": tuple(round(0.1 + 0.001 * i, 3) for i in range(sigmas)),
        "bias": tuple(1.0 + i for i in range(8)),
        "k": tuple(range(1, 11)),
    }


def work(
    url: str,
    space: dict[str, Any],
    seconds: float,
    together: Barrier,
    results: "Queue[WorkerResult]",
) -> None:
    """The body of a worker process."""
    trials, began, error = 0, time.monotonic(), None
    try:
        study = stand_in_study(open_store(url), **space)
        stop = threading.Event()
        together.wait()
        began = time.monotonic()
        timer = threading.Timer(seconds, stop.set)
        timer.start()
        summary = run_worker(study, StandIn(), stop, heartbeat=HEARTBEAT)
        timer.cancel()
        trials = summary.complete
        if summary.fail:
            error = f"{summary.fail} trials failed"
    except Exception as failure:  # noqa: BLE001 - what reaches a user is the result
        # Otherwise the others would wait for this one for ever.
        together.abort()
        error = f"{type(failure).__name__}: {failure}"
    results.put(WorkerResult(trials, time.monotonic() - began, error))


def measure(url: str, workers: int, space: dict[str, Any], seconds: float) -> Result:
    store = open_store(url)
    stand_in_study(store, **space)
    # A process that has imported everything forks the workers, which so start quickly.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.study.stand_in", "tests.study.postgres"])
    together, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=work, args=(url, space, seconds, together, results))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    ended = [results.get() for _ in processes]
    for process in processes:
        process.join()
    complete = [
        tuple(trial.params.values())
        for trial in load_study(store, "stand-in").optuna_study().get_trials(deepcopy=False)
        if trial.state is TrialState.COMPLETE
    ]
    assert len(complete) == len(set(complete)), "a setting is complete twice"
    store.close()
    trials = [result.trials for result in ended]
    return Result(
        trials=sum(trials),
        per_second=sum(trials) / max(result.seconds for result in ended),
        least=min(trials),
        most=max(trials),
        errors=tuple(result.error for result in ended if result.error is not None),
        in_store=len(complete),
    )


@contextmanager
def stores(kinds: list[str]) -> Iterator[dict[str, Callable[[], str]]]:
    """For each kind of store, a function that makes one and returns its URL."""
    made: dict[str, Callable[[], str]] = {}
    with tempfile.TemporaryDirectory(prefix="spec-opt-throughput-") as name:
        numbers = iter(range(10**6))
        made["SQLite"] = lambda: f"sqlite:///{Path(name)}/store-{next(numbers)}.db"
        if "Postgres" not in kinds:
            yield made
            return
        with postgres_of_our_own() as server:
            made["Postgres"] = server.new_database
            yield {kind: made[kind] for kind in kinds}


def table(options: argparse.Namespace) -> list[str]:
    space = search(options.sampler, options.settings)
    print("| store | workers | trials a second | ms a trial and worker | fewest / most | errors |")
    print("|---|--:|--:|--:|--:|--:|")
    errors: list[str] = []
    with stores(options.stores) as kinds:
        for kind, new_store in kinds.items():
            for workers in options.workers:
                runs = [
                    measure(new_store(), workers, space, options.seconds)
                    for _ in range(options.repeats)
                ]
                rate = statistics.median(run.per_second for run in runs)
                spread = (
                    f"{min(r.per_second for r in runs):.0f}–{max(r.per_second for r in runs):.0f}"
                )
                share = f"{1000 * workers / rate:.1f}" if rate else "none"
                one = min(runs, key=lambda run: abs(run.per_second - rate))
                found = [error for run in runs for error in run.errors]
                errors += found
                print(
                    f"| {kind} | {workers} | {rate:.0f} ({spread}) | {share} | "
                    f"{one.least} / {one.most} | {len(found)} |",
                    flush=True,
                )
    return errors


def long_run(options: argparse.Namespace) -> list[str]:
    with stores(["SQLite"]) as kinds:
        space = search("grid", options.long_settings)
        result = measure(kinds["SQLite"](), 8, space, options.long_seconds)
    print(
        f"SQLite, 8 workers, {options.long_seconds:.0f} s: {result.trials} trials, "
        f"{result.per_second:.0f} a second, fewest {result.least} and most {result.most} a worker, "
        f"{result.in_store} distinct settings complete in the store, {len(result.errors)} errors"
    )
    return list(result.errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8, 24])
    parser.add_argument("--stores", nargs="+", default=["SQLite", "Postgres"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sampler", choices=["grid", "tpe", "random", "nsga2"], default="grid")
    parser.add_argument("--settings", type=int, default=4000, help="of the grid, or n_trials")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--long-seconds", type=float, default=120.0)
    parser.add_argument("--long-settings", type=int, default=24000)
    options = parser.parse_args()
    # Imports torch, which worker processes do not need.
    from benchmarks.environment import describe

    print(describe() + "\n")
    errors = long_run(options) if options.long else table(options)
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
