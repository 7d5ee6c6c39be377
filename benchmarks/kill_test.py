"""Run studies while SIGKILL hits workers and launcher: every setting must be complete exactly once.

    python -m benchmarks.kill_test --runs 50 --store sqlite
    python -m benchmarks.kill_test --runs 50 --store postgres
    python -m benchmarks.kill_test --runs 10 --models --clocks

Each run is `spec-opt run --workers 4` on the grid of 80 settings, with an objective that takes
`--seconds` and needs no models. Worker, launcher and store are the real ones, with a heartbeat
every 0.5 s and a grace period of 3 s. At random points of the work, start-up included, one worker
is killed four times, all workers once, and once either the launcher alone or the launcher with its
workers; after that the same command is given again. Postgres is an embedded server. With `--models`
a tiny pair measures. With `--clocks` each worker's clock is right, a day ahead or a day behind
(Debian's libfaketime); one that is started again may have another.
"""

import argparse
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.environment import describe
from tests.study.kills import Fire, Outcome, Study, run_under_fire
from tests.study.postgres import PostgresServer, postgres_of_our_own
from tests.study.stand_in_program import LIBRARIES, Options

SETTINGS = 80
FIRES = (Fire(launcher=1, everything=0), Fire(launcher=0, everything=1))
COLUMNS = "run exit kills launches evaluations distinct twice left failed tracebacks seconds"


def one_run(number: int, options: Options, server: PostgresServer | None) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="spec-opt-kill-test-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/store.db" if server is None else server.new_database()
        study = Study(folder / "study", url, options=options)
        fire = FIRES[number % len(FIRES)]
        outcome = run_under_fire(study, SETTINGS, fire, random.Random(number))
        if not is_right(outcome):
            print(study.text(), file=sys.stderr)
        return outcome


def is_right(outcome: Outcome) -> bool:
    once = (outcome.distinct, outcome.twice, outcome.left) == (SETTINGS, 0, 0)
    return once and outcome.exit_code == 0 and outcome.tracebacks == 0


def row(number: int, o: Outcome) -> str:
    cells = (number, o.exit_code, o.kills, o.launches, o.evaluations, o.distinct, o.twice, o.left,
             o.failed, o.tracebacks, f"{o.seconds:.1f}")  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a trial")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--models", action="store_true", help="measure with a tiny pair")
    parser.add_argument("--clocks", action="store_true", help="let clocks differ by days")
    options = parser.parse_args()
    if options.clocks and not LIBRARIES:
        parser.error("--clocks: libfaketime is missing (apt-get install libfaketime)")
    program = Options(options.seconds, models=options.models, clocks=options.clocks)
    print(describe())
    kind = ", real models" * options.models + ", clocks a day apart" * options.clocks
    print(f"{options.runs} runs on {options.store}, {options.seconds} s a trial, 4 workers{kind}\n")
    print("| " + " | ".join(COLUMNS.split()) + " |")
    print("|" + "--:|" * len(COLUMNS.split()))
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        server = None
        if options.store == "postgres":
            server = stack.enter_context(postgres_of_our_own())
        for number in range(options.first, options.first + options.runs):
            outcomes.append(one_run(number, program, server))
            print(row(number, outcomes[-1]), flush=True)
    right = sum(map(is_right, outcomes))
    print(
        f"\n{right} of {len(outcomes)} runs right; in all {sum(o.kills for o in outcomes)} kills, "
        f"{sum(o.launches for o in outcomes)} launches, "
        f"{sum(o.evaluations for o in outcomes)} evaluations, "
        f"{sum(o.distinct for o in outcomes)} distinct settings complete, "
        f"{sum(o.twice for o in outcomes)} twice, {sum(o.left for o in outcomes)} left running or "
        f"waiting, {sum(o.tracebacks for o in outcomes)} tracebacks; "
        f"seconds a run: median {statistics.median(o.seconds for o in outcomes):.1f}, "
        f"longest {max(o.seconds for o in outcomes):.1f}"
    )
    return 0 if right == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
