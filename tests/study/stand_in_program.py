"""`spec-opt` with a stand-in for the models, quick patience, no report; the rest is the real thing.

STAND_IN='{"seconds": 0.2}' python -m tests.study.stand_in_program run STUDY --workers 4
"""

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from spec_opt import api, cli
from spec_opt.cli import service
from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.variants import Variant
from spec_opt.measure.measurement import Measurement
from spec_opt.study.claims import Heartbeat
from spec_opt.study.launch import Restarts, launch
from spec_opt.study.store import open_store
from spec_opt.study.study import Study, open_study, package_versions
from spec_opt.study.worker import run_worker
from tests.study.stand_in import BASELINE, FINGERPRINTS, StandIn

VARIABLE = "STAND_IN"


@dataclass(frozen=True)
class Options:
    """What differs from the program that ships; the environment carries it to the workers."""

    seconds: float = 0.2
    """Of a trial."""
    log: str | None = None
    """A file that gets a line for each evaluation."""
    interval: float = 0.5
    grace: float = 3.0
    """Of the heartbeat."""
    restarts: int = 100
    """Failures in a row after which a worker is given up."""
    first_wait: float = 0.1
    longest_wait: float = 1.0
    """Seconds before a worker is started again."""
    clocks: bool = False
    """Whether each worker's clock is a day ahead, a day behind, or right (with libfaketime)."""
    models: bool = False
    """Whether the study's own models measure, rather than the stand-in."""

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
"""Debian's libfaketime."""
CLOCKS = ("+0", "+1d", "-1d")


def change_clock() -> None:
    """Go on as the same process under a clock that its process id chooses."""
    if "FAKETIME" in os.environ:
        # The library does not know the call with which Python sleeps.
        time.sleep = lambda seconds: select.select([], [], [], float(seconds)) and None
        return
    # Silence is measured by the monotonic clock, which no clock setting changes.
    new = {"LD_PRELOAD": str(LIBRARIES[0]), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
    new["FAKETIME"] = CLOCKS[os.getpid() % len(CLOCKS)]
    os.execve(sys.executable, [sys.executable, "-m", NAME, *sys.argv[1:]], os.environ | new)


NAME = "tests.study.stand_in_program"


class Noted:
    """An objective that takes longer, and notes each evaluation as `StandIn` does."""

    def __init__(self, objective: Any, note: StandIn) -> None:
        self._objective, self._note = objective, note

    def __call__(self, setting: Setting) -> Measurement:
        self._note(setting)
        found: Measurement = self._objective(setting)
        return found

    def of(self, variant: Variant) -> "Noted":
        return Noted(self._objective.of(variant), self._note)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def main() -> int:
    options = Options(**json.loads(os.environ.get(VARIABLE, "{}")))
    log = None if options.log is None else Path(options.log)
    if options.clocks and "worker" in sys.argv[1:2]:
        change_clock()
    real: Callable[..., tuple[Study, Any]] = vars(service)["prepare"]

    def prepare(config: StudyConfig, url: str) -> tuple[Study, Any]:
        if options.models:
            study, objective = real(config, url)
            return study, Noted(objective, StandIn(options.seconds, log))
        study = open_study(open_store(url), config, FINGERPRINTS, BASELINE, package_versions())
        return study, StandIn(options.seconds, log)

    work = partial(run_worker, heartbeat=Heartbeat(options.interval, options.grace))
    restarts = Restarts(
        at_most=options.restarts,
        first_wait=options.first_wait,
        longest_wait=options.longest_wait,
    )
    replaced: dict[tuple[ModuleType, str], Any] = {
        (api, "PROGRAM"): (sys.executable, "-m", NAME),
        (api, "launch"): partial(launch, restarts=restarts),
        (service, "prepare"): prepare,
        (service, "make_models"): lambda reference, url: None,
        (service, "run_worker"): work,
        # Ray runs it in another process, where nothing is replaced.
        (service, "work_in_task"): lambda config, url: work(
            *prepare(config, url), threading.Event()
        ),
    }
    # Drawing figures takes longer than the rest of a start; other tests check the report.
    report = ModuleType("spec_opt.results.report")
    written = SimpleNamespace(files=(Path("report.html"),), png_problem=None)
    setattr(report, "write_report", lambda *_, **__: written)  # noqa: B010 - not known to types
    sys.modules[report.__name__] = report
    for (module, name), value in replaced.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
