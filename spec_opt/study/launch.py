"""Many workers on this machine: processes that are started, watched, restarted and stopped.

The launcher holds no state of the study. If it dies, its workers go on; if workers die, the others
or the next run take up their trials.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from spec_opt.config.files import open_plain
from spec_opt.config.machine import usable_cores
from spec_opt.errors import InputError
from spec_opt.study.worker import Stop

log = logging.getLogger(__name__)

DONE = 0
BAD_INPUT = 2
INTERRUPTED = 130
"""Exit codes of `spec-opt worker` after which it is not started again."""
STARTS = "--- "
"""Begins the line of a log that says when the worker started."""
LONGEST_WORDS = 4096
"""Bytes at the end of a log in which its last line is looked for."""
STDERR = 2
"""Descriptor of this process's stderr."""
SECONDS_BETWEEN_SIGNALS = 0.1
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Restarts:
    """How often, and after which pauses, a worker that fails is started again."""

    at_most: int = 5
    """Failures in a row; one after more than `steady_seconds` begins a new row."""
    in_all: int = 20
    """For a worker that fails every time, but takes longer than that."""
    first_wait: float = 1.0
    longest_wait: float = 30.0
    """Seconds before it is started again, doubling."""
    steady_seconds: float = 60.0
    kill_after: float = 10.0
    """Seconds that workers have to leave at once, before they are killed."""


@dataclass(frozen=True)
class LaunchSummary:
    """What came of the workers."""

    interrupted: bool
    restarts: int
    given_up: tuple[Path, ...]
    """Logs of the workers that failed too often, or met bad input."""
    bad_input: bool
    reason: str = ""
    """Why the first of them left, one with bad input if there is any; may be empty."""


def cpu_environments(workers: int) -> list[dict[str, str]]:
    """One environment per worker: an equal share of the cores as threads, GPUs hidden."""
    threads = str(max(1, usable_cores() // workers))
    one = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    return [dict(one) for _ in range(workers)]


def gpu_environments(gpus: Sequence[str]) -> list[dict[str, str]]:
    """One environment per GPU, in which only that GPU is visible.

    Indices count the GPUs that this process sees, which may have been given only some of them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = visible.split(",")
        gpus = [names[int(gpu)].strip() for gpu in gpus]
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]


def parse_gpus(text: str, count: Callable[[], int]) -> list[str]:
    """`0,1,3` or `all` -> the indices of the GPUs to use, of `count()` GPUs.

    Raises:
        InputError: not a list of distinct indices below the count.
    """
    devices = count()
    names = [str(i) for i in range(devices)] if text == "all" else text.split(",")
    for name in names:
        if not name.isdecimal() or int(name) >= devices or names.count(name) > 1:
            raise InputError(
                f"--gpus {text}: give distinct indices such as 0,1 or 'all'; "
                f"this machine has {devices} CUDA devices"
            )
    if not names:
        raise InputError(f"--gpus {text}: this machine has no CUDA device; use --workers N")
    return names


def launch(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    log_folder: Path,
    stop: Stop,
    on_tick: Callable[[], None] = lambda: None,
    restarts: Restarts | None = None,
) -> LaunchSummary:
    """Run one worker per environment until all have left.

    A worker that fails is started again, after growing pauses, up to a limit. When `stop` is set,
    each worker gets a SIGTERM: it finishes its trial and leaves. KeyboardInterrupt sends a second
    one: the workers give their trials back and leave at once.

    Args:
        command: the worker's command line.
        environments: each worker's variables, in addition to this process's own.
        log_folder: gets `worker-0.log`, ..., appended to; where that cannot be, a worker prints to
            stderr.
        stop: set to end the work early.
        on_tick: called about five times a second, to show progress.
        restarts: see there.
    """
    policy = restarts or Restarts()
    with ExitStack() as stack:
        workers = []
        for index, environment in enumerate(environments):
            path = log_folder / f"worker-{index}.log"
            file = _open_log(path)
            if file is not None:
                stack.enter_context(file)
            workers.append(_Worker(command, environment, path, file, policy))
            stack.callback(workers[-1].kill)
        interrupted = False
        try:
            for worker in workers:
                worker.start()
            interrupted = _watch(workers, stop, on_tick)
        except KeyboardInterrupt:
            interrupted = True
            _leave_at_once(workers, policy)
    failed = [worker for worker in workers if worker.given_up]
    refused = [worker for worker in failed if worker.code == BAD_INPUT]
    return LaunchSummary(
        interrupted=interrupted,
        restarts=sum(worker.restarts for worker in workers),
        given_up=tuple(worker.path for worker in failed),
        bad_input=bool(refused),
        reason=(refused or failed)[0].reason if failed else "",
    )


def _open_log(path: Path) -> IO[bytes] | None:
    """A worker's log; None, with a warning, if it cannot be written: the work does not need it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, whose content would fail again when it is closed; a pipe never blocks.
        return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK), "ab", 0)
    except OSError as error:
        log.warning("log %s: cannot be written (%s): its worker prints here", path, error.strerror)
        return None


