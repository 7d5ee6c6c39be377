"""A `StudyTable` as a pandas frame. Kept apart so that only who needs pandas loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from spec_opt.results.table import Result, TrialRow

if TYPE_CHECKING:
    from spec_opt.results.table import StudyTable

DTYPES = {
    "number": "int64",
    "state": "string",
    "sigma": "float64",
    "bias": "float64",
    "k": "Int64",
    "acceptance_rate": "float64",
    "mse": "float64",
    "pareto": "bool",
    "mae": "float64",
    "acceptance_se": "float64",
    "mse_se": "float64",
    "mse_baseline": "float64",
    "mse_ratio": "float64",
    "predicted_speedup": "float64",
    "patches_per_round": "float64",
    "windows": "Int64",
    "patches": "Int64",
    "rounds": "Int64",
    "accepted": "Int64",
    "tested": "Int64",
    "proposed": "Int64",
    "bonus": "Int64",
    "accepted_by_position": "object",
    "tested_by_position": "object",
    "target_evaluations": "Int64",
    "draft_evaluations": "Int64",
    "thinning_exhausted": "Int64",
    "evaluation_seconds": "float64",
    "total_time_s": "float64",
    "source": "string",
    "grid_point": "Int64",
    "device": "string",
    "worker": "string",
    "commit": "string",
    "target_fingerprint": "string",
    "draft_fingerprint": "string",
    "data_fingerprint": "string",
    "decoding_fingerprint": "string",
    "started": "datetime64[ns]",
    "finished": "datetime64[ns]",
    "error": "string",
}
"""All columns with their types, in their order; docs/export.md describes each."""

COLUMNS = tuple(DTYPES)
LISTS = tuple(name for name, dtype in DTYPES.items() if dtype == "object")


def frame_of(table: StudyTable) -> pd.DataFrame:
    """One row a trial, columns as `COLUMNS`, indexed 0, 1, …"""
    frame = pd.DataFrame([_record(row) for row in table.trials], columns=list(COLUMNS))
    return frame.astype(DTYPES)


def _record(row: TrialRow) -> dict[str, Any]:
    setting = {} if row.setting is None else row.setting.model_dump()
    result = {} if row.result is None else _of_result(row.result)
    hashes = {} if row.fingerprints is None else vars(row.fingerprints)
    fingerprints = {f"{name}_fingerprint": text for name, text in hashes.items()}
    return {"pareto": False} | vars(row) | setting | result | fingerprints


def _of_result(result: Result) -> dict[str, Any]:
    record = dict(vars(result))
    for name in LISTS:
        record[name] = None if record[name] is None else list(record[name])
    base = result.mse_baseline
    record["mse_ratio"] = result.mse / base if base else None
    return record
