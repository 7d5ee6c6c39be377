"""`spec-opt forecast`: the decoder's forecasts, in a series' own units and on its own clock."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from spec_opt.cli import main
from spec_opt.config.study_file import Setting, StudyConfig, SyntheticConfig
from spec_opt.data import table_file
from spec_opt.data.reader import series_of
from spec_opt.data.synthetic import generate
from spec_opt.data.windows import load_dataset
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Workload
from spec_opt.errors import StudyError, WorkError
from spec_opt.measure.objective import StudyObjective
from spec_opt.results.forecasting import Plan, forecast_study, plan_of
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import StudyTable, read_table
from tests.conftest import DATA
from tests.results import studies

ROWS, CONTEXT, HORIZON = 1000, 96, 60
NAMES = ["load", "heat", "wind"]
HOURS = pd.date_range("2016-07-01", periods=ROWS, freq="h")
VALUES = generate(SyntheticConfig(rows=ROWS)) * [1.0, 50.0, 0.01]
PLANT = pd.DataFrame(VALUES, columns=NAMES)
PLANT.insert(0, "when", HOURS)
SETTING = Setting(sigma=1.2, bias=2.0, k=3)
UNMEASURED = StudyTable(name="plant", trials=(), config=None)
SPECULATE = Plan("speculate", SETTING, 0, "a test")


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The series of the study, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plant.csv"
    PLANT.to_csv(path, index=False)
    return path


def config(source: Path, rule: str = "stride", **data: object) -> StudyConfig:
    return StudyConfig.model_validate({
        "name": "plant",
        "data": {"source": str(source), "context": CONTEXT, "horizon": HORIZON} | data,
        "target": {"checkpoint": DATA / "tiny_target.pth"},
        "draft": {"checkpoint": DATA / "tiny_draft.pth"},
        "decoding": {"rule": rule, "device": "cpu", "seed": 3},
    })  # fmt: skip


def written(folder: Path, frame: pd.DataFrame, name: str = "input.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
def test_it_is_the_decoders_forecast_of_a_window(plant: Path, rule: str) -> None:
    """Its number is the row where the context begins, as in the study."""
    study = config(plant, rule)
    objective = StudyObjective.prepare(study)
    workload = objective.evaluator.workload
    linear = replace(_by_means(workload), target=objective.fit_linear())
    index = torch.tensor([17])
    start = int(workload.windows.starts[index])
    scaler = load_dataset(study.data).scaler
    for plan, decoded in (
        (SPECULATE, workload.speculatively(index, SETTING).forecast),
        (Plan("target_alone", None, None, ""), _by_means(workload).target_only(index, SETTING)),
        (Plan("draft_alone", None, None, ""), workload.draft_only(index)),
        (Plan("linear_alone", None, None, ""), linear.target_only(index, SETTING)),
    ):
        known = written(plant.parent, PLANT[: start + CONTEXT])
        found = forecast_study(study, UNMEASURED, plan, known)
        assert found.window == start
        assert found.remarks == ()
        assert list(found.frame["when"]) == list(HOURS[start + CONTEXT :][:HORIZON])
        by_hand = decoded[0].double().numpy() * scaler.std + scaler.mean
        np.testing.assert_allclose(found.frame[NAMES], by_hand, rtol=1e-6)


def _by_means(workload: Workload) -> Workload:
    return replace(workload, rule=RULES["point"])


def test_the_end_of_the_studys_own_series(plant: Path) -> None:
    found = forecast_study(config(plant), UNMEASURED, SPECULATE, horizon=5)
    again = forecast_study(config(plant), UNMEASURED, SPECULATE, plant, 5)
    assert found.frame.equals(again.frame)
    assert list(found.frame["when"]) == list(pd.date_range(HOURS[-1], periods=6, freq="h")[1:])


def test_columns_are_found_by_name(plant: Path) -> None:
    """In another order, beside others, on another clock: the numbers are the same."""
    shuffled = PLANT[["wind", "load", "when", "heat"]].assign(other=7.5)
    days = pd.date_range("2020-01-01", periods=ROWS, freq="D")
    path = written(plant.parent, shuffled.assign(when=days))
    found = forecast_study(config(plant), UNMEASURED, SPECULATE, path)
    expected = forecast_study(config(plant), UNMEASURED, SPECULATE)
    assert found.frame[NAMES].equals(expected.frame[NAMES])
    assert found.frame["when"][0] == days[-1] + pd.Timedelta("1D")
    assert found.remarks == (
        "input.csv is daily, the study's series hourly: its models were made and measured for that",
    )


def test_some_of_the_channels(plant: Path) -> None:
    """They are standardised as the study's, so a change of level shows."""
    path = written(plant.parent, PLANT[["when", "heat"]])
    plan = Plan("target_alone", None, None, "")
    found = forecast_study(config(plant), UNMEASURED, plan, path)
    assert list(found.frame.columns) == ["when", "heat"]
    assert found.remarks == ()


