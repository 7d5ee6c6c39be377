import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from spec_opt.config.study_file import Setting
from spec_opt.config.values import FloatRange
from spec_opt.errors import DecodingError, WorkError
from spec_opt.measure.measurement import Measurement
from spec_opt.study.agenda import reconcile
from spec_opt.study.claims import ClaimedTrial, Claims, Heartbeat
from spec_opt.study.samplers import choose
from spec_opt.study.silence import Patience, Watch
from spec_opt.study.store import Store
from spec_opt.study.study import Study
from spec_opt.study.trials import all_attributes
from spec_opt.study.worker import TrialReport, WorkerSummary, describe, run_worker
from tests.study.stand_in import StandIn, measurement, stand_in_study

SMALL: dict[str, Any] = {"sigma": (0.1, 0.5), "bias": (1.0,), "k": (1, 2)}


@dataclass
class Scripted(StandIn):
    """Does what `script` says instead of the standard measurement."""

    script: Callable[[Setting], Measurement] = measurement

    def __call__(self, setting: Setting) -> Measurement:
        return self.script(setting)


def run(study: Study, script: Callable[[Setting], Measurement] = measurement) -> WorkerSummary:
    return run_worker(study, Scripted(script=script), threading.Event())


def states(study: Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.optuna_study().get_trials(deepcopy=False))


def test_a_grid_is_measured_once(store: Store) -> None:
    study = stand_in_study(store)
    summary = run(study)
    assert replace(summary, seconds=0.0) == WorkerSummary(80, 0, 0, 0, False, 0.0)
    trials = study.optuna_study().get_trials(deepcopy=False)
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == 80
    assert states(study) == {"COMPLETE": 80}
    again = run(study)
    assert again.complete == 0
    assert states(study) == {"COMPLETE": 80}


def test_the_front_is_optunas_own(store: Store) -> None:
    study = stand_in_study(store)
    run(study)
    trials = study.optuna_study().get_trials(deepcopy=False)

    def is_beaten(trial: FrozenTrial) -> bool:
        rate, mse = trial.values
        return any(
            other.values != trial.values and other.values[0] >= rate and other.values[1] <= mse
            for other in trials
        )

    front = {trial.number for trial in trials if not is_beaten(trial)}
    assert {trial.number for trial in study.optuna_study().best_trials} == front
    assert 1 < len(front) < len(trials)


def test_a_trial_says_how_its_numbers_came_about(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    run(study)
    trial = study.optuna_study().get_trials()[1]
    expected = measurement(Setting(**trial.params))
    assert trial.values == [expected.acceptance_rate, expected.mse]
    attributes = trial.user_attrs
    assert attributes["mae"] == 0.45
    assert attributes["mse_se"] is None
    assert all_attributes(attributes, trial.system_attrs)["accepted_by_position"] == [1, 1]
    assert attributes["mse_baseline"] == 0.44
    assert attributes["target_fingerprint"] == "t0"
    assert attributes["draft_fingerprint"] == "d0"
    assert attributes["data_fingerprint"] == "x0"
    assert attributes["decoding_fingerprint"] == "r0"
    assert attributes["device"] == "cpu"
    assert {"spec-opt", "python", "torch"} <= attributes["versions"].keys()
    assert attributes["commit"] is None or len(attributes["commit"]) == 40
    assert attributes["worker"].endswith(f":{os.getpid()}")
    assert attributes["source"] == "measured"
    assert attributes["grid_point"] == 1
    assert "acceptance_rate" not in attributes


def test_long_lists_are_no_user_attributes_but_copied_with_a_study(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    run(study)
    optuna.copy_study(
        from_study_name=study.name,
        from_storage=store.storage,
        to_storage=store.storage,
        to_study_name="copy",
    )
    for trial in store.optuna_study("copy").get_trials():
        assert max(len(str(value)) for value in trial.user_attrs.values()) < 150
        assert {"blocks", "tested_by_position"} <= all_attributes({}, trial.system_attrs).keys()


def test_whoever_watches_is_told(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    reports: list[TrialReport] = []
    run_worker(study, StandIn(), threading.Event(), reports.append)
    assert [report.number for report in reports] == [0, 1, 2, 3]
    assert {report.outcome for report in reports} == {"complete"}
    assert reports[0].setting == Setting(sigma=0.1, bias=1.0, k=1)
    assert reports[0].error is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DecodingError("forecast of window 3 is not finite"), "forecast of window 3"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("CUDA out of memory.\nTried to allocate"), "RuntimeError: CUDA out of mem"),
        (ValueError("x" * 5000), "ValueError: xxx"),
    ],
)
def test_a_setting_that_fails_does_not_end_the_study(
    error: Exception, reason: str, store: Store
) -> None:
    study = stand_in_study(store, **SMALL, max_attempts=2)

    def script(setting: Setting) -> Measurement:
        if setting.k == 2:
            raise error
        return measurement(setting)

    summary = run(study, script)
    assert (summary.complete, summary.fail) == (2, 4)
    assert states(study) == {"COMPLETE": 2, "FAIL": 4}
    failed = study.optuna_study().get_trials(states=[TrialState.FAIL])[0]
    assert failed.user_attrs["error"].startswith(reason)
    assert len(failed.user_attrs["error"]) <= 500
    assert "\n" not in failed.user_attrs["error"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["acceptance_rate", "mse"])
