"""Forecasts of contexts that are given: what a setting is for, once it has been chosen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from spec_opt.config.messages import first_problem
from spec_opt.config.study_file import DecodingConfig, Setting, check_setting
from spec_opt.config.values import ContextMode, Precision, Rule
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import CONTEXTS, require_growing
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Batches, Workload
from spec_opt.errors import ConfigError, InputError
from spec_opt.models.adapted import adapted
from spec_opt.models.device import DTYPES, MATMUL_PRECISIONS, resolve_device
from spec_opt.models.factory import check_forecast
from spec_opt.models.forecaster import MovableForecaster

Array = TypeVar("Array", NDArray[Any], Tensor)

_MEANS_ONLY: Final = Setting(sigma=1.0, bias=1.0, k=1)
"""For rule `point`, under which a model alone emits its means, whatever the setting."""


def forecast(
    target: MovableForecaster,
    draft: MovableForecaster | None,
    context: Array,
    setting: Setting | None,
    horizon: int,
    *,
    rule: Rule = "stride",
    context_mode: ContextMode = "rolling",
    seed: int = 0,
    windows: Sequence[int] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    batch_size: int = 64,
) -> Array:
    """Forecast what follows each context, speculatively, or by the target alone.

    The same models, context, setting, seed and window give the same forecast, in any batch, as a
    study's trial of that setting does.

    Args:
        target: the model whose forecasts are wanted; to forecast with a draft alone, the draft.
        draft: the model that proposes; None: the target alone, by its means.
        context: [L, C] or [B, L, C], a numpy array or a tensor, in the units that the models were
            trained in: for those of a study the standardised ones. In a study L is `data.context`.
        setting: of the speculation; None: the target alone.
        horizon: points to forecast, H; need not be whole patches.
        rule: as in `[decoding]` of a study file; so are all that follow but `windows`.
        context_mode: called `context` there.
        seed: of all random numbers.
        windows: a number for each of the B contexts, which keys its random numbers together with
            `seed` and the position in the forecast; 0, 1, … if absent. In a study it is the row of
            the series where the window's context begins.
        device: "cpu", "cuda", "cuda:1"; "auto" is a GPU if there is one.
        precision: of the models.
        batch_size: contexts that are decoded together.

    Returns:
        [H, C] or [B, H, C], in the units, the type and on the device of `context`; in its precision
        if it is of floating-point numbers, else in float32.

    Raises:
        InputError: an argument is not allowed, or a model cannot read such a context.
        DecodingError: a forecast is not finite.
    """
    decoding = _decoding(
        rule=rule, context=context_mode, seed=seed, device=device, precision=precision,
        batch_size=batch_size,
    )  # fmt: skip
    _require_setting(setting)
    if not isinstance(horizon, int) or horizon < 1:
        raise InputError(f"horizon = {horizon}: must be a whole number of at least 1")
    given = _tensor_of(context)
    asked = _windows_of(given if given.dim() == 3 else given.unsqueeze(0), horizon, windows)
    if draft is None or setting is None:
        answer = _decode(target, None, asked, None, decoding)
    else:
        answer = _decode(target, draft, asked, setting, decoding)
    return _like(answer if given.dim() == 3 else answer[0], context)


def _require_setting(setting: object) -> None:
    """Raise InputError for what is neither a setting nor None, such as a recommendation."""
    if setting is not None and not isinstance(setting, Setting):
        raise InputError(
            f"setting is a {type(setting).__name__}: must be a spec_opt.Setting, such as the "
            ".setting of a recommendation"
        )


def _decode(
    target: MovableForecaster,
    draft: MovableForecaster | None,
    windows: Windows,
    setting: Setting | None,
    decoding: DecodingConfig,
) -> Tensor:
    """[B, H, C], on the CPU; the target alone if `draft` and `setting` are None."""
    place, dtype = resolve_device(decoding.device), DTYPES[decoding.precision]
    example = windows.contexts(torch.tensor([0])).to(place)
    target = target.to(place, dtype)
    check_forecast(target, example, "target")
    if draft is not None and setting is not None:
        check_setting(setting, decoding.rule)
        if decoding.context == "growing":  # a model alone that does not remember reads rolling ones
            require_growing(target, windows.context)
        if draft.patch != target.patch:
            draft = adapted(draft, target, windows.context, windows.context)
        draft = draft.to(place, dtype)
        check_forecast(draft, example, "draft")
    workload = Workload(
        target=target,
        draft=draft or target,
        rule=RULES["point" if setting is None else decoding.rule],
        contexts=CONTEXTS[decoding.context],
        windows=windows,
        seed=decoding.seed,
        device=place,
    )
    every, batches = torch.arange(len(windows)), Batches(decoding.batch_size)
    with _matmul_precision(decoding.precision):
        if setting is None:
            alone = partial(workload.target_only, setting=_MEANS_ONLY)
            parts = [part.cpu() for _, part in batches.run(every, alone)]
        else:
            decode = partial(workload.speculatively, setting=setting)
            parts = [decoded.forecast.cpu() for _, decoded in batches.run(every, decode)]
    return torch.cat(parts)


@contextmanager
def _matmul_precision(precision: Precision) -> Iterator[None]:
    """Torch keeps it for the whole process: what was set before is set again."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL_PRECISIONS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# --- arguments ------------------------------------------------------------------------------------


