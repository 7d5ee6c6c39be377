"""A `StudyTable` as a pandas frame. Kept apart so that only who needs pandas loads it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from spec_opt.measurement import Fingerprints
from spec_opt.results.table import Result, TrialRow

if TYPE_CHECKING:
    from spec_opt.results.table import StudyTable

COUNTS = (
    "windows",
    "accepted",
    "tested",
    "proposed",
    "rounds",
    "bonus",
    "patches",
    "target_evaluations",
    "draft_evaluations",
    "thinning_exhausted",
    "grid_point",
    "k",
)
"""Columns of whole numbers, possibly missing."""

NUMBERS = (
    "sigma",
    "bias",
    "acceptance_rate",
    "mse",
    "mae",
    "acceptance_se",
    "mse_se",
    "mse_baseline",
    "mse_ratio",
    "patches_per_round",
    "evaluation_seconds",
    "total_time_s",
    "predicted_speedup",
)
"""Columns of numbers, NaN where missing."""

TEXTS = (
    *("state", "source", "error", "worker", "device", "commit"),
    *(f"{field.name}_fingerprint" for field in fields(Fingerprints)),
)

LISTS = ("accepted_by_position", "tested_by_position")

COLUMNS = (
    "number",
    "state",
    "sigma",
    "bias",
    "k",
    "acceptance_rate",
    "mse",
    "pareto",
    "mae",
    "acceptance_se",
    "mse_se",
    "mse_baseline",
    "mse_ratio",
    "predicted_speedup",
    "patches_per_round",
    "windows",
    "patches",
    "rounds",
    "accepted",
    "tested",
    "proposed",
    "bonus",
    "accepted_by_position",
    "tested_by_position",
    "target_evaluations",
    "draft_evaluations",
    "thinning_exhausted",
    "evaluation_seconds",
    "total_time_s",
    "source",
    "grid_point",
    "device",
    "worker",
    "commit",
    "target_fingerprint",
    "draft_fingerprint",
    "data_fingerprint",
    "decoding_fingerprint",
    "started",
    "finished",
    "error",
)
"""All columns, in their order; docs/export.md describes each."""


def frame_of(table: StudyTable) -> pd.DataFrame:
    """One row a trial, columns as `COLUMNS`, indexed 0, 1, …"""
    records = [_record(row) for row in table.trials]
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    frame["number"] = frame["number"].astype("int64")
    frame["pareto"] = frame["pareto"].astype("bool")
    for name in COUNTS:
        frame[name] = frame[name].astype("Int64")
    for name in NUMBERS:
        frame[name] = frame[name].astype("float64")
    for name in TEXTS:
        frame[name] = frame[name].astype("string")
    for name in ("started", "finished"):
        frame[name] = pd.to_datetime(frame[name])
    for name in LISTS:
        frame[name] = frame[name].astype("object")
    return frame


def _record(row: TrialRow) -> dict[str, Any]:
    record: dict[str, Any] = dict.fromkeys(COLUMNS)
    record |= {
        "number": row.number,
        "state": row.state,
        "pareto": False,
        "error": row.error,
        "worker": row.worker,
        "device": row.device,
        "commit": row.commit,
        "grid_point": row.grid_point,
        "started": row.started,
        "finished": row.finished,
    }
    if row.setting is not None:
        record |= row.setting.model_dump()
    if row.fingerprints is not None:
        for field in fields(row.fingerprints):
            record[f"{field.name}_fingerprint"] = vars(row.fingerprints)[field.name]
    if row.result is not None:
        record |= _of_result(row.result)
    return record


def _of_result(result: Result) -> dict[str, Any]:
    record = dict(vars(result))
    for name in LISTS:
        record[name] = None if record[name] is None else list(record[name])
    base = result.mse_baseline
    record["mse_ratio"] = result.mse / base if base else None
    return record
