"""The live view of a study, and the text and document of `status`."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import event

from spec_opt.cli.live import (
    LiveView,
    Snapshot,
    document_of,
    duration,
    line_of,
    pace,
    panel_of,
    print_failure,
    print_trial,
    text_of,
)
from spec_opt.config.study_file import Setting
from spec_opt.errors import StudyError
from spec_opt.results.table import read_table
from spec_opt.study.claims import ClaimedTrial, Claims
from spec_opt.study.progress import progress
from spec_opt.study.store import open_store
from spec_opt.study.study import Study
from spec_opt.study.worker import TrialReport, run_worker
from tests.study.stand_in import StandIn, stand_in_study

SMALL: dict[str, Any] = {"sigma": (0.1, 0.2), "bias": (1.0, 2.0), "k": (1, 2)}


class Failing(StandIn):
    """Fails for one sigma."""

    def __call__(self, setting):  # type: ignore[no-untyped-def]
        if setting.sigma == 0.2:
            raise ValueError("a made-up fault")
        return super().__call__(setting)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return stand_in_study(open_store(f"sqlite:///{tmp_path}/store.db"), **SMALL)


def look(study: Study) -> Snapshot:
    return Snapshot(progress(study), read_table(study.optuna_study()))


def shown(snapshot: Snapshot) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(panel_of(snapshot))
    return console.export_text()


def test_a_study_before_and_after(study: Study) -> None:
    before = look(study)
    assert line_of(before).startswith("stand-in: 0 of 8 trials done, 0 running")
    run_worker(study, StandIn(), threading.Event())
    after = look(study)
    assert after.now.is_done
    assert line_of(after).startswith("stand-in: 8 of 8 trials done, best so far")
    panel = shown(after)
    assert panel.splitlines()[0].endswith("100%")
    assert "8 of 8" in panel
    assert "front so far" in panel
    assert "8 complete, 0 running, 0 waiting, 0 failed" in panel


def test_failures_are_shown(study: Study) -> None:
    run_worker(study, Failing(), threading.Event())
    snapshot = look(study)
    panel = shown(snapshot)
    assert "a made-up fault" in panel
    assert "failed: trial" in panel
    assert "given up after 3 attempts" in text_of(snapshot)
    document = document_of(snapshot)
    assert len(document["given_up"]) == 4
    assert document["states"]["complete"] == 4


def test_the_text_says_why_a_trial_failed(study: Study) -> None:
    claims = Claims(study)
    claimed = claims.claim()
    assert isinstance(claimed, ClaimedTrial)
    claims.fail(claimed, "ValueError: a made-up fault")
    assert "  why the last trial failed: ValueError: a made-up fault" in text_of(look(study))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.0, "alive, last sign of life 4 s ago"),
        (26.0, "silent for 26 s, given up at 30 s"),
        (31.0, "silent for 31 s: the next worker that looks gives it up"),
    ],
)
def test_a_worker_that_misses_heartbeats_is_silent(study: Study, seconds: float, text: str) -> None:
    Claims(study).claim()
    snapshot = look(study)
    (worker,) = snapshot.now.workers
    worker = replace(worker, silent_seconds=seconds, alive=seconds <= 30.0)
    assert f"{worker.pid} {text}, trial 0 (" in text_of(
        replace(snapshot, now=replace(snapshot.now, workers=(worker,)))
    )


def test_plain_lines_where_there_is_no_terminal(
    study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    with LiveView(lambda: study) as view:
        run_worker(study, Failing(), threading.Event(), on_trial=print_failure)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("stand-in: 0 of 8 trials done")
    assert lines[-1].startswith("stand-in: 4 of 8 trials done")
    assert sum("failed: ValueError: a made-up fault" in line for line in lines) == 12
    assert view.done.is_set()


def test_a_study_that_does_not_exist_yet(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    """Workers that have just been started make it."""
    run_worker(study, StandIn(), threading.Event())
    made = threading.Event()

    def find() -> Study:
        if not made.is_set():
            raise StudyError("there is none yet")
        return study

    with LiveView(find) as view:
        assert view.study is None
        made.set()
        assert view.done.wait(60.0)
    assert view.study is study
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("stand-in: 8 of 8 trials done, best so far") for line in lines)


def test_a_worker_logs_each_trial(capfd: pytest.CaptureFixture[str]) -> None:
    setting = Setting(sigma=0.1, bias=1.0, k=2)
    print_trial(TrialReport(3, setting, "complete", (0.5, 0.44), None, 1.25))
    print_trial(TrialReport(4, setting, "fail", (), "out of memory", 0.5))
    said = capfd.readouterr().err.splitlines()
    assert said[0] == ("trial 3 (sigma=0.1 bias=1 k=2) complete: 50.0% accepted, MSE 0.4400, 1.2 s")
    assert said[1] == "trial 4 (sigma=0.1 bias=1 k=2) failed: out of memory"


def test_finished_trials_are_read_once(study: Study) -> None:
    run_worker(study, StandIn(), threading.Event())
    engine = study.store.storage.engine
    values: list[str] = []

    def note(*arguments: Any) -> None:
        if "FROM trial_values" in arguments[2]:
            values.append(arguments[2])

    with LiveView(lambda: study) as view:
        assert view.done.is_set()
        event.listen(engine, "before_cursor_execute", note)
    assert values == []


def test_no_last_look_after_an_error(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    """The store itself may be gone, and another look would wait for it."""

    def fail() -> None:
        with LiveView(lambda: study):
            capfd.readouterr()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("per_minute", "text"),
    [(40.0, "40.0 trials a minute"), (1.0, "1.0 trials a minute"), (0.2, "12.0 trials an hour")],
)
def test_rates(per_minute: float, text: str) -> None:
    assert pace(per_minute) == text


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (300.0, "5 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
