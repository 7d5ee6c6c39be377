"""Real worker processes on one store: started at once, killed, stopped and continued."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from spec_opt.study.claims import Heartbeat
from spec_opt.study.store import Store, open_store
from spec_opt.study.study import load_study
from tests.forked import Forked
from tests.study.stand_in import QUICK, work

GRID_24: dict[str, Any] = {"sigma": (0.1, 0.2, 0.3), "bias": (1.0, 2.0), "k": (1, 2, 3, 4)}
LONGEST = 120.0
"""Seconds after which a test gives up."""

Start = Callable[..., Forked]


@pytest.fixture
def start(store_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes; what is left of them at the end is killed."""
    processes: list[Forked] = []

    def start_(
        search: dict[str, Any], seconds: float = 0.05, heartbeat: Heartbeat = QUICK
    ) -> Forked:
        folder, log = tmp_path / f"process-{len(processes)}", tmp_path / "evaluations"
        processes.append(Forked(folder, work, store_url, search, seconds, log, heartbeat))
        return processes[-1]

    yield start_
    for process in processes:
        process.kill()


def ended(process: Forked) -> dict[str, Any]:
    """What a worker said at its end, which must be a good one."""
    assert process.wait(LONGEST) == 0, process.stderr
    assert process.stderr == ""
    summary: dict[str, Any] = json.loads(process.stdout)
    return summary


def trials_of(url: str) -> list[FrozenTrial]:
    with open_store(url, create=False) as store:
        return load_study(store, "stand-in").optuna_study().get_trials()


def assert_every_setting_once(url: str, count: int) -> list[FrozenTrial]:
    trials = trials_of(url)
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(complete) == count
    assert len({tuple(trial.params.values()) for trial in complete}) == count
    assert [trial.number for trial in trials] == list(range(len(trials)))
    return trials


def wait_for(condition: Callable[[], bool], workers: list[Forked]) -> None:
    deadline = time.monotonic() + LONGEST
    while not condition():
        for worker in workers:
            if worker.poll():
                pytest.fail(worker.stderr)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def evaluations(tmp_path: Path) -> int:
    log = tmp_path / "evaluations"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_ten_workers_at_once_on_an_empty_store(start: Start, store_url: str) -> None:
    workers = [start({}, seconds=0.01, heartbeat=Heartbeat()) for _ in range(10)]
    summaries = [ended(worker) for worker in workers]
    assert sum(summary["complete"] for summary in summaries) == 80
    assert len(assert_every_setting_once(store_url, 80)) == 80


def test_killed_workers_cost_no_setting(start: Start, store_url: str, tmp_path: Path) -> None:
    chance = random.Random(0)
    workers = [start(GRID_24, seconds=0.2) for _ in range(4)]
    for kill in range(4):
        wait_for(lambda: evaluations(tmp_path) > 3 + 4 * kill, workers)  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.2))
        victims = workers if kill == 2 else [chance.choice(workers)]
        for victim in victims:
            victim.kill()
        workers = [w for w in workers if w not in victims]
        workers += [start(GRID_24, seconds=0.2) for _ in victims]
    for worker in workers:
        ended(worker)
    trials = assert_every_setting_once(store_url, 24)
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert all(trial.user_attrs["failure"] == "died" for trial in failed)


def test_a_stopped_worker_comes_back_too_late(start: Start, store_url: str, tmp_path: Path) -> None:
    one = {"sigma": (0.1,), "bias": (1.0,), "k": (1,)}
    # So long that it cannot end between the look and the signal.
    stopped = start(one, seconds=3.0)
    wait_for(lambda: evaluations(tmp_path) == 1, [stopped])
    stopped.send_signal(signal.SIGSTOP)
    assert ended(start(one, seconds=0.0))["complete"] == 1
    stopped.send_signal(signal.SIGCONT)
    late = ended(stopped)
    assert (late["complete"], late["dropped"]) == (0, 1)
    trials = assert_every_setting_once(store_url, 1)
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "source" not in trials[0].user_attrs
    assert trials[0].values is None


def test_a_worker_told_to_leave_leaves_nothing_running(
    start: Start, store_url: str, tmp_path: Path
) -> None:
    worker = start(GRID_24, seconds=0.3)
    wait_for(lambda: evaluations(tmp_path) == 2, [worker])
    worker.send_signal(signal.SIGTERM)
    assert ended(worker)["interrupted"]
    states = Counter(trial.state for trial in trials_of(store_url))
    assert states[TrialState.RUNNING] == 0
    assert states[TrialState.COMPLETE] + states[TrialState.WAITING] == 24
    ended(start(GRID_24, seconds=0.0))
    assert_every_setting_once(store_url, 24)


