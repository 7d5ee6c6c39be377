"""A study's state, for a person and for a script."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from spec_opt.results.table import StudyTable, by_acceptance, by_mse
from spec_opt.results.wording import described, plural
from spec_opt.tuning.progress import StudyProgress, WorkerStatus


def as_document(now: StudyProgress, table: StudyTable) -> dict[str, Any]:
    """For `status --json`."""
    best = {
        "acceptance_rate": min(table.points, key=by_acceptance, default=None),
        "mse": min(table.points, key=by_mse, default=None),
    }
    return {
        "study": now.name,
        "states": asdict(now.states),
        "missing": now.missing,
        "total": now.total,
        "distinct": now.distinct,
        "done": now.is_done,
        "workers": [_worker(worker) for worker in now.workers],
        "trials_per_minute": now.trials_per_minute,
        "seconds_left": now.seconds_left,
        "given_up": [
            {"setting": g.setting.model_dump(), "attempts": g.attempts, "error": g.error}
            for g in now.given_up
        ],
        "best": {
            metric: None
            if point is None
            else {
                "trial": point.number,
                "setting": point.setting.model_dump(),
                "acceptance_rate": point.result.acceptance_rate,
                "mse": point.result.mse,
            }
            for metric, point in best.items()
        },
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    setting = None if worker.setting is None else worker.setting.model_dump()
    return asdict(worker) | {"setting": setting}


def as_text(now: StudyProgress, table: StudyTable) -> str:
    """For a terminal."""
    states = now.states
    lines = [
        f"{now.name}: {now.total - now.missing} of {now.total} trials complete"
        + (", done" if now.is_done else f", {now.missing} missing"),
        f"  states: {states.complete} complete, {states.running} running, "
        f"{states.waiting} waiting, {states.fail} failed",
    ]
    if now.settings is not None:
        lines.append(f"  distinct settings measured: {now.distinct} of {now.settings}")
    if now.trials_per_minute is not None:
        left = "" if now.seconds_left is None else f", about {duration(now.seconds_left)} left"
        lines.append(f"  rate: {pace(now.trials_per_minute)}{left}")
    lines += [worker_line(worker) for worker in now.workers] or ["  no worker holds a trial"]
    lines += [
        f"  given up after {plural(g.attempts, 'attempt')}: {g.setting}: {g.error}"
        for g in now.given_up
    ]
    if table.points:
        lines.append(f"  highest acceptance: {described(min(table.points, key=by_acceptance))}")
        lines.append(f"  lowest MSE: {described(min(table.points, key=by_mse))}")
    return "\n".join(lines)


def worker_line(worker: WorkerStatus) -> str:
    """A worker that holds a trial."""
    life = "alive" if worker.alive else "silent"
    return (
        f"  worker {worker.host}:{worker.pid} {life}, last sign of life "
        f"{worker.silent_seconds:.0f} s ago, trial {worker.trial} ({worker.setting})"
    )


def pace(trials_per_minute: float) -> str:
    """A rate as a person says it."""
    if trials_per_minute < 1.0:
        return f"{60.0 * trials_per_minute:.1f} trials an hour"
    return f"{trials_per_minute:.1f} trials a minute"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
