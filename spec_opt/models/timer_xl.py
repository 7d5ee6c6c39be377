"""Timer-XL: a causal Transformer over the patches of all channels of a series.

A context `[B, L, C]` becomes C·N tokens, one per patch of P points of one channel; every token
forecasts the patch that follows it (Liu et al. 2024, "Timer-XL: Long-Context Transformers for
Unified Time Series Forecasting", arXiv:2410.04803; attention over variables and time: equations 4
to 7). A target has a head for the mean; a stochastic draft has a second one for the log-variance.

This is the network as it is trained; `frozen.FrozenTimerXL` is the model that forecasts.

Shapes: B windows, L = N·P points, C channels, D width, H heads, S = C·N tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spec_opt.config.models import ScaleConfig
from spec_opt.errors import InputError
from spec_opt.models.forecaster import Gaussian, check_context
from spec_opt.models.layers import Activation, Layer, geometry_of

NORMALISATION_EPSILON = 1e-5
LOG_VARIANCE_LIMIT = 10.0
"""Bound on the log-variance head's output, in normalised units."""
INITIAL_LOG_VARIANCE = -2.0


@dataclass(frozen=True)
class TimerXLConfig:
    """Sizes of a network.

    Raises:
        InputError: a size is below 1, or the width does not divide into heads and rotary pairs.
    """

    patch: int
    d_model: int
    heads: int
    feedforward: int
    layers: int
    dropout: float = 0.1
    activation: Activation = "relu"
    stochastic: bool = False
    """Whether the network has a head for the log-variance, as a draft that proposes samples."""

    def __post_init__(self) -> None:
        for name in ("patch", "d_model", "heads", "feedforward", "layers"):
            if asdict(self)[name] < 1:
                raise InputError(f"{name} = {asdict(self)[name]}: must be at least 1")
        if self.d_model % (4 * self.heads):
            raise InputError(
                f"d_model = {self.d_model}: must be a multiple of 4 * heads = {4 * self.heads}"
            )


def scaled_config(target: TimerXLConfig, scale: ScaleConfig) -> TimerXLConfig:
    """Sizes of a stochastic draft whose width, heads, feedforward and layers are scaled down.

    Width and heads are chosen together, because a head's width must be a multiple of 4: among the
    head counts within 2 of the scaled one, the first with the least |width error| + 20·|head error|
    wins. A width below 16 is raised to the first multiple of 4·heads that is at least 16. Halves
    are rounded to even.
    """
    width, heads = round(target.d_model * scale.d_model), round(target.heads * scale.heads)
    candidates = [
        (count * max(4, width // count // 4 * 4), count)
        for count in range(max(1, heads - 2), heads + 3)
    ]
    width, heads = min(candidates, key=lambda c: abs(c[0] - width) + 20 * abs(c[1] - heads))
    step = 4 * heads
    return TimerXLConfig(
        patch=target.patch,
        d_model=max(width, math.ceil(16 / step) * step),
        heads=heads,
        feedforward=max(64, round(target.feedforward * scale.feedforward)),
        layers=max(1, round(target.layers * scale.layers)),
        dropout=target.dropout,
        activation=target.activation,
        stochastic=True,
    )


class Scale(NamedTuple):
    """Mean and standard deviation of each context and channel, `[B, C, 1, 1]`."""

    mean: Tensor
    deviation: Tensor


class TimerXL(nn.Module):
    """The network: an embedding of patches, layers of attention, and one or two heads."""

    def __init__(self, config: TimerXLConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.patch, config.d_model)
        layers = (
            Layer(config.d_model, config.heads, config.feedforward, config.activation)
            for _ in range(config.layers)
        )
        self.layers = cast(Sequence[Layer], nn.ModuleList(layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.mean_head = nn.Linear(config.d_model, config.patch)
        self.log_variance_head: nn.Linear | None = None
        if config.stochastic:
            self.log_variance_head = nn.Linear(config.d_model, config.patch)
            nn.init.constant_(self.log_variance_head.bias, INITIAL_LOG_VARIANCE)

    def forward(self, context: Tensor, dropout: float | None = None) -> Gaussian:
        """Forecast, at every token of `[B, L, C]`, the patch after it: `[B, L, C]`, P points later.

        `dropout` overrides the rate, which by default is the configured one in training mode and 0
        in evaluation mode.

        Raises:
            InputError: the context is not three-dimensional, or not whole patches.
        """
        if dropout is None:
            dropout = self.config.dropout if self.training else 0.0
        patches, scale = self.normalise(context)
        _, channels, tokens, _ = patches.shape
        head_width = self.config.d_model // self.config.heads
        geometry = geometry_of(channels, tokens, head_width, patches.dtype, patches.device)
        hidden = self.embedding(patches).flatten(1, 2)
        for layer in self.layers:
            hidden = layer(hidden, geometry, dropout)
        return self.forecast(torch.unflatten(hidden, 1, (channels, tokens)), scale)

    def normalise(self, context: Tensor) -> tuple[Tensor, Scale]:
        """Normalised patches `[B, C, N, P]` in the network's type, and the scale that undoes it.

        Raises:
            InputError: the context is not three-dimensional, or not whole patches.
        """
        weight, patch = self.embedding.weight, self.config.patch
        check_context(context, patch, "patch")
        exact = torch.promote_types(torch.promote_types(context.dtype, weight.dtype), torch.float32)
        series = context.to(exact).transpose(1, 2).contiguous()
        patches = torch.unflatten(series, 2, (-1, patch))
        mean = patches.mean(dim=(2, 3), keepdim=True)
        centred = patches - mean
        variance = centred.square().mean(dim=(2, 3), keepdim=True)
        deviation = torch.sqrt(variance + NORMALISATION_EPSILON)
        return (centred / deviation).to(weight.dtype), Scale(mean, deviation)

    def forecast(self, hidden: Tensor, scale: Scale) -> Gaussian:
        """From tokens `[B, C, n, D]` to forecasts `[B, n·P, C]` in the units of the context."""

        def series(patches: Tensor) -> Tensor:
            return patches.flatten(2).transpose(1, 2)

        hidden = self.norm(hidden)
        exact = scale.mean.dtype
        mean = torch.addcmul(scale.mean, self.mean_head(hidden).to(exact), scale.deviation)
        if self.log_variance_head is None:
            return Gaussian(series(mean), None)
        limit = LOG_VARIANCE_LIMIT
        log_variance = self.log_variance_head(hidden).to(exact)
        variance = log_variance.clamp(-limit, limit).exp() * scale.deviation.square()
        return Gaussian(series(mean), series(variance))