LIMITS = {"max_mse_ratio": 1.1, "min_acceptance": 0.1}


@pytest.mark.parametrize(
    "sampler",
    ["gp", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("tpe", "nsga2", "random"))],
)
def test_samplers_stop_at_their_number_though_workers_die(
    sampler: str, start: Start, store_url: str, tmp_path: Path
) -> None:
    few = {"options": {"n_startup_trials": 19}} if sampler == "gp" else {}
    search = {"sampler": sampler, "n_trials": 25, "constraints": LIMITS, **few}
    workers = [start(search, seconds=0.1) for _ in range(4)]
    for kill in range(2):
        wait_for(lambda: evaluations(tmp_path) > 4 + 4 * kill, workers)  # noqa: B023
        victim = workers.pop(0)
        victim.kill()
        workers.append(start(search, seconds=0.1))
    for worker in workers:
        ended(worker)
    complete = [t for t in trials_of(store_url) if t.state is TrialState.COMPLETE]
    assert len(complete) == 25
    assert all(trial.params.keys() == {"sigma", "bias", "k"} for trial in complete)
    assert all(len(trial.system_attrs["constraints"]) == 2 for trial in complete)
    # A setting is measured again only where its worker was killed, or silent for long.
    measured = settings_measured(tmp_path)
    failed = [trial for trial in trials_of(store_url) if trial.state is TrialState.FAIL]
    assert measured.total() - len(measured) <= len(failed)


FEW: dict[str, Any] = {"sigma": (0.1, 0.2), "bias": (1.0,), "k": (1, 2, 3), "n_trials": 24}


def settings_measured(tmp_path: Path) -> Counter[str]:
    """How often each setting was evaluated."""
    lines = (tmp_path / "evaluations").read_text(encoding="utf-8").splitlines()
    return Counter(line.partition(" ")[2] for line in lines)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_samplers_measure_no_setting_twice(
    sampler: str, start: Start, store_url: str, tmp_path: Path
) -> None:
    search = {"sampler": sampler, "constraints": LIMITS, **FEW}
    summaries = [ended(worker) for worker in [start(search, seconds=0.3) for _ in range(4)]]
    measured = settings_measured(tmp_path)
    assert set(measured.values()) == {1}
    assert sum(summary["complete"] for summary in summaries) == len(measured)
    assert sum(summary["repeated"] for summary in summaries) == 24 - len(measured)
    assert {trial.state for trial in trials_of(store_url)} == {TrialState.COMPLETE}


def test_who_waits_for_a_worker_that_is_killed_measures_itself(
    start: Start, store_url: str, tmp_path: Path
) -> None:
    search = {"sampler": "tpe", "sigma": (0.1,), "bias": (1.0,), "k": (1,), "n_trials": 6}
    # So long that it cannot end before it is killed.
    killed = start(search, seconds=LONGEST)
    wait_for(lambda: evaluations(tmp_path) == 1, [killed])
    workers = [start(search, seconds=0.1) for _ in range(3)]
    running = [TrialState.RUNNING]
    wait_for(lambda: [t.state for t in trials_of(store_url)] == 4 * running, workers)
    assert evaluations(tmp_path) == 1
    killed.kill()
    summaries = [ended(worker) for worker in workers]
    assert sum(summary["complete"] for summary in summaries) == 1
    assert sum(summary["repeated"] for summary in summaries) == 5
    assert evaluations(tmp_path) == 2
    states = Counter(trial.state for trial in trials_of(store_url))
    assert states == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}


def test_the_store_reads_alike_while_others_write(
    start: Start, store_url: str, opened: Callable[..., Store], tmp_path: Path
) -> None:
    workers = [start(GRID_24, seconds=0.05, heartbeat=Heartbeat()) for _ in range(2)]
    wait_for(lambda: evaluations(tmp_path) > 0, workers)
    study = load_study(opened(store_url, create=False), "stand-in")
    while any(worker.poll() is None for worker in workers):
        trials = study.optuna_study().get_trials(deepcopy=False)
        assert len(trials) == 24
        assert all(
            trial.values is not None and "mae" in trial.user_attrs
            for trial in trials
            if trial.state is TrialState.COMPLETE
        )
    for worker in workers:
        ended(worker)