def test_numbers_that_are_not_finite_fail(name: str, number: float, store: Store) -> None:
    study = stand_in_study(store, **SMALL, max_attempts=1)
    run(study, lambda setting: measurement(setting, **{name: number}))
    assert states(study) == {"FAIL": 4}
    trial = study.optuna_study().get_trials()[0]
    assert trial.user_attrs["error"] == f"{name} = {number} is not finite"


def test_other_numbers_that_are_not_finite_are_unknown(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    run(study, lambda setting: measurement(setting, mae=float("nan")))
    assert study.optuna_study().get_trials()[0].user_attrs["mae"] is None


def test_a_transient_failure_is_mended(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    failures = [MemoryError("once")]

    def script(setting: Setting) -> Measurement:
        if failures:
            raise failures.pop()
        return measurement(setting)

    run(study, script)
    assert states(study) == {"FAIL": 1, "COMPLETE": 4}


def test_interrupted_work_goes_on_later(store: Store) -> None:
    study = stand_in_study(store, max_attempts=1)
    left = iter(range(10))

    def script(setting: Setting) -> Measurement:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return measurement(setting)

    summary = run(study, script)
    assert summary.interrupted
    assert summary.complete == 10
    assert states(study) == {"COMPLETE": 10, "FAIL": 1, "WAITING": 70}
    interrupted = study.optuna_study().get_trials(states=[TrialState.FAIL])[0]
    assert interrupted.user_attrs["error"] == "interrupted"
    assert run(study).complete == 70
    assert states(study) == {"COMPLETE": 80, "FAIL": 1}


def test_told_to_stop_it_ends_the_running_trial(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    stop = threading.Event()

    def script(setting: Setting) -> Measurement:
        stop.set()
        return measurement(setting)

    summary = run_worker(study, Scripted(script=script), stop)
    assert summary.interrupted
    assert summary.complete == 1
    assert states(study) == {"COMPLETE": 1, "WAITING": 3}


def test_a_process_that_exits_gives_its_trial_back(store: Store) -> None:
    study = stand_in_study(store, **SMALL)

    def script(_: Setting) -> Measurement:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run(study, script)
    assert states(study) == {"FAIL": 1, "WAITING": 4}


def test_a_lost_accelerator_costs_the_setting_no_attempt(store: Store) -> None:
    study = stand_in_study(store, **SMALL, max_attempts=1)

    def script(_: Setting) -> Measurement:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(WorkError, match="can go on no longer"):
        run(study, script)
    assert run(study).complete == 4
    assert states(study) == {"FAIL": 1, "COMPLETE": 4}


def test_a_long_trial_outlives_the_grace(store: Store) -> None:
    study = stand_in_study(store, sigma=(0.1,), bias=(1.0,), k=(1,))
    quick = Heartbeat(interval=0.1, grace=1.5)
    slow = threading.Thread(
        target=run_worker, args=(study, StandIn(3.0), threading.Event(), None, quick)
    )
    slow.start()
    while not states(study)["RUNNING"]:
        time.sleep(0.02)
    other = run_worker(study, StandIn(), threading.Event(), heartbeat=quick)
    slow.join()
    assert other.complete == 0
    assert states(study) == {"COMPLETE": 1}


def test_a_heartbeat_that_fails_once_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study = stand_in_study(store, sigma=(0.1,), bias=(1.0,), k=(1,))
    beats: list[int] = []

    def beat(*_: object) -> bool:
        beats.append(1)
        raise ZeroDivisionError

    monkeypatch.setattr("spec_opt.study.claims.Claims.beat", beat)
    run_worker(study, StandIn(0.5), threading.Event(), heartbeat=Heartbeat(0.05, 30.0))
    assert len(beats) > 2
    assert states(study) == {"COMPLETE": 1}


@pytest.mark.parametrize(
    "sampler", ["tpe", "gp", "random", "nsga2", "optuna.samplers:BruteForceSampler"]
)
def test_a_setting_drawn_twice_is_measured_once(sampler: str, store: Store) -> None:
    n_trials = 12 if sampler == "gp" else 20  # it takes its time to choose
    study = stand_in_study(store, sampler=sampler, n_trials=n_trials, sigma=(0.1, 0.2), bias=(1.0,))
    measured: list[str] = []

    def script(setting: Setting) -> Measurement:
        measured.append(str(setting))
        return measurement(setting)

    summary = run(study, script)
    assert states(study) == {"COMPLETE": n_trials}
    assert len(set(measured)) == len(measured) == summary.complete <= 10
    assert summary.repeated == n_trials - len(measured)
    for trial in study.optuna_study().get_trials():
        expected = measurement(Setting(**trial.params))
        assert trial.values == [expected.acceptance_rate, expected.mse]
        assert trial.user_attrs["mae"] == expected.mae
        assert trial.user_attrs["source"] in ("measured", "repeated")
    repeated = [t for t in study.optuna_study().trials if t.user_attrs["source"] == "repeated"]
    first = study.optuna_study().trials[repeated[0].user_attrs["repeated_from"]]
    copied, original = (all_attributes({}, trial.system_attrs) for trial in (repeated[0], first))
    assert copied == original != {}
    assert first.params == repeated[0].params
    assert repeated[0].user_attrs["evaluation_seconds"] == 0.0


def test_a_sampler_that_takes_long_loses_no_trial(
    tmp_path: Path, opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life are given while it chooses, too."""
    store = opened(f"sqlite:///{tmp_path}/store.db")
    study = stand_in_study(store, sampler="random", n_trials=1)
    looks: list[int] = []

    def choose_slowly(*arguments: Any) -> dict[str, Any]:
        time.sleep(2.5)
        # Another worker looks, and would give up who was silent.
        outlook = store.transaction(
            lambda c: reconcile(c, study.study_id, study.config, Patience(Watch(), 1.5))
        )
        looks.append(outlook.running)
        return choose(*arguments)

    monkeypatch.setattr("spec_opt.study.claims.choose", choose_slowly)
    run_worker(study, StandIn(), threading.Event(), heartbeat=Heartbeat(0.1, 1.5))
    assert looks == [1]
    assert states(study) == {"COMPLETE": 1}


def test_who_is_stopped_while_waiting_for_another_gives_the_trial_back(store: Store) -> None:
    study = stand_in_study(store, sampler="random", n_trials=4, sigma=(0.1,), bias=(1.0,), k=(1,))
    held = Claims(study)
    claimed = held.claim()
    assert isinstance(claimed, ClaimedTrial)
    stop = threading.Event()
    summaries: list[WorkerSummary] = []

    def wait() -> None:
        summaries.append(run_worker(study, StandIn(), stop))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while states(study)["RUNNING"] < 2:
        time.sleep(0.02)
    stop.set()
    waiting.join()
    assert (summaries[0].interrupted, summaries[0].complete, summaries[0].repeated) == (True, 0, 0)
    assert states(study) == {"RUNNING": 1, "FAIL": 1}
    assert held.beat(claimed.trial_id)


def test_a_continuous_space_is_searched(store: Store) -> None:
    study = stand_in_study(
        store, sampler="tpe", n_trials=15, sigma=FloatRange(low=0.05, high=1.0, log=True)
    )
    assert run(study).complete == 15
    assert all(0.05 <= t.params["sigma"] <= 1.0 for t in study.optuna_study().trials)


def test_more_trials_later_are_other_trials(store: Store) -> None:
    space: dict[str, Any] = {"sampler": "random", "sigma": FloatRange(low=0.05, high=1.0)}
    run(stand_in_study(store, **space, n_trials=5))
    study = stand_in_study(store, **space, n_trials=10)
    run(study)
    assert len({trial.params["sigma"] for trial in study.optuna_study().trials}) == 10


@pytest.mark.parametrize(
    ("sampler", "transactions", "statements"), [("grid", 2, 14), ("tpe", 4, 29), ("random", 3, 21)]
)
def test_the_store_is_asked_little_for_a_trial(
    sampler: str, transactions: int, statements: int, store: Store
) -> None:
    """Each transaction costs a commit, each statement a way to the server and back."""
    space: dict[str, Any] = {"sigma": FloatRange(low=0.05, high=1.0), "n_trials": 80}
    study = stand_in_study(store, sampler=sampler, **({} if sampler == "grid" else space))
    counts = Counter[str]()
    engine = store.storage.engine
    event.listen(engine, "begin", lambda _: counts.update(["transactions"]))
    event.listen(engine, "before_cursor_execute", lambda *_: counts.update(["statements"]))
    assert run(study).complete == 80
    # A few more to begin, to find that all is done, and to note it.
    assert counts["transactions"] <= 80 * transactions + 5
    assert counts["statements"] <= 80 * statements + 6


def test_errors_in_one_line() -> None:
    assert describe(DecodingError("a\n b")) == "a b"
    assert describe(ValueError("a\n b")) == "ValueError: a b"
    assert describe(MemoryError()) == "MemoryError"
