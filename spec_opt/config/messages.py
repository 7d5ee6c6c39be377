"""What pydantic finds wrong with a study file, in one plain line: key, value, what is allowed."""

import difflib
from collections.abc import Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_LONGEST_VALUE: Final = 60
_LONGEST_PART: Final = 300

_ALLOWED: Final = {
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
    "value_error": "{error}",
}
"""By pydantic's type of error; its context fills the braces."""


def first_problem(error: ValidationError, table: type[BaseModel]) -> str:
    """The first problem, and the number of further ones; `table` is what was validated.

    Unknown keys come first: a misspelt key is also a missing one.
    """
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    line, more = _describe(problems[0], table), len(problems) - 1
    return f"{line} (and {more} more)" if more else line


def _describe(problem: ErrorDetails, table: type[BaseModel]) -> str:
    kind, place, value = problem["type"], problem["loc"], problem["input"]
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in place if not _is_tag(p))
    key = brief("".join(parts).removeprefix("."))
    if kind == "missing":
        return f"{key}: missing"
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_keys_instead(place, table)}"
    context = {name: _short(v) for name, v in problem.get("ctx", {}).items()}
    message = brief(
        _ALLOWED.get(kind, "{message}").format(
            message=problem["msg"][:1].lower() + problem["msg"][1:], **context
        )
    )
    if kind == "tuple_type" and place[-1] == "<list>":
        message += ", or a range, {low = ..., high = ...}"
    if isinstance(value, dict) and kind == "value_error":
        # Keys of a table contradict each other: the message names them and their values.
        return f"{key}: {message}" if key else message
    return f"{key} = {as_written(value)}: {message}"


def brief(text: str) -> str:
    """The beginning of a text that a study file may have made endless."""
    return text if len(text) <= _LONGEST_PART else f"{text[:_LONGEST_PART]}..."


def _is_tag(part: str | int) -> bool:
    """Whether part of an error's location is the tag of a union, which is no key of the file."""
    return isinstance(part, str) and part.startswith("<")


def _short(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def as_written(value: Any) -> str:
    """A value as a study file would have it, more or less, and shortened."""
    value = list(value) if isinstance(value, tuple) else value
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _keys_instead(place: tuple[str | int, ...], table: type[BaseModel]) -> str:
    """The key that was probably meant, or else all keys of the same table."""
    for part in place[:-1]:
        if part in table.model_fields:
            # The first will do: a range of numbers has much the same keys as one of integers.
            table = next(_tables(table.model_fields[str(part)].annotation), table)
    keys = list(table.model_fields)
    close = difflib.get_close_matches(brief(str(place[-1])), keys, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(keys)}"


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)
