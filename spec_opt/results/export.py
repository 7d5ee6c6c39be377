"""Trials as CSV, JSON or parquet; docs/export.md describes every column and key."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import to_jsonable_python

from spec_opt.config.outgoing import printable, printable_json
from spec_opt.results.frame import LISTS, frame_of
from spec_opt.results.table import Detail, StudyTable, TrialRow
from spec_opt.study.database import parse_url

if TYPE_CHECKING:
    import pandas as pd

ExportFormat = Literal["csv", "json", "parquet"]
FORMATS: Final[dict[str, ExportFormat]] = {".json": "json", ".parquet": "parquet", ".pq": "parquet"}
_FORMULA: Final = re.compile(r"\s*[=+\-@]")
"""How a text begins that a spreadsheet would compute."""


def export(
    table: StudyTable, style: ExportFormat, *, all_trials: bool, storage: str, command: str
) -> bytes:
    """The Pareto trials, best acceptance first, or all trials by number.

    Args:
        table: The study.
        style: csv and json are UTF-8 text, parquet is binary.
        all_trials: Every trial in any state instead of the Pareto front.
        storage: URL of the store; written into the JSON without its password.
        command: The command line that asked for it, for the JSON.
    """
    match style:
        case "csv":
            return csv_of(selected_frame(table, all_trials))
        case "json":
            document = document_of(table, all_trials=all_trials, storage=storage, command=command)
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
            text = printable_json(text)
            return f"{text}\n".encode()
        case "parquet":
            return parquet_of(selected_frame(table, all_trials))


def detail_of(style: ExportFormat, *, all_trials: bool) -> Detail:
    """How much of a large study an export needs."""
    if not all_trials:
        return "brief"
    return "all" if style == "json" else "columns"


def format_of(path: Path | None) -> ExportFormat:
    """The format that a file's suffix names; csv for any other, and without a file."""
    return FORMATS.get("" if path is None else path.suffix.lower(), "csv")


def document_of(
    table: StudyTable, *, all_trials: bool, storage: str, command: str
) -> dict[str, Any]:
    """The JSON form: what it takes to reproduce the study, then the trials."""
    baseline = table.baseline and asdict(table.baseline)
    rows: Sequence[TrialRow] = table.trials if all_trials else table.front
    return {
        "study": table.name,
        "storage": parse_url(storage).masked,
        "command": command,
        "versions": dict(table.versions),
        "fingerprints": table.fingerprints and asdict(table.fingerprints),
        "series": dict(table.series) or None,
        "models": dict(table.models) or None,
        "baseline": baseline or {"target_mse": table.target_mse, "draft_mse": None},
        "ended": table.ended and table.ended.reason,
        "selection": "all" if all_trials else "pareto",
        "config": table.config and table.config.model_dump(mode="json"),
        "trials": [_trial(row, table.objectives) for row in rows],
    }


def csv_of(frame: pd.DataFrame) -> bytes:
    """CSV with a header; lists are written as JSON, missing values are empty.

    Texts hold no control characters, and what a spreadsheet would take for a formula is quoted.
    """
    text = frame.copy(deep=False)
    for name in LISTS:
        if name in text:
            text[name] = [
                json.dumps(cell) if isinstance(cell, list) else None for cell in text[name]
            ]
    for label, column in text.items():
        if column.dtype.kind == "O":  # texts, in whatever way pandas keeps them
            distinct = column.dropna().unique()
            text[str(label)] = column.map({cell: _as_cell(cell) for cell in distinct})
    names = [str(_as_cell(name)) for name in text.columns]
    return text.to_csv(index=False, header=names, lineterminator="\n").encode()


def _as_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if _FORMULA.match(shown) else shown


def parquet_of(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def selected_frame(table: StudyTable, all_trials: bool) -> pd.DataFrame:
    """The Pareto trials, best acceptance first, or all trials by number; columns as `frame_of`."""
    return frame_of(table, table.trials if all_trials else table.front)


def _trial(row: TrialRow, objectives: Sequence[str]) -> dict[str, Any]:
    result = row.result
    names = {name: "predicted_speedup" if name == "speedup" else name for name in objectives}
    values = {name: getattr(result, field) for name, field in names.items()} if result else None
    return {
        "number": row.number,
        "state": row.state,
        "params": row.setting and row.setting.model_dump(),
        "values": values,
        "pareto": result is not None and result.pareto,
        "started": row.started and row.started.isoformat(),
        "finished": row.finished and row.finished.isoformat(),
        # JSON cannot hold infinities and NaN.
        "attributes": to_jsonable_python(dict(row.attributes), inf_nan_mode="null"),
    }