def _decoding(**values: Any) -> DecodingConfig:
    try:
        return DecodingConfig(**values)
    except ValidationError as error:
        raise ConfigError(f"forecast: {first_problem(error, DecodingConfig)}") from error


@dataclass(frozen=True, eq=False)
class _Given(Windows):
    """Contexts of no common series, one after the other in `values`; `starts` are their numbers."""

    def contexts(self, index: Tensor | slice | None = None) -> Tensor:
        every = self.values.view(len(self), self.context, -1)
        return every if index is None else every[index]


def _windows_of(contexts: Tensor, horizon: int, numbers: Sequence[int] | None) -> Windows:
    """`contexts` is [B, L, C]."""
    batch, length, _ = contexts.shape
    starts = torch.arange(batch) if numbers is None else torch.tensor(list(numbers))
    if starts.shape != (batch,) or starts.is_floating_point() or bool((starts < 0).any()):
        raise InputError(
            f"windows = {numbers}: must be {batch} whole numbers from 0 on, one for each context"
        )
    return _Given(contexts.flatten(0, 1), starts.to(torch.int64), length, horizon)


def _tensor_of(context: NDArray[Any] | Tensor) -> Tensor:
    """[L, C] or [B, L, C], float32, on the CPU, all finite.

    Raises:
        InputError: it is something else.
    """
    if isinstance(context, Tensor):
        values = context.detach().cpu()
    elif isinstance(context, np.ndarray) and context.dtype.kind in "fiu":
        values = torch.from_numpy(np.ascontiguousarray(context))
    else:
        kind = f"{type(context).__name__} of {getattr(context, 'dtype', 'no numbers')}"
        raise InputError(f"context is a {kind}: must be a numpy array or a tensor of real numbers")
    if values.dim() not in (2, 3) or not values.numel():
        raise InputError(
            f"context of shape {list(values.shape)}: must be [points, channels] or "
            "[contexts, points, channels], none of them 0"
        )
    if values.is_complex():
        raise InputError(f"context is of {values.dtype}: must be of real numbers")
    values = values.to(torch.float32)
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        place = tuple(bad[0].tolist())
        raise InputError(
            f"context{list(place)} = {float(values[place])}: must be a finite number; fill gaps "
            "before forecasting"
        )
    return values


def _like(answer: Tensor, context: Array) -> Array:
    """`answer` in the type, precision and place of `context`."""
    if isinstance(context, Tensor):
        return answer.to(context.device, context.dtype if context.is_floating_point() else None)
    return answer.numpy().astype(context.dtype if context.dtype.kind == "f" else np.float32)