def _watch(workers: Sequence["_Worker"], stop: Stop, on_tick: Callable[[], None]) -> bool:
    """Wait until all workers have left; whether they were asked to."""
    asked = False
    while any(worker.is_active for worker in workers):
        if stop.is_set() and not asked:
            asked = True
            for worker in workers:
                worker.terminate()
        for worker in workers:
            worker.look()
        on_tick()
        # Once set, `stop` no longer waits.
        time.sleep(SECONDS_BETWEEN_LOOKS) if asked else stop.wait(SECONDS_BETWEEN_LOOKS)
    return asked


def _leave_at_once(workers: Sequence["_Worker"], policy: Restarts) -> None:
    # Send each worker two SIGTERMs in total, spaced: a pending signal absorbs a second.
    for worker in [worker for worker in workers if not worker.leaving]:
        worker.terminate()
    time.sleep(SECONDS_BETWEEN_SIGNALS)
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + policy.kill_after
    while any(worker.is_running for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)


@dataclass
class _Worker:
    """One place for a worker process, and the process in it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    path: Path
    file: IO[bytes] | None
    """The log; None if it cannot be written."""
    policy: Restarts
    restarts: int = 0
    given_up: bool = False
    code: int | None = None
    leaving: bool = False
    """Whether it was asked to leave."""
    _failures: int = 0
    _started: float = 0.0
    _start_at: float | None = None
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_active(self) -> bool:
        """Running, or to be started again."""
        return self._process is not None or self._start_at is not None

    def start(self) -> None:
        self._start_at = None
        self._started = time.monotonic()
        if self.file is not None:
            line = f"{STARTS}{datetime.now():%Y-%m-%d %H:%M:%S} worker starts\n"
            with suppress(OSError):  # a full disk does not keep the worker from its work
                self.file.write(line.encode())
        # A session of its own, so that Ctrl-C in the terminal reaches the launcher alone, which
        # passes it on. From the terminal as well it would count as the second.
        self._process = subprocess.Popen(
            self.command,
            env=os.environ | dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=self.file or STDERR,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def look(self) -> None:
        """Notice that the process has left; start it again when it is time."""
        if self._start_at is not None and time.monotonic() >= self._start_at:
            self.start()
        if self._process is None or self.is_running:
            return
        self.code, self._process = self._process.returncode, None
        if self.code in (DONE, INTERRUPTED) or self.leaving:
            return
        if self.code == BAD_INPUT:
            self.given_up = True
        else:
            self._fail(self.code)

    def _fail(self, code: int) -> None:
        policy = self.policy
        steady = time.monotonic() - self._started > policy.steady_seconds
        self._failures = 1 if steady else self._failures + 1
        how = self._signal or f"exit code {code}"
        if self._failures > policy.at_most or self.restarts >= policy.in_all:
            self.given_up = True
            log.warning("worker ended with %s too often, see %s", how, self.path)
            return
        wait = min(policy.first_wait * 2 ** (self._failures - 1), policy.longest_wait)
        if words := self.last_words():
            how += f" (last line of its log: {words})"
        text = "worker ended with %s, is started again in %.0f s; see %s"
        log.warning(text, how, wait, self.path)
        self.restarts += 1
        self._start_at = time.monotonic() + wait

    @property
    def _signal(self) -> str:
        """The signal that ended the process; empty if it left by itself."""
        return f"signal {signal.Signals(-self.code).name}" if self.code and self.code < 0 else ""

    @property
    def reason(self) -> str:
        """Why the process left: the signal, or else the last line of its log."""
        return self._signal or self.last_words()

    def last_words(self) -> str:
        """The last line of the log; empty if the process said nothing."""
        try:
            with open_plain(self.path) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_WORDS))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:  # the log could not be written
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return "" if last.startswith(STARTS) else last.removeprefix("spec-opt: error: ")

    def terminate(self) -> None:
        """Ask it to leave: after its trial the first time, at once the second time."""
        self.leaving = True
        self._start_at = None
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait()
