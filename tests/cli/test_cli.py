"""The command line as a user runs it: streams, exit codes, bad input, resuming, Ctrl-C."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from spec_opt.cli import main
from spec_opt.cli.common import say
from spec_opt.cli.service import look
from spec_opt.config.study_file import read_study
from spec_opt.errors import DecodingError, StudyError
from spec_opt.results.table import read_table
from spec_opt.study.launch import LaunchSummary
from spec_opt.study.store import Store, open_store
from tests.forked import Forked

DATA = Path(__file__).parent.parent / "files"

# With checkpoints nothing is trained; the tiny pair has patches of 24 points.
STUDY = f"""
name = "tiny"
[search]
sigma = [0.3, 2.0]
bias = [1.0, 2.0]
k = [1, 2]
[data]
source = "synthetic"
context = 96
horizon = 48
max_windows = 20
[data.synthetic]
rows = 1000
[target]
checkpoint = "{DATA / "tiny_target.pth"}"
[draft]
checkpoint = "{DATA / "tiny_draft.pth"}"
[bench]
seconds = 0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def spec_opt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in the current folder."""
    return subprocess.run(
        [sys.executable, "-m", "spec_opt", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.usefixtures("folder")
def test_run_to_the_front_and_again(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.toml"]) == 0
    first = capfd.readouterr()
    assert "Pareto front of tiny: of 8 completed trials" in first.out
    assert "Target alone: MSE" in first.out
    assert "train 700, validation 100, test 200 rows; 20 windows\n" in first.err
    assert "8 of 8 trials done" in first.err
    assert "report: reports/tiny/report.html" in first.err
    assert f"store: sqlite:///storage/spec_opt.db (in {os.path.realpath('.')})" in first.err

    assert main(["run", "tiny.toml"]) == 0
    second = capfd.readouterr()
    assert second.out == first.out
    study = optuna.load_study(study_name="tiny", storage="sqlite:///storage/spec_opt.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["acceptance_rate", "mse"]


@pytest.mark.usefixtures("folder")
def test_json_is_all_there_is_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.toml", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["study"] == "tiny"
    assert [r["scenario"] for r in document["recommendations"]] == ["speed", "quality", "balanced"]
    assert document["verdict"]["decision"] in (
        "speculate",
        "draft_alone",
        "target_alone",
        "unknown",
    )

    assert main(["status", "tiny.toml"]) == 0
    alone = re.findall(r"(\w+(?: model)?) alone: MSE ([\d.]+)\.", capfd.readouterr().out)
    baseline = document["baseline"]
    assert dict(alone) == {
        name: f"{baseline[key]:.4f}"
        for name, key in (
            ("Target", "target_mse"),
            ("Draft", "draft_mse"),
            ("Linear model", "linear_mse"),
        )
    }

    assert main(["status", "tiny.toml", "--json"]) == 0
    status = json.loads(capfd.readouterr().out)
    assert status["states"] == {
        "complete": 8,
        "running": 0,
        "waiting": 0,
        "fail": 0,
        "withdrawn": 0,
    }
    assert (status["study"], status["missing"], status["workers"]) == ("tiny", 0, [])
    assert status["verdict"] == document["verdict"]

    assert main(["export", "tiny.toml", "--all", "--format", "json"]) == 0
    export = json.loads(capfd.readouterr().out)
    assert export["series"]["summary"].startswith("synthetic: 1,000 rows, 3 channels")
    assert export["series"]["validation"] == 100
    assert len(export["trials"]) == 8
    trial = export["trials"][0]
    assert set(trial["params"]) == {"sigma", "bias", "k"}
    assert set(trial["values"]) == {"acceptance_rate", "mse"}
    promised = (
        "mae accepted tested proposed rounds patches_per_round windows acceptance_se mse_se "
        "mse_baseline evaluation_seconds target_fingerprint draft_fingerprint data_fingerprint "
        "device versions commit"
    )
    assert set(promised.split()) <= set(trial["attributes"])
    assert export["baseline"]["target_mse"] == pytest.approx(trial["attributes"]["mse_baseline"])

    assert main(["recommend", "tiny.toml", "--format", "json", "--scenario", "speed"]) == 0
    (choice,) = json.loads(capfd.readouterr().out)["recommendations"]
    assert {"scenario", "trial", "setting", "acceptance_rate", "mse", "reason"} <= set(choice)


def test_export_to_a_file(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny.toml", "--all", "-o", "all.csv"]) == 0
    assert capfd.readouterr().out == ""
    assert len((finished / "all.csv").read_text().splitlines()) == 9


@pytest.mark.usefixtures("folder")
def test_train_says_where_the_models_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny.toml"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("synthetic: 1,000 rows, 3 channels (channel_0, channel_1, channel_2);")
    assert "tiny_target.pth" in out
    assert "tiny_draft.pth" in out

    assert main(["train", "tiny.toml", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    read = [document[name]["summary"] for name in ("series", "target", "draft")]
    assert read == err.splitlines()
    assert (document["series"]["rows"], document["series"]["windows"]) == (1000, 20)
    assert document["target"]["path"].endswith("tiny_target.pth")


@pytest.mark.usefixtures("finished")
def test_status_text(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "tiny.toml"]) == 0
    out = capfd.readouterr().out
    assert "8 of 8 trials complete, done" in out
    assert "highest acceptance: trial" in out


@pytest.mark.usefixtures("finished")
def test_other_numbers_need_another_name(capfd: pytest.CaptureFixture[str]) -> None:
    Path("other.toml").write_text(STUDY + "[decoding]\nseed = 7\n", encoding="utf-8")
    assert main(["run", "other.toml"]) == 2
    assert "decoding" in capfd.readouterr().err


@pytest.mark.usefixtures("finished")
def test_a_larger_grid_runs_only_what_is_missing() -> None:
    text = STUDY.replace("sigma = [0.3, 2.0]", "sigma = [0.3, 2.0, 5.0]")
    Path("tiny.toml").write_text(text, encoding="utf-8")
    assert main(["run", "tiny.toml"]) == 0
    study = optuna.load_study(study_name="tiny", storage="sqlite:///storage/spec_opt.db")
    settings = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(settings) == len(set(settings)) == 12


@pytest.mark.usefixtures("folder")
def test_two_processes_share_the_work(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)  # as there are some
    assert main(["run", "tiny.toml", "--workers", "2"]) == 0
    captured = capfd.readouterr()
    assert "of 8 completed trials" in captured.out
    study = optuna.load_study(study_name="tiny", storage="sqlite:///storage/spec_opt.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    logs = sorted(Path("logs/tiny").iterdir())
    assert [log.name for log in logs] == ["worker-0.log", "worker-1.log"]
    assert sum(log.read_text().count(" complete: ") for log in logs) == 8


@pytest.mark.usefixtures("folder")
def test_bad_input_with_many_workers_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    Path("tiny.toml").write_text(STUDY.replace("tiny_draft.pth", "absent.pth"), encoding="utf-8")
    assert main(["run", "tiny.toml", "--workers", "2"]) == 2
    assert capfd.readouterr().err.count("error: ") == 1
    assert not Path("storage").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [["worker"], ["run"], ["run", "--workers", "2"]])
def test_a_store_that_cannot_be_used_is_said_before_models_and_data(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = "sqlite:///taken.db"
    with open_store(url) as store:
        optuna.create_study(storage=store.storage, study_name="tiny")
    for dear in ("spec_opt.cli.service.make_models", "spec_opt.api.launch"):
        monkeypatch.setattr(dear, None)
    monkeypatch.setattr("spec_opt.measure.objective.StudyObjective.prepare", None)
    assert main([command[0], "tiny.toml", *command[1:], "--storage", url]) == 2
    assert "did not make" in capfd.readouterr().err


def launched(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Replace the worker processes by this outcome."""
    logs = (Path("logs/tiny/worker-1.log"),)
    summary = LaunchSummary(interrupted=False, restarts=0, given_up=logs, bad_input=False)
    monkeypatch.setattr("spec_opt.api.launch", lambda *_, **__: replace(summary, **changes))


