"""The values that a study file may hold: words, numbers within bounds, lists and ranges."""

import itertools
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

Rule = Literal["stride", "exact", "point"]
ContextMode = Literal["rolling", "growing"]
Precision = Literal["float32", "tf32", "bfloat16"]
Split = Literal["train", "validation", "test"]
GapFilling = Literal["forward-fill", "interpolate"]
DraftKind = Literal["timer-xl", "linear", "seasonal"]
ObjectiveName = Literal["acceptance_rate", "mse", "speedup"]


def matching(pattern: str, allowed: str) -> AfterValidator:
    """Require a text to match a pattern, which `allowed` describes in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {allowed}")
        return text

    return AfterValidator(check)


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not min_length, which also reports a list as too short if its only value is wrong.
    if not values:
        raise ValueError("must list at least one value")
    return values


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Require at least one name, and none twice."""
    if len(set(_not_empty(names))) < len(names):
        raise ValueError("must not list a name twice")
    return names


def _in_proportion(value: float) -> float:
    if value > 0 and not 1e-6 <= value <= 1e6:  # its square must not leave the float32 range
        raise ValueError("must lie between 1e-06 and 1e+06")
    return value


Sampler = Annotated[
    str,
    matching(
        r"grid|tpe|gp|nsga2|random|[A-Za-z_][\w.]*:[A-Za-z_]\w*",
        "'grid', 'tpe', 'gp', 'nsga2', 'random', or a class, 'optuna.samplers:NAME' or "
        "'package.module:Class'",
    ),
]
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Fits the integers of every library that it is passed to."""
Size = Annotated[int, Field(ge=1, le=65_536)]
"""A dimension of a network, bounded so that a typing error does not exhaust a device's memory."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Factor = Annotated[float, Field(gt=0.0), AfterValidator(_in_proportion)]
Proposals = Annotated[int, Field(ge=1, le=1000)]
"""k, proposals per round; counters are kept for each position of a round."""
NonNegative = Annotated[float, Field(ge=0.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Table(BaseModel):
    """A table of a study file: frozen, and strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, given: Any) -> Any:
        """Lists are tuples here, whether they come from a study file or from Python."""
        if not isinstance(given, dict):
            return given
        return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


Value = TypeVar("Value", int, float)
RangeOf = TypeVar("RangeOf")


class _Range(Table, Generic[Value]):
    """A parameter between two values, both included."""

    low: Value
    high: Value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} must be less than high = {self.high:g}")
        return self

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class ContinuousRange(_Range[Value], Generic[Value]):
    """A continuous parameter, `{low = 0.05, high = 1.0, log = true}`."""

    log: bool = False


class FloatRange(ContinuousRange[Factor]):
    """Of sigma or bias."""


class IntRange(_Range[Proposals]):
    """An integer parameter, `{low = 1, high = 5}`."""


_Space = Annotated[
    Annotated[tuple[Value, ...], AfterValidator(_not_empty), Tag("<list>")]
    | Annotated[RangeOf, Tag("<range>")],
    Discriminator(lambda value: "<range>" if isinstance(value, (dict, _Range)) else "<list>"),
]
FloatSpace = _Space[Factor, FloatRange]
IntSpace = _Space[Proposals, IntRange]
NonNegativeSpace = _Space[NonNegative, ContinuousRange[NonNegative]]
DropoutSpace = _Space[Dropout, ContinuousRange[Dropout]]
ShareSpace = _Space[Share, ContinuousRange[Share]]
EpochSpace = _Space[PositiveInt, IntRange]


ColumnName = Annotated[str, Field(min_length=1)]
TimeColumn = Annotated[
    Annotated[ColumnName, Tag("<column>")] | Annotated[Literal[False], Tag("<none>")],
    Discriminator(lambda value: "<none>" if isinstance(value, bool) else "<column>"),
]
"""The column of times; false for rows that are evenly spaced whatever the file says."""


def _whole(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9) or min(shares) <= 0:
        raise ValueError("three shares must be positive and add up to 1")
    return shares


def _ascending(dates: tuple[datetime, ...]) -> tuple[datetime, ...]:
    if len(dates) not in (2, 3) or any(a >= b for a, b in itertools.pairwise(map(utc, dates))):
        raise ValueError(
            "must be the first dates of validation and test, ascending, and perhaps where test ends"
        )
    return dates


def utc(date: datetime) -> datetime:
    """A date without its offset, which is the file's own clock or UTC."""
    return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date


def _shares_or_dates(value: Any) -> str:
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    return "<dates>" if isinstance(first, (str, datetime)) else "<shares>"


# Not strict: a date alone is its midnight.
_Date = Annotated[datetime, Field(strict=False)]
Splits = Annotated[
    Annotated[tuple[float, float, float], AfterValidator(_whole), Tag("<shares>")]
    | Annotated[tuple[_Date, ...], AfterValidator(_ascending), Tag("<dates>")],
    Discriminator(_shares_or_dates),
]
"""Shares of the rows for train, validation and test, or the dates at which the last two begin."""
