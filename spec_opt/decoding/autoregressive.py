"""Target alone: one patch after another, each on a context that slides by a patch.

Also the buffer that both decoders roll their contexts in.
"""

import torch
from torch import Tensor

from spec_opt.decoding.acceptance import target_patch
from spec_opt.decoding.noise import Draws
from spec_opt.errors import DecodingError
from spec_opt.models.forecaster import Forecaster


def patches_to_cover(horizon: int, patch: int) -> int:
    """M: how many patches of `patch` points cover `horizon` points."""
    return -(-horizon // patch)


class RollingBuffer:
    """B contexts and the patches emitted after them, in one tensor [B, L + M * P, C].

    Position e of a row is its (e + 1)-th patch; the context at position e is the L points before.
    """

    def __init__(self, context: Tensor, patch: int, patches: int) -> None:
        batch, self._length, channels = context.shape
        self._patch = patch
        room = torch.zeros(
            batch, patches * patch, channels, dtype=context.dtype, device=context.device
        )
        self._values = torch.cat([context, room], dim=1)
        # Views, not copies: [B, M + 1, C, L] and [B, M, P, C].
        self._contexts: Tensor = self._values.unfold(1, self._length, patch)
        self._emitted = self._values[:, self._length :].view(batch, patches, patch, channels)

    def contexts(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The contexts of `rows` [n] at `positions` [n]: [n, L, C]."""
        return self._contexts[rows, positions].transpose(1, 2)

    def patches(self, rows: Tensor, positions: Tensor) -> Tensor:
        """What stands at `positions` [n] of `rows` [n]: [n, P, C]."""
        return self._emitted[rows, positions]

    def write(self, rows: Tensor, positions: Tensor, patches: Tensor) -> None:
        """Put `patches` [n, P, C] at `positions` [n] of `rows` [n].

        Raises:
            DecodingError: a value is not finite.
        """
        require_finite(patches)
        self._emitted[rows, positions] = patches.to(self._values.dtype)

    def forecast(self, horizon: int) -> Tensor:
        """What was emitted, cut to the horizon: [B, H, C]."""
        return self._values[:, self._length : self._length + horizon]


def require_finite(patches: Tensor) -> None:
    """Stop at the first patch that is not a number, instead of forecasting nonsense on from it.

    Raises:
        DecodingError: a value is not finite.
    """
    # One reduction, one synchronisation: a sum is finite only if all its terms are.
    if not bool(torch.isfinite(patches.sum(dtype=torch.float64))):
        raise DecodingError(
            "a decoded patch holds a value that is not finite: "
            "the model diverges on its own forecasts, or its weights are broken"
        )


@torch.inference_mode()
def decode_autoregressively(
    model: Forecaster, context: Tensor, windows: Tensor, horizon: int, sigma: float, seed: int
) -> Tensor:
    """Forecast with one model alone.

    Args:
        model: gives the next patch; its mean is used.
        context: [B, L, C], on the model's device.
        windows: int64 [B], what keys each row's random numbers.
        horizon: H, points to forecast.
        sigma: standard deviation of the noise on each emitted patch; 0 emits means.
        seed: of that noise.

    Returns:
        [B, H, C].

    Raises:
        DecodingError: a value is not finite.
    """
    batch, patch = len(context), model.patch
    patches = patches_to_cover(horizon, patch)
    buffer = RollingBuffer(context, patch, patches)
    rows = torch.arange(batch, device=context.device)
    for position in range(patches):
        positions = torch.full_like(rows, position)
        mean = model.predict(buffer.contexts(rows, positions)).mean
        emitted = target_patch(mean, sigma, Draws(seed, windows, positions))
        buffer.write(rows, positions, emitted)
    return buffer.forecast(horizon)
