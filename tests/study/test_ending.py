"""Why a study ended: on a plateau, complete, interrupted or failed; kept in the store."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState

from spec_opt.config.limits import Constraints, StopConfig
from spec_opt.config.study_file import Setting
from spec_opt.measure.measurement import Measurement
from spec_opt.results.figures import figures
from spec_opt.results.table import read_table
from spec_opt.study.claims import ClaimedTrial, Claims, Idle
from spec_opt.study.ending import rests
from spec_opt.study.progress import progress
from spec_opt.study.store import Store
from spec_opt.study.study import Study
from spec_opt.study.worker import WorkerSummary, run_worker
from tests.study.stand_in import StandIn, measurement, stand_in_study

STOP = StopConfig(patience=6, hypervolume=0.01)
SPACE: dict[str, Any] = {
    "sampler": "random",
    "n_trials": 200,
    "stop": STOP,
    "sigma": {"low": 0.1, "high": 1.0},
}
GRID: dict[str, Any] = {"sigma": (0.1, 0.5), "bias": (1.0,), "k": (1,), "max_attempts": 1}


def run(study: Study, objective: Callable[[Setting], Measurement] = measurement) -> WorkerSummary:
    return run_worker(study, Scripted(objective), threading.Event())


class Scripted(StandIn):
    def __init__(self, script: Callable[[Setting], Measurement]) -> None:
        super().__init__()
        self.script = script

    def __call__(self, setting: Setting) -> Measurement:
        return self.script(setting)


def stored(study: Study) -> Any:
    return study.optuna_study().user_attrs.get("ended")


@pytest.mark.parametrize(
    ("volumes", "found"),
    [
        ([0.5] * 6, False),  # not watched for long enough
        ([0.5] * 7, True),
        ([0.5] * 6 + [0.504], True),
        ([0.5] * 6 + [0.506], False),
        ([0.4, *[0.5] * 6], False),
        ([0.0] * 9, False),  # nothing good was found yet
    ],
)
def test_a_plateau(volumes: list[float], found: bool) -> None:
    assert rests(volumes, STOP) is found


def test_a_study_ends_on_a_plateau_and_stays_ended(store: Store) -> None:
    study = stand_in_study(store, **SPACE)
    count = run(study).complete
    assert STOP.patience < count < 200
    now = progress(study)
    assert (now.ended, now.is_done, now.total, now.missing) == ("plateau", True, count, 0)
    assert now.ending == (
        "plateau: the hypervolume rose by less than 1% over the last 6 of "
        f"{count} distinct settings"
    )
    assert stored(study)["reason"] == "plateau"
    assert run(stand_in_study(store, **SPACE)).complete == 0
    # Another stop is another question.
    longer = stand_in_study(store, **SPACE | {"n_trials": count + 3, "stop": None})
    assert run(longer).complete == 3
    assert progress(longer).ended == "complete"
    assert stored(study)["reason"] == "complete"


def test_what_runs_when_a_plateau_is_found_ends_in_good_order(store: Store) -> None:
    study = stand_in_study(store, **SPACE)
    slow = Claims(study)
    running = slow.claim()
    assert isinstance(running, ClaimedTrial)
    other = Claims(study)
    while isinstance(claimed := other.claim(), ClaimedTrial):
        found = measurement(claimed.setting)
        other.finish(claimed, (found.acceptance_rate, found.mse), {"source": "measured"})
    assert claimed is Idle.WAIT
    assert progress(study).ended is None
    # However good it is, the search is over.
    assert slow.finish(running, (1.0, 0.2), {"source": "measured"})
    assert other.claim() is Idle.DONE
    assert slow.claim() is Idle.DONE
    states = {trial.state for trial in study.optuna_study().get_trials()}
    assert states == {TrialState.COMPLETE}
    assert progress(study).ended == "plateau"


def test_copies_and_infeasible_settings_are_no_progress(store: Store) -> None:
    few = {"sigma": (0.1, 0.2), "bias": (1.0,), "k": (1,), "n_trials": 20}
    study = stand_in_study(store, **SPACE | few)
    run(study)
    assert len(study.optuna_study().trials) == 20  # two distinct settings are no plateau of six
    strict = Constraints(max_mse_ratio=0.5)
    never = stand_in_study(store, name="never", **SPACE | {"constraints": strict, "n_trials": 20})
    run(never)
    assert progress(never).ended == "complete"


def test_a_grid_that_is_complete_or_failed(store: Store) -> None:
    study = stand_in_study(store, **GRID)
    assert progress(study).ended is None
    run(study)
    assert (progress(study).ended, stored(study)["reason"]) == ("complete", "complete")
    grown = stand_in_study(store, **GRID | {"sigma": (0.1, 0.5, 0.7)})
    assert progress(grown).ended is None

    def fails(setting: Setting) -> Measurement:
        raise ValueError("broken")

    run(grown, fails)
    assert (progress(grown).ended, stored(study)["reason"]) == ("failed", "failed")


def test_interrupted_until_somebody_goes_on(store: Store) -> None:
    study = stand_in_study(store, **GRID)

    def interrupt(setting: Setting) -> Measurement:
        raise KeyboardInterrupt

    assert run(study, interrupt).interrupted
    assert (progress(study).ended, stored(study)["reason"]) == ("interrupted", "interrupted")
    again = stand_in_study(store, **GRID)
    assert progress(again).ended is None
    stop = threading.Event()
    stop.set()
    assert run_worker(again, StandIn(), stop).interrupted
    assert progress(again).ended == "interrupted"
    run(stand_in_study(store, **GRID))
    assert progress(again).ended == "complete"


def test_who_leaves_while_others_work_ends_nothing(store: Store) -> None:
    study = stand_in_study(store, **GRID)
    working = Claims(study)
    assert isinstance(working.claim(), ClaimedTrial)
    Claims(study).leave("interrupted")
    assert stored(study) is None


def test_the_figure_shows_what_was_reached(store: Store) -> None:
    study = stand_in_study(store, **SPACE)
    run(study, lambda setting: replace(measurement(setting), predicted_speedup=1.0))
    table = read_table(study.optuna_study())
    figure = figures(table)["hypervolume"]
    (line,) = figure.data
    assert line.y[-1] == pytest.approx(stored(study)["hypervolume"])
    assert list(line.y) == sorted(line.y)
    assert "acceptance 0 at 2 times the target's MSE" in figure.layout.title.subtitle.text
