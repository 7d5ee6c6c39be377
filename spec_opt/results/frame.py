"""A study's trials as a pandas frame; docs/export.md describes every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.variants import Variant
from spec_opt.results.table import Point, Result, StudyTable, TrialRow

if TYPE_CHECKING:
    import pandas as pd

_DTYPES = {
    float: "float64",
    int: "Int64",
    str: "string",
    Literal: "string",
    bool: "bool",
    datetime: "datetime64[ns]",
}


def _columns(model: type, **parts: type) -> dict[str, str]:
    """Columns with their pandas types, one a field; a field in `parts` gives those of its model."""
    found: dict[str, str] = {}
    for name, annotation in get_type_hints(model).items():
        if name in parts:
            found |= _columns(parts[name])
        elif name != "model_config":
            found[name] = _dtype(annotation)
    return found


def _dtype(annotation: Any) -> str:
    """`float64` for `Number | None`; "object" for what is no plain value."""
    plain = next(iter(get_args(annotation)), annotation)
    return _DTYPES.get(getattr(plain, "__origin__", plain), "object")


DTYPES = _columns(TrialRow, setting=Setting, variant=Variant, result=Result) | {"number": "int64"}
del DTYPES["blocks"], DTYPES["attributes"]
COLUMNS = tuple(DTYPES)
"""In their order; docs/export.md describes each."""
LISTS = tuple(name for name, dtype in DTYPES.items() if dtype == "object")


def frame_of(table: StudyTable, rows: Sequence[TrialRow] | None = None) -> pd.DataFrame:
    """One row a trial, columns as `COLUMNS`, indexed 0, 1, …; by default all trials."""
    import pandas as pd  # not at the top: workers start sooner without it

    shown = table.trials if rows is None else rows
    made = {variant: _made(table.config, variant) for variant in {row.variant for row in shown}}
    frame = pd.DataFrame([_record(row, made) for row in shown], columns=list(COLUMNS))
    return frame.astype(DTYPES)


def _record(row: TrialRow, made: Mapping[Variant, Variant]) -> dict[str, Any]:
    setting = {} if row.setting is None else dict(row.setting)
    found = {"pareto": False} | _held(row) | setting | dict(made[row.variant])
    return found if row.result is None else found | _held(row.result)


def _made(config: StudyConfig | None, variant: Variant) -> Variant:
    """A variant with the study file's own values."""
    return variant if config is None else config.with_variant(variant).written


def _held(record: TrialRow | Result) -> dict[str, Any]:
    """The fields of a record that are columns; tuples as lists."""
    values = ((name, getattr(record, name)) for name in _FIELDS[type(record)])
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values}


_FIELDS = {
    kind: [field.name for field in fields(kind) if field.name in COLUMNS]
    for kind in (TrialRow, Point, Result)
}
