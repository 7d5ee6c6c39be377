"""Processes that are forked from one which has imported everything, so that they start at once."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PRELOADED = [
    "tests.other_user",
    "tests.study.stand_in",
    "spec_opt.cli.service",
    "spec_opt.measure.objective",
    "spec_opt.results.report",
    "optuna._gp.gp",  # of Optuna's GP sampler, which imports torch when it first chooses
]
Target = Callable[..., int | str]
_context = multiprocessing.get_context("forkserver")


class Forked:
    """A function in a process of its own; what it returns is the exit code, or the text on stdout.

    Args:
        folder: gets the process's stdout and stderr, as files.
        target: the function; found by its name, so one of a module.
        arguments: of the function.
    """

    def __init__(self, folder: Path, target: Target, *arguments: Any) -> None:
        folder.mkdir()
        for name in ("stdout", "stderr"):  # so that they can be read before the process has begun
            (folder / name).touch()
        self._folder = folder
        _start_server()
        place = os.getcwd(), dict(os.environ)
        given = (target, arguments, folder, place)
        self._process = _context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.join()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"still runs after {seconds:g} s: {self.stderr}"
        return code

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text(encoding="utf-8", errors="replace")


def _start_server() -> None:
    """Start the process that forks the others, unless it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where it finds `tests`
        patch.setenv("OMP_NUM_THREADS", "1")  # they share the cores
        _context.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


def _run(
    target: Target,
    arguments: tuple[Any, ...],
    folder: Path,
    place: tuple[str, dict[str, str]],
) -> None:
    directory, variables = place
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    result = target(*arguments)
    if isinstance(result, str):
        sys.stdout.write(result)
    else:
        sys.exit(result)
