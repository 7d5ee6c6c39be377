"""What samplers find in few trials, and what is lost when a search stops by itself.

    python -m benchmarks.search                      # the committed table, in about half an hour
    python -m benchmarks.search --samplers tpe random

Studies replay a table: the quickstart's pair is measured once on a dense grid, and a trial gets the
nearest setting's measurement. The search itself is the real one: stores, claims, samplers, one
worker. Nothing is timed.
"""

import argparse
import itertools
import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.environment import describe
from spec_opt.config.limits import Constraints, StopConfig
from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig, read_study
from spec_opt.config.values import Rule
from spec_opt.config.variants import Variant
from spec_opt.measure.measurement import Measurement
from spec_opt.measure.objective import StudyObjective
from spec_opt.study.constraints import values_of, violations
from spec_opt.study.ending import course_of, rests
from spec_opt.study.hypervolume import gains, hypervolume
from spec_opt.study.store import open_store
from spec_opt.study.study import open_study
from spec_opt.study.trials import history
from spec_opt.study.worker import run_worker

BIASES: Final = np.geomspace(1.0, 16.0, 9)
KS: Final = (1, 2, 3, 4)


@dataclass(frozen=True)
class Problem:
    """A rule of decoding, and what is searched under it."""

    rule: Rule
    lowest: float
    highest: float
    """sigma, in 33 steps of equal ratio."""
    limits: Constraints

    @property
    def sigmas(self) -> Any:
        return np.geomspace(self.lowest, self.highest, 33)

    @property
    def space(self) -> dict[str, Any]:
        return {
            "sigma": {"low": self.lowest, "high": self.highest, "log": True},
            "bias": {"low": 1.0, "high": 16.0, "log": True},
            "k": {"low": 1, "high": 4},
            "constraints": self.limits,
        }

    def __str__(self) -> str:
        within = f" within {self.limits}" if self.limits.are_set else ""
        return f"rule {self.rule}, sigma {self.lowest:g} to {self.highest:g}{within}"


PROBLEMS: Final = (
    # Acceptance jumps from none to all where sigma passes the gap between the models.
    Problem("stride", 0.02, 2.0, Constraints(max_mse_ratio=1.2, min_acceptance=0.6)),
    Problem("point", 0.02, 0.5, Constraints()),
)
SAMPLERS: Final = ("random", "tpe", "nsga2", "gp")
AFTER: Final = (30, 60, 100)
"""Trials after which the hypervolume is taken."""
STOP: Final = StopConfig()


class Replay:
    """Measures each setting of a dense grid once; any other gets the nearest one's measurement."""

    def __init__(self, base: StudyConfig, problem: Problem) -> None:
        self.problem = problem
        decoding = base.decoding.model_copy(update={"rule": problem.rule})
        self.config = base.model_copy(update={"decoding": decoding})
        measure = StudyObjective.prepare(self.config)
        self.fingerprints, self.baseline = measure.fingerprints, measure.baseline
        self.device, self.draft_path = measure.device, measure.draft_path
        grid = itertools.product(problem.sigmas.tolist(), BIASES.tolist(), KS)
        settings = [Setting(sigma=sigma, bias=bias, k=k) for sigma, bias, k in grid]
        self.table = {self._nearest(setting): measure(setting) for setting in settings}

    def of(self, variant: Variant) -> "Replay":
        del variant
        return self

    def __call__(self, setting: Setting) -> Measurement:
        return self.table[self._nearest(setting)]

    def _nearest(self, setting: Setting) -> tuple[int, int, int]:
        return _index(self.problem.sigmas, setting.sigma), _index(BIASES, setting.bias), setting.k

    def volume(self) -> float:
        """The hypervolume of the whole table: the most that a search can reach."""

        of_target, limits = self.baseline.target_mse, self.problem.limits
        values = [(m.acceptance_rate, m.mse) for m in self.table.values()]
        feasible = [v for v in values if all(x <= 0 for x in violations(limits, v, of_target))]
        return hypervolume(gains(feasible, of_target))


def _index(values: Any, value: float) -> int:
    return int(np.abs(np.log(values) - math.log(value)).argmin())


@dataclass(frozen=True)
class Run:
    """One search."""

    missing: tuple[float, ...]
    """Share of the reachable hypervolume not reached after the numbers of trials in AFTER."""
    stopped_after: int | None
    """Trials after which `STOP` would have ended it; None if it would not have."""
    lost: float
    """Share of what the whole run reached that the stop would have lost."""


def search(replay: Replay, sampler: str, seed: int) -> Run:
    """Run a study of `AFTER[-1]` trials, and see when it would have stopped."""
    asked = {"sampler": sampler, "n_trials": AFTER[-1], "seed": seed, **replay.problem.space}
    config = replay.config.model_copy(update={"search": SearchConfig.model_validate(asked)})
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/s.db") as store:
        study = open_study(store, config, replay.fingerprints, replay.baseline, {})
        run_worker(study, replay, threading.Event())
        rows = store.read(lambda connection: history(connection, study.study_id))
        values = store.read(lambda connection: values_of(connection, study.study_id))
    of_target = replay.baseline.target_mse
    ids = list(values)

    def course(count: int) -> list[float]:
        ended = {i: values[i] for i in ids[:count]}
        return course_of(rows, ended, replay.problem.limits, of_target)

    most = replay.volume()
    missing = tuple(1.0 - course(count)[-1] / most for count in AFTER)
    stop = next((count for count in range(1, len(ids)) if rests(course(count), STOP)), None)
    lost = 0.0 if stop is None else 1.0 - course(stop)[-1] / course(len(ids))[-1]
    return Run(missing, stop, lost)


def row(sampler: str, runs: Sequence[Run]) -> str:
    """A line of the table: mean and standard deviation over seeds, in percent."""
    cells = [
        f"{100 * np.mean(column):.2f} ± {100 * np.std(column, ddof=1):.2f}"
        for column in zip(*(run.missing for run in runs), strict=True)
    ]
    stopped = [run.stopped_after for run in runs if run.stopped_after is not None]
    after = f"{np.mean(stopped):.0f}" if stopped else "–"
    lost = [run.lost for run in runs]
    cells += [f"{len(stopped)} of {len(runs)}", after]
    cells += [f"{100 * np.mean(lost):.2f}", f"{100 * max(lost):.2f}"]
    return f"| {sampler} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    arguments = parser.parse_args()
    names = " | ".join(f"missing after {count}" for count in AFTER)
    print(describe(), flush=True)
    for problem in PROBLEMS:
        replay = Replay(read_study("quickstart"), problem)
        print(f"\n## {problem}\n")
        print(f"{len(replay.table)} settings measured, {arguments.seeds} seeds; all in %.\n")
        print(f"| sampler | {names} | stopped | after trials | lost, mean | lost, most |")
        print(f"|{'---|' * (len(AFTER) + 5)}", flush=True)
        for sampler in arguments.samplers:
            runs = [search(replay, sampler, seed) for seed in range(arguments.seeds)]
            print(row(sampler, runs), flush=True)


if __name__ == "__main__":
    main()
