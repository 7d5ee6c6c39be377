"""`spec-opt` with a stand-in for the models, quick patience, no report; the rest is the real thing.

STAND_IN='{"seconds": 0.2}' python -m tests.study.stand_in_program run STUDY --workers 4
"""

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from spec_opt import cli
from spec_opt.cli import service
from spec_opt.config.study_file import StudyConfig
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

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def main() -> int:
    options = Options(**json.loads(os.environ.get(VARIABLE, "{}")))
    log = None if options.log is None else Path(options.log)

    def prepare(config: StudyConfig, url: str) -> tuple[Study, StandIn]:
        study = open_study(open_store(url), config, FINGERPRINTS, BASELINE, package_versions())
        return study, StandIn(options.seconds, log)

    work = partial(run_worker, heartbeat=Heartbeat(options.interval, options.grace))
    restarts = Restarts(
        at_most=options.restarts,
        first_wait=options.first_wait,
        longest_wait=options.longest_wait,
    )
    replaced: dict[str, Any] = {
        "PROGRAM": (sys.executable, "-m", "tests.study.stand_in_program"),
        "prepare": prepare,
        "make_models": lambda reference, url: None,
        "launch": partial(launch, restarts=restarts),
        "run_worker": work,
        # Ray runs it in another process, where nothing is replaced.
        "work_in_task": lambda config, url: work(*prepare(config, url), threading.Event()),
    }
    # Drawing figures takes longer than the rest of a start; other tests check the report.
    report = ModuleType("spec_opt.results.report")
    written = SimpleNamespace(files=(Path("report.html"),), png_problem=None)
    setattr(report, "write_report", lambda *_, **__: written)  # noqa: B010 - not known to types
    sys.modules[report.__name__] = report
    for name, value in replaced.items():
        assert hasattr(service, name), name
        setattr(service, name, value)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
