"""A study's trials as a pandas frame; docs/export.md describes every column."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from spec_opt.config.study_file import Setting
from spec_opt.results.table import Result, StudyTable, TrialRow

if TYPE_CHECKING:
    import pandas as pd

_DTYPES = {float: "float64", int: "Int64", str: "string", bool: "bool", datetime: "datetime64[ns]"}


def _columns(model: type[BaseModel], **parts: type[BaseModel]) -> dict[str, str]:
    """Columns with their pandas types, one a field; a field in `parts` gives those of its model."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        found |= _columns(parts[name]) if name in parts else {name: _dtype(field.annotation)}
    return found


def _dtype(annotation: Any) -> str:
    """`float64` for `Number | None`; "object" for what is no plain value."""
    plain = next(iter(get_args(annotation)), annotation)
    return _DTYPES.get(getattr(plain, "__origin__", plain), "object")


DTYPES = _columns(TrialRow, setting=Setting, result=Result) | {"number": "int64"}
del DTYPES["blocks"], DTYPES["attributes"]
COLUMNS = tuple(DTYPES)
"""In their order; docs/export.md describes each."""
LISTS = tuple(name for name, dtype in DTYPES.items() if dtype == "object")


def frame_of(table: StudyTable) -> pd.DataFrame:
    """One row a trial, columns as `COLUMNS`, indexed 0, 1, …"""
    import pandas as pd  # not at the top: workers start sooner without it

    frame = pd.DataFrame([_record(row) for row in table.trials], columns=list(COLUMNS))
    return frame.astype(DTYPES)


def _record(row: TrialRow) -> dict[str, Any]:
    setting = {} if row.setting is None else dict(row.setting)
    result = {} if row.result is None else row.result.model_dump(mode="json", exclude={"blocks"})
    return {"pareto": False} | dict(row) | setting | result