@pytest.mark.usefixtures("folder")
def test_a_worker_that_failed_is_named(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, reason="no room left")
    assert main(["run", "tiny.toml", "--workers", "2"]) == 1
    failed = "1 of 2 workers failed: no room left; see logs/tiny/worker-1.log"
    series, target, draft, error = capfd.readouterr().err.splitlines()
    assert (target.partition(":")[0], draft.partition(":")[0]) == ("target", "draft")
    assert series.startswith("synthetic: 1,000 rows, 3 channels")
    assert error == f"spec-opt: error: {failed}"


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("bad_input", "why"), [(False, "failed"), (True, "found bad input")])
def test_a_worker_that_failed_is_named_although_others_did_its_work(
    bad_input: bool,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    launched(monkeypatch, reason="no room left", bad_input=bad_input)
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)
    assert main(["run", "tiny.toml", "--workers", "2"]) == 0
    captured = capfd.readouterr()
    assert f"1 of 2 workers {why}: no room left; see logs/tiny/worker-1.log" in captured.err
    assert "Pareto front of tiny" in captured.out


@pytest.mark.usefixtures("finished")
def test_what_a_larger_grid_lacks_is_missing_although_the_smaller_one_was_done(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = STUDY.replace("sigma = [0.3, 2.0]", "sigma = [0.3, 2.0, 5.0]")
    Path("tiny.toml").write_text(text, encoding="utf-8")
    launched(monkeypatch, reason="no room left")
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)
    assert main(["run", "tiny.toml", "--workers", "2"]) == 1
    assert "error: 1 of 2 workers failed: no room left" in capfd.readouterr().err


