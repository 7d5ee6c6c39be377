"""The benchmark of the stores: a worker that fails is told, and holds up nobody."""

import multiprocessing

from benchmarks.store_throughput import WorkerResult, search, work


def test_a_worker_that_fails_keeps_no_other_waiting() -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    results: multiprocessing.Queue[WorkerResult] = context.Queue()
    work("sqlite:///:memory:", search("grid", 80), 1.0, together, results)
    error = results.get(timeout=10).error
    assert error is not None
    assert "in memory" in error
    assert together.broken