# --- a stranger's series --------------------------------------------------------------------------


def test_a_strangers_series(plant: Path) -> None:
    """Other names, another step: standardised by its own statistics, on its own clock."""
    minutes = pd.date_range("2024-02-28 12:00", periods=300, freq="15min").strftime(
        "%d.%m.%Y %H:%M"
    )
    stranger = pd.DataFrame({"Zeit": minutes, "A": 1e4 * VALUES[:300, 0], "B": VALUES[:300, 1]})
    path = plant.parent / "fremd.csv"
    stranger.to_csv(path, index=False, sep=";", decimal=",")
    found = forecast_study(config(plant), UNMEASURED, SPECULATE, path, 30)
    assert list(found.frame.columns) == ["Zeit", "A", "B"]
    assert str(found.frame["Zeit"][0]) == "2024-03-02 15:00:00"
    assert found.remarks == (
        "fremd.csv has other channels (A, B) than the study (load, heat, wind): they are "
        "standardised by their own mean and deviation",
        "fremd.csv is 15-minute, the study's series hourly: its models were made and measured for "
        "that",
    )
    # Another unit of a channel changes nothing but the unit.
    stranger["A"] /= 1e4
    again = forecast_study(config(plant), UNMEASURED, SPECULATE, written(path.parent, stranger), 30)
    np.testing.assert_allclose(1e4 * again.frame["A"], found.frame["A"], rtol=1e-5)


def test_the_rows_of_a_series_without_a_time_are_numbered(plant: Path) -> None:
    path = written(plant.parent, PLANT[NAMES][:200])
    found = forecast_study(config(plant), UNMEASURED, SPECULATE, path, 3)
    assert list(found.frame["row"]) == [200, 201, 202]


def test_what_is_written_is_a_series_that_goes_on(plant: Path) -> None:
    found = forecast_study(config(plant), UNMEASURED, SPECULATE)
    joined = PLANT.to_csv(index=False).encode() + found.written("csv").split(b"\n", 1)[1]
    path = plant.parent / "joined.csv"
    path.write_bytes(joined)
    series = series_of(table_file.read_table(path))
    assert len(series.values) == ROWS + HORIZON
    assert series.time is not None
    assert series.time.step == "hourly"


def test_faults_of_a_model_of_ones_own_name_its_line(plant: Path) -> None:
    late = {"factory": "tests.models.factories:make", "options": {"fault": "late"}}
    study = config(plant, "point").model_dump(mode="json") | {"target": late}
    study["draft"] = late | {"options": {}}
    with pytest.raises(
        WorkError, match=r"tests.models.factories:make .*factories.py:\d+: KeyError"
    ):
        forecast_study(StudyConfig.model_validate_json(json.dumps(study)), UNMEASURED, SPECULATE)


# --- how it is forecast ---------------------------------------------------------------------------


def table_of(*speedups: Speedup, baseline: dict[str, Any] | None = None) -> StudyTable:
    """Two trials, of which the second is balanced."""
    study = studies.study_of((0.1, 1.0, 2, 0.3, 0.4405), (0.3, 1.0, 2, 0.9, 0.4410))
    study.set_user_attr("baseline", (baseline or studies.BASELINE))
    study.set_user_attr("speedups", [asdict(speedup) for speedup in speedups])
    return read_table(study)


def timed(trial: int | None, value: float) -> Speedup:
    return Speedup(trial, "cpu", 64, None, value, value - 0.1, value + 0.1, 5)


def test_the_balanced_recommendation() -> None:
    plan = plan_of(table_of(), "x.toml")
    assert (plan.decision, plan.trial) == ("speculate", 1)
    assert str(plan) == (
        "speculating with sigma=0.3 bias=1 k=2: the balanced recommendation, trial 1, as the "
        "verdict is not settled; --with target does without speculation"
    )


def test_a_trial_or_a_scenario_that_is_asked_for() -> None:
    assert plan_of(table_of(), "x.toml", trial=0).setting == Setting(sigma=0.1, bias=1, k=2)
    assert plan_of(table_of(), "x.toml", scenario="quality").trial == 1
    plan = plan_of(read_table(studies.failing_study()), "x.toml", alone="linear")
    assert str(plan) == "forecasting with the linear model alone: --with linear"
    with pytest.raises(StudyError, match="no completed trial 9"):
        plan_of(table_of(), "x.toml", trial=9)
    with pytest.raises(StudyError, match=r"balanced: .*highest acceptance"):
        plan_of(read_table(studies.rejecting_study()), "x.toml", scenario="balanced")