@pytest.mark.parametrize(("bad_input", "code"), [(False, 1), (True, 2)])
def test_a_finished_study_is_not_shown_as_the_work_of_workers_that_all_failed(
    bad_input: bool,
    code: int,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    report = finished / "reports/tiny/report.html"
    report.write_text("as it was", encoding="utf-8")
    logs = tuple(Path(f"logs/tiny/worker-{i}.log") for i in range(2))
    launched(monkeypatch, given_up=logs, bad_input=bad_input, reason="measured with other data")
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)
    assert main(["run", "tiny.toml", "--workers", "2"]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("spec-opt: error: 2 of 2 workers ")
    assert captured.err.count("measured with other data") == captured.err.count("\n") == 1
    assert report.read_text(encoding="utf-8") == "as it was"


@pytest.mark.usefixtures("finished")
def test_a_worker_refuses_another_study_before_it_measures_the_baseline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    edited = STUDY.replace("max_windows = 20", "max_windows = 10")
    Path("tiny.toml").write_text(edited, encoding="utf-8")
    monkeypatch.setattr("spec_opt.measure.objective.StudyObjective.baseline", None)
    assert main(["worker", "tiny.toml"]) == 2
    changed = "(data.max_windows was 20, now 10)"
    assert f"error: study tiny: was measured with other data {changed}" in capfd.readouterr().err


@pytest.mark.usefixtures("folder")
def test_an_interruption_before_the_study_exists(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, interrupted=True, bad_input=True)
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)
    assert main(["run", "tiny.toml", "--workers", "2"]) == 130
    err = capfd.readouterr().err
    assert "1 of 2 workers found bad input; see logs/tiny/worker-1.log" in err
    assert "error" not in err
    assert "the same command resumes" in err


