"""Models of the user's own.

docs/your_model.md shows one.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spec_opt.config.user_code import load, naming_the_users_line
from spec_opt.errors import InputError
from spec_opt.models.forecaster import Gaussian, MovableForecaster


def model_from(factory: str, options: Mapping[str, Any], role: str) -> MovableForecaster:
    """Call `package.module:function` with `options`, and check what it returns.

    Modules are looked for as usual, and in the working folder.

    Raises:
        InputError: there is no such function, it fails, or it returns no model.
    """
    what = f"{role}.factory = '{factory}'"
    make = load(factory, what)
    with naming_the_users_line(InputError, what):
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
