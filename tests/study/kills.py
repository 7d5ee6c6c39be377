"""A study under fire: the program on a stand-in objective, its processes killed at random."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from spec_opt.study.store import open_store
from spec_opt.study.study import load_study
from tests.study.stand_in_program import Options

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-m", "tests.study.stand_in_program")
NAME = "under-fire"
DATA = '[data]\nsource = "synthetic"\ncontext = 96\nhorizon = 48\n[bench]\nseconds = 0\n'
PAIR = f"""[data.synthetic]
rows = 1000
[target]
checkpoint = "{ROOT / "tests/files/tiny_target.pth"}"
[draft]
checkpoint = "{ROOT / "tests/files/tiny_draft.pth"}"
"""
LONGEST = 300.0
"""Seconds after which a run that has not ended is taken to hang."""


@dataclass(frozen=True)
class Fire:
    """How often what is killed with SIGKILL."""

    one: int = 4
    """One worker."""
    all_workers: int = 1
    """All workers at once."""
    launcher: int = 1
    """The launcher alone, while its workers go on; then the same command is given again."""
    everything: int = 0
    """Launcher and workers at once, as by a power cut; then the same command is given again."""

    def shots(self, chance: random.Random) -> list[tuple[float, str]]:
        """What is killed, and at which share of the evaluations, in that order."""
        kinds = (
            ["one"] * self.one
            + ["all"] * self.all_workers
            + ["launcher"] * self.launcher
            + ["everything"] * self.everything
        )
        return sorted((chance.random(), kind) for kind in kinds)


@dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    exit_code: int
    """Of the last launcher."""
    kills: int
    """Processes killed."""
    launches: int
    """How often the command was given."""
    evaluations: int
    complete: int
    distinct: int
    """Different settings among the complete trials."""
    failed: int
    left: int
    """Trials still running or waiting."""
    tracebacks: int
    """In the workers' logs and the launchers' output."""
    seconds: float

    @property
    def twice(self) -> int:
        return self.complete - self.distinct


class Study:
    """A study file in a folder of its own, and the processes that work on it.

    Args:
        folder: gets the study file, logs and whatever the program writes.
        url: the store.
        search: the table [search] of the study file.
        options: of the stand-in program.
    """

    def __init__(
        self, folder: Path, url: str, search: str = "", options: Options | None = None
    ) -> None:
        self.folder = folder
        self.url = url
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "study.toml"
        pair = PAIR if options is not None and options.models else ""
        text = f'name = "{NAME}"\n[search]\n{search}\n{DATA}{pair}'
        self._file.write_text(text, encoding="utf-8")
        self._evaluations = folder / "evaluations"
        self._output = folder / "output"
        options = replace(options or Options(), log=str(self._evaluations))
        self._environment = {
            **os.environ,
            **options.environment(),
            "SPEC_OPT_STORAGE": url,
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start the program: `run` or `worker` first, the study file goes in after it."""
        command = [*PROGRAM, arguments[0], str(self._file), *arguments[1:]]
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def evaluations(self) -> int:
        """How many there were so far."""
        if not self._evaluations.exists():
            return 0
        return self._evaluations.read_bytes().count(b"\n")

    def processes(self, command: str) -> list[int]:
        """The process ids of what runs `command` on this study, whoever started it."""
        mine = os.fsencode(self._file)
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                arguments = _arguments(int(folder.name))
                if mine in arguments and command.encode() in arguments:
                    found.append(int(folder.name))
        return found

    def kill(self, pids: list[int]) -> int:
        """SIGKILL to those of the processes that are still ours; how many they were."""
        handles = []
        for pid in pids:
            try:
                handles.append((pid, os.pidfd_open(pid)))
            except ProcessLookupError:
                continue
        killed = 0
        for pid, handle in handles:
            # The handle names the process that had the id when it was opened, never a later one.
            if os.fsencode(self._file) in _arguments(pid):
                try:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
            os.close(handle)
        return killed

    def text(self) -> str:
        """All that the processes said."""
        logs = sorted(self.folder.glob("logs/*/*.log"))
        paths = [path for path in (self._output, *logs) if path.exists()]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)

    def trials(self) -> list[FrozenTrial]:
        with open_store(self.url, create=False) as store:
            return load_study(store, NAME).optuna_study().get_trials(deepcopy=False)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds.

        Raises:
            AssertionError: it did not in `LONGEST` seconds; with all that the processes said.
        """
        deadline = time.monotonic() + LONGEST
        while not condition():
            assert time.monotonic() < deadline, f"waited too long for {what}:\n{self.text()}"
            time.sleep(0.02)

    def clean_up(self) -> None:
        """Leave no process behind."""
        for command in ("run", "worker"):
            self.kill(self.processes(command))


def run_under_fire(
    study: Study, trials: int, fire: Fire, chance: random.Random, workers: int = 4
) -> Outcome:
    """Run the study to its end with `spec-opt run`, while processes are killed.

    Args:
        study: a new one.
        trials: how many it is to have, by which moments are chosen.
        fire: what is killed.
        chance: chooses moments and victims.
        workers: of each launch.

    Raises:
        AssertionError: it did not end.
    """
    run = ("run", "--workers", str(workers))
    began = time.monotonic()
    launches = [study.start(*run)]
    kills = 0

    def over() -> bool:
        return launches[-1].poll() is not None

    try:
        for share, kind in fire.shots(chance):
            study.wait_for(lambda: over() or study.evaluations() >= share * trials, kind)  # noqa: B023
            time.sleep(chance.uniform(0.0, 0.5))
            if over():
                break
            victims = study.processes("worker") if kind != "launcher" else []
            if kind == "one" and victims:
                victims = [chance.choice(victims)]
            if kind in ("launcher", "everything"):
                victims.insert(0, launches[-1].pid)
            kills += study.kill(victims)
            if kind in ("launcher", "everything"):
                launches[-1].wait()
                time.sleep(chance.uniform(0.0, 1.0))
                launches.append(study.start(*run))
        study.wait_for(over, "the end")
        # Workers of a launcher that was killed go on, and leave when the study is done.
        study.wait_for(lambda: not study.processes("worker"), "workers without a launcher")
    finally:
        study.clean_up()
    seconds = time.monotonic() - began
    ended = study.trials()
    states = Counter(trial.state for trial in ended)
    complete = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    return Outcome(
        exit_code=launches[-1].wait(),
        kills=kills,
        launches=len(launches),
        evaluations=study.evaluations(),
        complete=len(complete),
        distinct=len({tuple(sorted(trial.params.items())) for trial in complete}),
        failed=states[TrialState.FAIL],
        left=states[TrialState.RUNNING] + states[TrialState.WAITING],
        tracebacks=study.text().count("Traceback"),
        seconds=seconds,
    )


def _arguments(pid: int) -> list[bytes]:
    """The command line of a process; empty if there is none, or none of ours to see."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