def test_a_study_to_come_is_watched(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spec_opt.cli.live.SECONDS_BETWEEN_LOOKS", 0.05)
    made = finished / "storage"
    made.rename("elsewhere")
    assert main(["status", "tiny.toml"]) == 2
    capfd.readouterr()

    def appears(text: str) -> None:
        say(text)
        Path("elsewhere").rename(made)

    monkeypatch.setattr("spec_opt.cli.running.say", appears)
    assert main(["status", "tiny.toml", "--watch"]) == 0
    captured = capfd.readouterr()
    first, *_, last = captured.err.splitlines()
    assert first.startswith("spec-opt: study tiny is not in the store yet: waiting")
    assert last.startswith("tiny: 8 of 8 trials done")
    assert "ended: complete" in captured.out


@pytest.mark.usefixtures("folder")
def test_looking_for_a_study_in_vain_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The live view looks every second while workers start."""
    config, url = read_study("tiny.toml"), "sqlite:///store.db"
    open_store(url).close()
    closed: list[Store] = []
    monkeypatch.setattr(Store, "close", lambda store: closed.append(store))
    with pytest.raises(StudyError):
        look(config, url)
    assert len(closed) == 1


@pytest.mark.usefixtures("folder")
def test_a_killed_training_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr("spec_opt.api.PROGRAM", (sys.executable, "-c", killed))
    assert main(["run", "tiny.toml", "--workers", "2"]) == 1
    assert "error: training was ended by SIGKILL" in capfd.readouterr().err


@pytest.mark.usefixtures("finished")
def test_a_report_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "tiny.toml", "-o", "elsewhere"]) == 0
    written = capfd.readouterr().out.split()
    assert [Path(name).name for name in written] == [
        "report.html",
        "results.csv",
        "results.parquet",
        "summary.md",
    ]
    assert all(Path(name).stat().st_size for name in written)


@pytest.mark.usefixtures("finished")
def test_confirm_on_the_test_split(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # It judges no speed, so it learns no costs.
    monkeypatch.setattr("spec_opt.measure.objective.learn_costs_quickly", None)
    assert main(["confirm", "tiny.toml"]) == 0
    assert "tiny: tuned on validation, measured again on test" in capfd.readouterr().out
    assert main(["confirm", "tiny.toml", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["tuned_on"], document["confirmed_on"]) == ("validation", "test")
    assert document["settings"]
    assert main(["confirm", "tiny.toml", "--split", "train"]) == 0
    assert "measured again on train" in capfd.readouterr().out
    with open_store("sqlite:///storage/spec_opt.db") as store:
        kept = read_table(store.optuna_study("tiny")).judgements
    assert {one.split for one in kept} == {"test", "train"}
    assert main(["confirm", "tiny.toml", "--split", "validation"]) == 2
    assert "was tuned on it" in capfd.readouterr().err


@pytest.mark.usefixtures("folder")
def test_old_tables_become_trials(capfd: pytest.CaptureFixture[str]) -> None:
    rows = (DATA / "old_sweep.csv").read_text(encoding="utf-8").splitlines()
    Path("a.csv").write_text("\n".join(rows[:41]), encoding="utf-8")
    Path("b.csv").write_text("\n".join([rows[0], *rows[41:]]), encoding="utf-8")
    assert main(["import", "tiny.toml", "a.csv", "b.csv"]) == 0
    assert "80 rows imported, 0 there already" in capfd.readouterr().out
    assert main(["import", "tiny.toml", "a.csv", "b.csv"]) == 0
    assert "0 rows imported, 80 there already" in capfd.readouterr().out
    assert main(["recommend", "tiny.toml", "--format", "flags", "--scenario", "speed"]) == 0
    assert capfd.readouterr().out.startswith("--spec_sigma 0.5 --spec_accept_bias 1 --spec_k 4")
    assert main(["report", "tiny.toml"]) == 0


@pytest.mark.usefixtures("finished")
def test_dashboard_until_interrupted() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spec_opt", "dashboard", "tiny.toml", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "dashboard on http://127.0.0.1:" in line
    address = line.split()[3].rstrip(";")
    assert address.endswith("/note")
    api = urllib.parse.urljoin(address, "/api/studies")
    with urllib.request.urlopen(api, timeout=30) as answer:
        assert "tiny" in answer.read().decode()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_quick_help() -> None:
    shown = spec_opt("--help")
    assert shown.returncode == 0
    for command in (
        "run",
        "worker",
        "train",
        "status",
        "export",
        "recommend",
        "report",
        "confirm",
        "import",
        "dashboard",
        "bench",
    ):
        assert f"\n  {command} " in shown.stdout


def replaced(old: str, new: str) -> Callable[[Path], list[str]]:
    """A study file in which one thing is wrong."""

    def prepare(folder: Path) -> list[str]:
        assert old in STUDY
        (folder / "bad.toml").write_text(STUDY.replace(old, new), encoding="utf-8")
        return ["run", "bad.toml"]

    return prepare


def with_series(text: str) -> Callable[[Path], list[str]]:
    """A run on a CSV with this content."""

    def prepare(folder: Path) -> list[str]:
        (folder / "series.csv").write_text(text, encoding="utf-8")
        return replaced('"synthetic"', '"series.csv"')(folder)

    return prepare


def with_target(content: bytes) -> Callable[[Path], list[str]]:
    """A run with this content as the target's checkpoint."""

    def prepare(folder: Path) -> list[str]:
        (folder / "model.pth").write_bytes(content)
        return replaced(str(DATA / "tiny_target.pth"), "model.pth")(folder)

    return prepare


def called(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: list(arguments)


ROWS = "".join(f"2020-01-01 {hour:02d}:00,{hour},{hour * 2}\n" for hour in range(24)) * 40
BAD_INPUT = {
    # study files
    "no study": called("run", "absent.toml"),
    "not TOML": replaced("[search]", "[search"),
    "unknown table": replaced("[search]", "[serach]"),
    "unknown key": replaced("sigma =", "sgima ="),
    "wrong type": replaced("[0.3, 2.0]", '"0.3"'),
    "empty list": replaced("[0.3, 2.0]", "[]"),
    "negative sigma": replaced("[0.3, 2.0]", "[-0.3]"),
    "sigma twice": replaced("[0.3, 2.0]", "[0.3, 0.3]"),
    "sigma not a number": replaced("[0.3, 2.0]", "[nan]"),
    "k of 0": replaced("k = [1, 2]", "k = [0]"),
    "k of 1.5": replaced("k = [1, 2]", "k = [1.5]"),
    "bias below 1": replaced("[1.0, 2.0]", "[0.5]"),
    "a range in a grid": replaced("[0.3, 2.0]", "{low = 0.1, high = 1.0}"),
    "tpe without n_trials": replaced("[search]", '[search]\nsampler = "tpe"'),
    "unknown sampler": replaced("[search]", '[search]\nsampler = "cma"'),
    "no context": replaced("context = 96", ""),
    "context not whole patches": replaced("context = 96", "context = 100"),
    "horizon past the data": replaced("horizon = 48", "horizon = 4800"),
    "horizon of 0": replaced("horizon = 48", "horizon = 0"),
    "unknown split": replaced("horizon = 48", 'horizon = 48\nsplit = "dev"'),
    "a name that is no name": replaced('"tiny"', '"../tiny"'),
    "sizes beside a checkpoint": replaced("[target]", "[target]\nlayers = 3"),
    "a GPU that is not there": replaced("[data]", '[decoding]\ndevice = "cuda:99"\n[data]'),
    # series
    "no such series": replaced('"synthetic"', '"absent.csv"'),
    "empty series": with_series(""),
    "header only": with_series("date,a,b\n"),
    "a missing value": with_series(f"date,a,b\n{ROWS}2020-02-01,,3\n"),
    "text in a channel": with_series(f"date,a,b\n{ROWS}2020-02-01,x,3\n"),
    "a header twice": with_series(f"date,a,a\n{ROWS}"),
    "too short": with_series(f"date,a,b\n{ROWS[:400]}"),
    # checkpoints
    "no such checkpoint": replaced("tiny_target.pth", "absent.pth"),
    "text as a checkpoint": with_target(b"not a checkpoint"),
    "an empty checkpoint": with_target(b""),
    "half a checkpoint": with_target((DATA / "tiny_target.pth").read_bytes()[:5000]),
    "half a safetensors": with_target((DATA / "tiny_target.safetensors").read_bytes()[:5000]),
    # stores
    "MySQL": called("run", "tiny.toml", "--storage", "mysql://u:secret@h/db"),
    "gRPC": called("run", "tiny.toml", "--storage", "grpc://localhost:13000"),
    "a path as URL": called("run", "tiny.toml", "--storage", "trials.db"),
    "in memory": called("run", "tiny.toml", "--storage", "sqlite:///:memory:"),
    "a folder as store": called("run", "tiny.toml", "--storage", "sqlite:////tmp"),
    "no store yet": called("status", "tiny.toml"),
    # flags
    "unknown command": called("sweep"),
    "unknown flag": called("run", "tiny.toml", "--speed"),
    "unknown format": called("export", "tiny.toml", "--format", "xlsx"),
    "unknown scenario": called("recommend", "tiny.toml", "--scenario", "best"),
    "no study named": called("status"),
    "workers and GPUs": called("run", "tiny.toml", "--workers", "2", "--gpus", "0"),
    "no workers": called("run", "tiny.toml", "--workers", "0"),
    "a GPU list that is none": called("run", "tiny.toml", "--gpus", "first"),
    "no table to import": called("import", "tiny.toml"),
    "an absent table": called("import", "tiny.toml", "absent.csv"),
    "a table of another kind": called("import", "tiny.toml", "tiny.toml"),
    "a dashboard for everyone": called("dashboard", "tiny.toml", "--host", "0.0.0.0"),
    "a port that is none": called("dashboard", "tiny.toml", "--port", "99999"),
    "two studies": called("run", "tiny.toml", "tiny.toml"),
}


@pytest.mark.parametrize("prepare", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(
    folder: Path, capfd: pytest.CaptureFixture[str], prepare: Callable[[Path], list[str]]
) -> None:
    arguments = prepare(folder)
    before = files(folder)
    assert main(arguments) == 2
    captured = capfd.readouterr()
    errors = [line for line in captured.err.splitlines() if line]
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("spec-opt: error: ")
    assert "secret" not in captured.err
    assert captured.out == ""
    assert files(folder) == before


def started_with_120_settings(folder: Path, *arguments: str) -> Forked:
    """A run with a few trials complete, large enough to be interrupted before it ends."""
    text = STUDY.replace("[0.3, 2.0]", str([0.1 + 0.02 * i for i in range(30)]))
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    process = Forked(folder / "said", main, ["run", "tiny.toml", *arguments])
    while complete_trials(Path("storage/spec_opt.db")) < 5:
        assert process.poll() is None, process.stderr
        time.sleep(0.02)
    return process


def test_a_study_whose_worker_was_stopped_is_not_done(folder: Path) -> None:
    process = started_with_120_settings(folder, "--workers", "1")
    study = optuna.load_study(study_name="tiny", storage="sqlite:///storage/spec_opt.db")
    os.kill(int(study.trials[0].user_attrs["worker"].rpartition(":")[2]), signal.SIGTERM)
    assert process.wait(60.0) == 1, process.stderr
    assert re.search(r"error: \d+ of 120 are missing; the same command resumes", process.stderr)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes(folder: Path, name: signal.Signals) -> None:
    process = started_with_120_settings(folder)
    process.send_signal(name)
    assert process.wait(60.0) == 130, process.stderr
    assert "the same command resumes" in process.stderr
    assert "Traceback" not in process.stderr
    url = "sqlite:///storage/spec_opt.db"
    study = optuna.load_study(study_name="tiny", storage=url)
    states = [trial.state.name for trial in study.trials]
    assert "RUNNING" not in states
    finished = states.count("COMPLETE")
    assert 5 <= finished < 120

    assert main(["run", "tiny.toml"]) == 0
    study = optuna.load_study(study_name="tiny", storage=url)
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    assert len({tuple(t.params.values()) for t in complete}) == len(complete) == 120


def complete_trials(store: Path) -> int:
    """Read the file directly: Optuna would create missing tables."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        try:
            (count,) = connection.execute(
                "SELECT count(*) FROM trials WHERE state = 'COMPLETE'"
            ).fetchone()
        except sqlite3.OperationalError:  # no tables yet
            return 0
    return int(count)


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    """As with `| head`, which exits once it has enough lines."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "spec_opt", "--help"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_exit_raised_elsewhere_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr("spec_opt.cli.service.prepare", prepare)
    with pytest.raises(SystemExit, match="3"):
        main(["run"])


def test_without_a_command_there_is_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    err = capfd.readouterr().err
    assert err.startswith("Usage: spec-opt")
    assert "error" not in err.splitlines()[0]


def test_running_out_of_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def prepare(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("spec_opt.cli.service.prepare", prepare)
    assert main(["run"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("spec-opt: error: out of memory: CUDA out of memory")


@pytest.mark.usefixtures("folder")
def test_a_study_whose_trials_all_fail_is_no_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also with a sampler that could draw more settings: n_trials is used up."""
    text = (folder / "tiny.toml").read_text(encoding="utf-8")
    sampled = text.replace("[search]", '[search]\nsampler = "random"\nn_trials = 3')
    (folder / "tiny.toml").write_text(sampled, encoding="utf-8")

    def measure(*_: object) -> None:
        raise DecodingError("too bad")

    monkeypatch.setattr("spec_opt.measure.evaluator.Evaluator.measure", measure)
    assert main(["run", "tiny.toml"]) == 1
    err = capfd.readouterr().err
    assert "error: 3 of 3 trials failed, the last with: too bad" in err
