"""A study's trials as a pandas frame; docs/export.md describes every column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.variants import Variant
from spec_opt.results.table import Result, StudyTable, TrialRow

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
    parts: Mapping[type, Sequence[object]] = {
        TrialRow: shown,
        Setting: [row.setting for row in shown],
        Variant: [made[row.variant] for row in shown],
        Result: [row.result for row in shown],
    }
    columns = {
        name: pd.Series(_values(records, name), dtype=DTYPES[name])
        for kind, records in parts.items()
        for name in get_type_hints(kind)
        if name in DTYPES
    }
    return pd.DataFrame(columns, columns=list(COLUMNS))


def _values(records: Sequence[object], name: str) -> list[Any]:
    """A field of each record; tuples as lists."""
    blank = _BLANKS.get(name)
    values: list[Any] = [blank if record is None else getattr(record, name) for record in records]
    if name in LISTS:
        return [value if value is None else list(value) for value in values]
    return values


_BLANKS = {"pareto": False, "feasible": True}
"""Of trials without a result, in columns that know no missing value."""


def _made(config: StudyConfig | None, variant: Variant) -> Variant:
    """A variant with the study file's own values."""
    return variant if config is None else config.with_variant(variant).written
