"""Target alone: one patch after another."""

import torch
from torch import Tensor

from spec_opt.decoding.acceptance import target_patch
from spec_opt.decoding.contexts import ROLLING, Contexts, EmittedBuffer, patches_to_cover
from spec_opt.decoding.noise import Draws
from spec_opt.models.forecaster import Forecaster


@torch.inference_mode()
def decode_autoregressively(
    model: Forecaster,
    context: Tensor,
    windows: Tensor,
    horizon: int,
    sigma: float,
    seed: int,
    contexts: Contexts = ROLLING,
) -> Tensor:
    """Forecast with one model alone.

    Args:
        model: gives the next patch; its mean is used.
        context: [B, L, C], on the model's device.
        windows: int64 [B], what keys each row's random numbers; on the same device.
        horizon: H, points to forecast.
        sigma: standard deviation of the noise on each emitted patch; 0 emits means.
        seed: of that noise.
        contexts: how the model is shown what it emitted.

    Returns:
        [B, H, C].

    Raises:
        DecodingError: a value is not finite.
        InputError: the model cannot work with such contexts.
    """
    patches = patches_to_cover(horizon, model.patch)
    buffer = EmittedBuffer(context, model.patch, patches)
    reading = contexts.reading(model, buffer)
    rows = torch.arange(len(context))
    for position in range(patches):
        positions = torch.full_like(rows, position)
        mean = reading.next(rows, positions).mean
        draws = Draws(seed, windows, torch.full_like(windows, position))
        buffer.write(rows, positions, target_patch(mean, sigma, draws))
    buffer.require_finite()
    return buffer.forecast(horizon)
