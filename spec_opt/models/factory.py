"""Models of the user's own, and errors inside their code.

docs/your_model.md shows one.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor

from spec_opt.errors import InputError, SpecOptError
from spec_opt.models.forecaster import Gaussian, MovableForecaster

_OTHERS: Final = {"spec_opt", "torch", "numpy", "pydantic", "click", *sys.stdlib_module_names}
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


def model_from(factory: str, options: Mapping[str, Any], role: str) -> MovableForecaster:
    """Call `package.module:function` with `options`, and check what it returns.

    Modules are looked for as usual, and in the working folder.

    Raises:
        InputError: there is no such function, it fails, or it returns no model.
    """
    module, _, name = factory.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    what = f"{role}.factory = '{factory}'"
    with naming_the_users_line(InputError, what):
        try:
            make = getattr(importlib.import_module(module), name)
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
        model: MovableForecaster = make(**options)
        parts = ("patch", "fingerprint", "predict", "to")
        missing = [part for part in parts if getattr(model, part, None) is None]
        if missing:
            raise InputError(
                f"{what}: it returned a {type(model).__name__}, which has no {missing[0]}: "
                "docs/your_model.md says what a model needs"
            )
        if not isinstance(model.patch, int) or model.patch < 1:
            raise InputError(f"{what}: patch = {model.patch!r}: must be a whole number from 1 on")
    return model


def check_forecast(model: MovableForecaster, context: Tensor, what: str) -> None:
    """Let a model forecast once, so that what cannot work is known before any work.

    Args:
        context: `[1, L, C]`
        what: names the model in a message.

    Raises:
        InputError: it cannot read such a context, or its answer has another shape.
    """
    expected = [1, model.patch, context.shape[2]]
    with naming_the_users_line(InputError, what):
        try:
            answer = model.predict(context)
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        if not isinstance(answer, Gaussian):
            raise InputError(f"{what}: predict returned a {type(answer).__name__}, not a Gaussian")
        for name, part in answer._asdict().items():
            if part is not None and list(part.shape) != expected:
                raise InputError(
                    f"{what}: the {name} of a forecast has shape {list(part.shape)}, "
                    f"expected {expected}"
                )
