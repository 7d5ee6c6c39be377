"""Exports: what they contain, that they read back, no passwords, no half-written files."""

import io
import json
from dataclasses import replace

import pandas as pd
import pytest

from spec_opt.results.export import ExportFormat, csv_of, document_of, export
from spec_opt.results.frame import COLUMNS
from spec_opt.results.table import StudyTable, read_table
from tests.results import studies

GRID = read_table(studies.grid_study())
URL = "postgresql+psycopg://me:secret@host/db"
COMMAND = "spec-opt export etth1_grid --format json"


def exported(table: StudyTable, style: ExportFormat, all_trials: bool = False) -> bytes:
    return export(table, style, all_trials=all_trials, storage=URL, command=COMMAND)


def test_json_opens_with_what_makes_it_reproducible() -> None:
    document = json.loads(exported(GRID, "json"))
    assert list(document)[:3] == ["study", "storage", "command"]
    assert document["study"] == "etth1-grid"
    assert document["storage"] == "postgresql+psycopg://me:***@host/db"
    assert document["command"] == COMMAND
    assert document["versions"]["torch"] == "2.13.0"
    assert document["fingerprints"]["target"] == "t" * 12
    assert document["baseline"]["target_mse"] == 0.4404
    assert document["baseline"]["draft_mse"] == 0.4330
    numbers = [trial["number"] for trial in document["trials"]]
    assert numbers == [point.number for point in GRID.front]
    first = document["trials"][0]
    assert first["state"] == "complete"
    assert first["params"] == {"sigma": 0.5, "bias": 1.0, "k": 4}
    assert set(first["values"]) == {"acceptance_rate", "mse"}
    assert first["attributes"]["windows"] == 255


def test_json_of_all_holds_trials_in_any_state() -> None:
    document = json.loads(exported(read_table(studies.failing_study()), "json", all_trials=True))
    states = [trial["state"] for trial in document["trials"]]
    assert states == ["fail", "fail", "fail", "waiting"]
    assert document["trials"][0]["values"] is None
    assert document["trials"][0]["attributes"]["error"].startswith("DecodingError")
    assert document["trials"][2]["params"] is None


def test_json_has_no_infinities() -> None:
    study = studies.study_of((0.1, 1.0, 1, 0.5, 0.5))
    trial = studies.complete(GRID.points[0].setting, 0.4, 0.6, odd=[float("inf"), {"x": 1.0}])
    study.add_trial(trial)
    document = json.loads(exported(read_table(study), "json", all_trials=True))
    assert document["trials"][1]["attributes"]["odd"] == [None, {"x": 1.0}]


def test_csv_reads_back() -> None:
    frame = pd.read_csv(io.BytesIO(exported(GRID, "csv")))
    assert tuple(frame.columns) == COLUMNS
    assert frame["number"].tolist() == [point.number for point in GRID.front]
    assert frame["pareto"].all()
    everything = pd.read_csv(io.BytesIO(exported(GRID, "csv", all_trials=True)))
    assert everything["number"].tolist() == list(range(80))
    assert everything["pareto"].sum() == len(GRID.front)
    positions = json.loads(everything["accepted_by_position"][43])
    assert positions == list(GRID.points[43].result.accepted_by_position or ())


def test_csv_leaves_missing_lists_empty() -> None:
    failed = exported(read_table(studies.failing_study()), "csv", all_trials=True)
    frame = pd.read_csv(io.BytesIO(failed), dtype=str, keep_default_na=False)
    assert set(frame["accepted_by_position"]) == {""}


def test_the_first_columns_can_be_cut_at_commas() -> None:
    """docs/from_the_guide.md shows them with `cut` and `column`."""
    for line in exported(GRID, "csv", all_trials=True).decode().splitlines():
        assert len(line.split(",")[:8]) == 8
        assert '"' not in ",".join(line.split(",")[:8])


def test_parquet_reads_back() -> None:
    frame = pd.read_parquet(io.BytesIO(exported(GRID, "parquet", all_trials=True)))
    assert tuple(frame.columns) == COLUMNS
    assert frame["k"].dtype == "Int64"
    assert list(frame["tested_by_position"][0]) == list(
        GRID.points[0].result.tested_by_position or ()
    )


@pytest.mark.parametrize("style", ["csv", "json", "parquet"])
@pytest.mark.parametrize("all_trials", [False, True])
@pytest.mark.parametrize(
    "study", [studies.empty_study(), studies.failing_study(), studies.single_study()]
)
def test_unusual_studies(study: object, style: ExportFormat, all_trials: bool) -> None:
    assert exported(read_table(study), style, all_trials)  # type: ignore[arg-type]


def test_passwords_are_masked() -> None:
    """Also in the options of the URL, as the store masks it."""
    document = document_of(
        GRID, all_trials=False, storage="postgresql:///db?host=/run&password=p", command=COMMAND
    )
    assert document["storage"].endswith("password=***")


def test_a_study_on_checkpoints_exports_no_sizes() -> None:
    config = {"name": "x", "data": studies.DATA}
    config |= {role: {"checkpoint": f"{role}.pth"} for role in ("target", "draft")}
    document = json.loads(exported(read_table(studies.study_of(config=config)), "json"))
    assert document["config"]["target"]["checkpoint"] == "target.pth"
    assert "d_model" not in document["config"]["target"]
    assert "scale" not in document["config"]["draft"]


def test_csv_texts_do_nothing_to_a_terminal_or_a_spreadsheet() -> None:
    for text, cell in (
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  -1+1", "'  -1+1"),
        ("host\x1b]0;owned\x07", "host\\x1b]0;owned\\x07"),
        ("host:1", "host:1"),
    ):
        first = replace(GRID.trials[0], worker=text)
        table = GRID.model_copy(update={"trials": (first, *GRID.trials[1:])})
        frame = pd.read_csv(io.BytesIO(exported(table, "csv", all_trials=True)))
        assert frame["worker"][0] == cell
        assert frame["sigma"].dtype == "float64"


def test_json_has_no_control_characters_and_says_the_same() -> None:
    first = replace(GRID.trials[0], attributes={"error": "a\x9b1m\u202eb\n"})
    table = GRID.model_copy(update={"trials": (first, *GRID.trials[1:])})
    text = exported(table, "json", all_trials=True).decode()
    assert not {"\x9b", "\u202e"} & {*text}
    assert json.loads(text)["trials"][0]["attributes"]["error"] == "a\x9b1m\u202eb\n"


def test_names_of_columns_are_no_formulas() -> None:
    frame = pd.DataFrame({"=1+1": [-1.5], "\x1b[31mtime": ["2024-01-01"]})
    assert csv_of(frame).decode() == "'=1+1,\\x1b[31mtime\n-1.5,2024-01-01\n"