def test_the_verdict_is_followed() -> None:
    good = studies.BASELINE | {"draft_minus_target_mse_ci95": 0.001}
    faster = (timed(0, 0.6), timed(1, 0.6), timed(None, 9.0))
    plan = plan_of(table_of(*faster, baseline=good), "x.toml")
    assert (plan.decision, plan.setting) == ("draft_alone", None)
    assert str(plan).startswith("forecasting with the draft alone: this is the study's verdict")


def test_no_speculation_that_the_verdict_rules_out() -> None:
    """Though it leaves open whether the draft alone will do."""
    noisy = studies.BASELINE | {"draft_minus_target_mse_ci95": 0.05}
    table = table_of(timed(0, 0.6), timed(1, 0.6), timed(None, 9.0), baseline=noisy)
    plan = plan_of(table, "x.toml")
    assert (plan.decision, plan.setting) == ("target_alone", None)
    assert str(plan).startswith(
        "forecasting with the target alone: by the study's verdict speculation does not pay, and "
        "whether the draft alone will do is not known; --scenario"
    )
    assert plan_of(table, "x.toml", scenario="balanced").trial == 1


def test_nothing_to_go_by() -> None:
    nothing = read_table(studies.rejecting_study())
    assert plan_of(nothing, "x.toml").decision == "target_alone"
    with pytest.raises(StudyError, match=r"`spec-opt run x\.toml` makes them"):
        plan_of(read_table(studies.failing_study()), "x.toml")


# --- the command ----------------------------------------------------------------------------------

STUDY = f"""
name = "plant"
[search]
sigma = [1.2]
bias = [2.0]
k = [3]
[data]
source = "plant.csv"
context = {CONTEXT}
horizon = {HORIZON}
max_windows = 5
[target]
checkpoint = "{DATA / "tiny_target.pth"}"
[draft]
checkpoint = "{DATA / "tiny_draft.pth"}"
[decoding]
seed = 3
[bench]
seconds = 0
"""


def test_the_command(plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = plant.parent / "plant.toml"
    study.write_text(STUDY)
    assert main(["forecast", "plant.toml"]) == 2
    assert "there is none yet" in capsys.readouterr().err
    assert main(["run", "plant.toml"]) == 0
    capsys.readouterr()

    assert main(["forecast", "plant.toml", "--trial", "0"]) == 0
    shown = capsys.readouterr()
    assert "spec-opt: speculating with sigma=1.2 bias=2 k=3: trial 0\n" in shown.err
    expected = forecast_study(config(plant), UNMEASURED, SPECULATE)
    assert shown.out.encode() == expected.written("csv")

    assert main(["forecast", "plant.toml", "--with", "linear", "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "spec-opt: forecasting with the linear model alone: --with linear\n"
    assert json.loads(shown.out)["decision"] == "linear_alone"

    assert main(["forecast", "plant.toml", "--trial", "0", "--horizon", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["setting"] == SETTING.model_dump()
    assert [row["when"] for row in document["forecast"]] == [
        "2016-08-11 16:00:00",
        "2016-08-11 17:00:00",
    ]

    assert main(["forecast", "plant.toml", "--trial", "0", "-o", "f.parquet"]) == 0
    assert pd.read_parquet("f.parquet").equals(expected.frame)
    capsys.readouterr()

    bad = PLANT.drop(index=[700])
    short, holes = written(plant.parent, PLANT[:50], "short.csv"), written(plant.parent, bad)
    for arguments, message in (
        (["--input", str(short)], "short.csv: 50 rows are fewer than the 96 that the models see"),
        (["--input", str(holes)], "1 hour is missing between"),
        (["--input", "absent.csv"], "absent.csv: cannot be read"),
        (["--trial", "7"], "it has no completed trial 7"),
        (["--trial", "0", "--with", "draft"], "--trial, --scenario and --with exclude each other"),
        (["-o", "."], "it is a folder"),
    ):
        assert main(["forecast", "plant.toml", *arguments]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]

    study.write_text(STUDY.replace("[data]", '[data]\ngaps = "interpolate"'))
    assert main(["forecast", "plant.toml", "--trial", "0", "--input", str(holes)]) == 0
    study.write_text(STUDY.replace("seed = 3", "seed = 4"))
    assert main(["forecast", "plant.toml"]) == 2
    assert "with another decoding (decoding.seed was 3, now 4); change" in capsys.readouterr().err
