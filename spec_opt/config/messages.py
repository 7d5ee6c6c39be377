"""What pydantic finds wrong with a study file, as one plain line: key, value, what is allowed."""

import difflib
import inspect
import types
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_UNION_TAGS: Final = ("list", "range", "column", "none", "shares", "dates")
"""Parts of a place that the reader of a study file knows nothing of."""

_LONGEST_VALUE: Final = 60

_ALLOWED: Final = {
    "missing": "missing",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be a text in quotes",
    "path_type": "must be a text in quotes",
    "string_too_short": "must not be empty",
    "literal_error": "must be {expected}",
    "tuple_type": "must be a list, [...]",
    "model_type": "must be a table",
}
"""By pydantic's name of the problem."""


def first_problem(error: ValidationError, table: type[BaseModel]) -> str:
    """The first problem, and how many more there are; `table` is what was validated.

    Keys that do not exist come first: a misspelt key is also a missing one.
    """
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    line, more = _describe(problems[0], table), len(problems) - 1
    return f"{line} (and {more} more)" if more else line


def _describe(problem: ErrorDetails, table: type[BaseModel]) -> str:
    place = [part for part in problem["loc"] if part not in _UNION_TAGS]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    key = key.removeprefix(".")
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_keys_instead(problem['loc'], table)}"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            message = problem["msg"].removeprefix("Value error, ")
        case kind if kind in _ALLOWED:
            bounds = problem.get("ctx", {}).items()
            message = _ALLOWED[kind].format(**{name: _bound(value) for name, value in bounds})
            if kind == "tuple_type" and problem["loc"][-1] == "list":
                message += ", or a range, {low = ..., high = ...}"
        case _:
            message = problem["msg"][:1].lower() + problem["msg"][1:]
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":
        # A table whose keys do not go together: the message names them and their values.
        return f"{key}: {message}" if key else message
    return f"{key} = {_as_written(problem['input'])}: {message}"


def _bound(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_written(value: Any) -> str:
    """A value much as it stands in the file, shortened."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _keys_instead(place: tuple[str | int, ...], root: type[BaseModel]) -> str:
    """The key that was probably meant, or else all keys of the table that it stands in."""
    table = root
    for part in place[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            candidates = list(_tables(table.model_fields[part].annotation))
            # A range may be of numbers or whole numbers: their keys are much the same.
            table = candidates[0] if candidates else table
    keys = list(table.model_fields)
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(keys)}"


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that an annotation admits."""
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _tables(argument)
