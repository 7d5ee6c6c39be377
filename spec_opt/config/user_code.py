"""Code of the user's that a study file names: found, and named in errors."""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from spec_opt.errors import InputError, SpecOptError, WorkError

_OTHERS: Final = {
    "spec_opt", "torch", "numpy", "optuna", "pydantic", "click", *sys.stdlib_module_names,
}  # fmt: skip
"""Packages whose lines are not the user's."""


def users_line(error: BaseException) -> str | None:
    """File and line of the user's code in which an error arose; None if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _OTHERS
    ]
    return places[-1] if places else None


@contextmanager
def naming_the_users_line(kind: type[SpecOptError], what: str) -> Iterator[None]:
    """Turn errors inside the user's code into one of `kind` that names `what`, file and line.

    A lost GPU and missing memory stay as they are: others deal with them.
    """
    try:
        yield
    except (SpecOptError, MemoryError):
        raise
    except Exception as error:
        if "CUDA" in str(error) or "memory" in str(error):
            raise
        line = users_line(error)
        text = " ".join(str(error).split())
        place = f"{what}: {line}" if line else what
        raise kind(f"{place}: {type(error).__name__}: {text}") from error


def naming_factories(*factories: str | None) -> AbstractContextManager[None]:
    """Say where errors in models arise that these factories made; those of our own stay.

    Raises:
        WorkError: there was one.
    """
    named = " and ".join(factory for factory in factories if factory)
    return naming_the_users_line(WorkError, named) if named else nullcontext()


def load(place: str, what: str) -> Any:
    """What `package.module:name` names; `what` says in a message where it was given.

    Modules are looked for as usual, and in the working folder.

    Raises:
        InputError: there is no such module or name, importing it fails, or it is `__main__`.
    """
    module, _, name = place.partition(":")
    if module == "__main__":
        raise InputError(
            f"{what}: workers cannot import __main__, a notebook or script: put it in a module in "
            "the working folder (in a notebook by `%%writefile my_module.py`)"
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    with naming_the_users_line(InputError, what):
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise InputError(
                f"{what}: there is no module {error.name}, neither installed nor in the working "
                "folder; PYTHONPATH can name others"
            ) from error
        except AttributeError as error:
            if getattr(error, "name", None) != name:
                raise
            raise InputError(f"{what}: module {module} has no '{name}'") from error
