"""Workers on a Ray cluster: one task per GPU, or per CPU slot; Ray restarts those that it loses.

A task is a worker like any other, on the same store. Like the launcher, this holds no state of the
study: if it dies, Ray ends its tasks, and the same command resumes.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec_opt.errors import InputError, SpecOptError, WorkError
from spec_opt.study.worker import Stop

log = logging.getLogger(__name__)

MAX_RETRIES = 20
"""How often Ray restarts a task that lost its process, its node or its device."""
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_CONNECT = 10.0
SHARED_SETTINGS = ("SPEC_OPT_CACHE", "SPEC_OPT_DATA")
"""Environment variables that the tasks get from this process: folders that all nodes see."""


@dataclass(frozen=True)
class RaySummary:
    """What came of the tasks."""

    interrupted: bool
    tasks: int
    errors: tuple[SpecOptError, ...]
    """Why tasks failed for good, one error for each."""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Connect while inside. Address: `auto`, HOST:PORT, or `local` for a cluster on this machine.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    ray = import_ray()
    settings = {name: os.environ[name] for name in SHARED_SETTINGS if name in os.environ}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _require_answer(address)
        ray.init(
            address,
            logging_level=logging.ERROR,
            # Ray keeps what tasks print in its own logs; stdout belongs to our results.
            log_to_driver=False,
            runtime_env={"env_vars": settings},
        )
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"--ray {address}: no Ray cluster answers there ({said}); start one with "
            "`ray start --head`, or give HOST:PORT or 'local'"
        ) from None
    finally:
        # Ray puts its own handler there.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Fail at once if nothing listens there: Ray itself tries for ten minutes.

    Raises:
        OSError: no connection.
        ValueError: not an address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()


def import_ray() -> Any:
    """The package, which is an extra.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray: Ray is not installed; pip install 'spec-opt[ray]'") from None
    return ray


def run_tasks(
    work: Callable[[], object],
    tasks: int | None,
    use_gpus: bool,
    stop: Stop,
    on_tick: Callable[[], None] = lambda: None,
) -> RaySummary:
    """Run `work` in many tasks of the connected cluster until all have ended.

    When `stop` is set the tasks get KeyboardInterrupt, and the workers give their trials back.

    Args:
        work: what a worker does; its process does nothing else.
        tasks: how many; by default as many as the cluster has GPUs, or else CPU slots.
        use_gpus: whether each task gets a GPU of its own, if the cluster has any.
        stop: set to end the work early.
        on_tick: called about five times a second, to show progress.
    """
    ray = import_ray()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if use_gpus else 0
    count = tasks or gpus or max(1, int(resources.get("CPU", 1)))
    remote = ray.remote(
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        max_retries=MAX_RETRIES,
        # After these a new process may do better; not after bad input.
        retry_exceptions=[WorkError],
        max_calls=1,
        scheduling_strategy="SPREAD",
    )(_run_task)
    log.info("%d tasks on Ray, each with %s", count, "one GPU" if gpus else "one CPU slot")
    started = [remote.remote(work, str(Path.cwd())) for _ in range(count)]
    interrupted = _watch(ray, started, stop, on_tick)
    errors = () if interrupted else tuple(_errors(ray, started))
    return RaySummary(interrupted, count, errors)


def _run_task(work: Callable[[], object], folder: str) -> None:
    """The body of a task: in the folder where the command was given, if the node has it."""
    if Path(folder).is_dir():
        os.chdir(folder)
    work()


def _watch(ray: Any, tasks: Sequence[Any], stop: Stop, on_tick: Callable[[], None]) -> bool:
    """Wait until all tasks have ended; whether they were asked to."""
    asked = False
    pending = list(tasks)
    while pending:
        if stop.is_set() and not asked:
            asked = True
            for task in pending:
                ray.cancel(task)
        _, pending = ray.wait(
            pending, num_returns=len(pending), timeout=SECONDS_BETWEEN_LOOKS, fetch_local=False
        )
        on_tick()
    return asked


def _errors(ray: Any, tasks: Sequence[Any]) -> Iterator[SpecOptError]:
    for task in tasks:
        try:
            ray.get(task)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            first = str(cause).strip().partition("\n")[0]
            is_ours = isinstance(cause, SpecOptError)
            yield cause if is_ours else WorkError(f"{type(cause).__name__}: {first}")
