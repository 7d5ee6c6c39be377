"""Timer-XL: a causal Transformer over the patches of all channels of a series.

A context `[B, L, C]` becomes C·N tokens, one per patch of P points of one channel; every token
forecasts the patch that follows it (Liu et al. 2024, "Timer-XL: Long-Context Transformers for
Unified Time Series Forecasting", arXiv:2410.04803; attention over variables and time: equations 4
to 7). A target has a head for the mean; a stochastic draft one more for the log-variance.

Shapes: B windows, L = N·P points, C channels, D width, H heads, S = C·N tokens.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from spec_opt.config.models import ScaleConfig
from spec_opt.errors import InputError
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.kv_cache import Projection, Tables, TokenMemory
from spec_opt.models.layers import Activation, Geometry, Layer, geometry_of, rotate

NORMALISATION_EPSILON = 1e-5
LOG_VARIANCE_LIMIT = 10.0
"""Bound on the log-variance head's output, in normalised units."""
INITIAL_LOG_VARIANCE = -2.0


@dataclass(frozen=True)
class TimerXLConfig:
    """Sizes of a network.

    Raises:
        InputError: a size below 1, or a width that the heads and their rotary pairs cannot share.
    """

    patch: int
    d_model: int
    heads: int
    feedforward: int
    layers: int
    dropout: float = 0.1
    activation: Activation = "relu"
    stochastic: bool = False
    """Whether there is a head for the log-variance: a draft that proposes samples."""

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

    Width and heads go together: a head's width is a multiple of 4, so of the head counts within 2
    of the scaled one the first with the least |width error| + 20·|head error| wins. A width below
    16 is raised to the first multiple of 4·heads from 16 on. All roundings of .5 are to even.
    """
    width, heads = round(target.d_model * scale.d_model), round(target.heads * scale.heads)
    best_cost, best_width, best_heads = math.inf, 0, 0
    for count in range(max(1, heads - 2), heads + 3):
        candidate = count * max(4, width // count // 4 * 4)
        cost = abs(candidate - width) + 20 * abs(count - heads)
        if cost < best_cost:
            best_cost, best_width, best_heads = cost, candidate, count
    step = 4 * best_heads
    return TimerXLConfig(
        patch=target.patch,
        d_model=max(best_width, math.ceil(16 / step) * step),
        heads=best_heads,
        feedforward=max(64, round(target.feedforward * scale.feedforward)),
        layers=max(1, round(target.layers * scale.layers)),
        dropout=target.dropout,
        activation=target.activation,
        stochastic=True,
    )


class _Instance(NamedTuple):
    """Mean and standard deviation of each window and channel, `[B, C, 1, 1]`."""

    mean: Tensor
    deviation: Tensor

    def of(self, rows: Tensor | None) -> "_Instance":
        """Those of some windows; None for all."""
        return self if rows is None else _Instance(self.mean[rows], self.deviation[rows])


class _Static(NamedTuple):
    """What a layer needs to forecast and what does not depend on the context: made once."""

    projection: Projection
    mask: Tensor
    """`[1, H, Q, S]`, Q the tokens that are asked: all S, in the last layer C."""
    query_rotation: Tensor
    key_rotation: Tensor


class TimerXL(nn.Module):
    """The network. `forward` is for training, `predict` for forecasting."""

    def __init__(self, config: TimerXLConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.patch, config.d_model)
        self.layers = nn.ModuleList(
            Layer(config.d_model, config.heads, config.feedforward, config.activation)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.mean_head = nn.Linear(config.d_model, config.patch)
        self.log_variance_head: nn.Linear | None = None
        if config.stochastic:
            self.log_variance_head = nn.Linear(config.d_model, config.patch)
            nn.init.constant_(self.log_variance_head.bias, INITIAL_LOG_VARIANCE)
        # What is derived from the weights, until `_forget`.
        self._weights: tuple[Tensor, ...] = ()
        self._static: dict[tuple[object, ...], Sequence[_Static]] = {}
        self._tables: dict[tuple[object, ...], Tables] = {}
        self._fingerprint: tuple[tuple[int, ...], str] | None = None

    @property
    def patch(self) -> int:
        """Points per patch, P."""
        return self.config.patch

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now (name, type, shape, bytes), heads, activation.

        The same on every device; casting to another precision changes it.
        """
        state = self._state_key()
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, _content_hash(self))
        return self._fingerprint[1]

    def forward(self, context: Tensor, dropout: float | None = None) -> Gaussian:
        """What each token of `[B, L, C]` says of the patch after it: `[B, L, C]`, P points later.

        `dropout` overrides the rate, which otherwise is the configured one in training mode and 0
        in evaluation mode.

        Raises:
            InputError: a context that is not three-dimensional, or not whole patches.
        """
        if dropout is None:
            dropout = self.config.dropout if self.training else 0.0
        patches, instance = self._patches(context)
        geometry = self._geometry(patches)
        hidden = self.embedding(patches).flatten(1, 2)
        for layer in self.layers:
            hidden = layer(hidden, geometry, dropout)
        return self._forecast(torch.unflatten(hidden, 1, patches.shape[1:3]), instance)

    @torch.inference_mode()
    def predict_every_position(self, context: Tensor) -> Gaussian:
        """`predict` by way of `forward`: the plain way that `predict` is measured against."""
        mean, variance = self(context, dropout=0.0)
        last = slice(-self.patch, None)
        return Gaussian(mean[:, last], None if variance is None else variance[:, last])

    @torch.inference_mode()
    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` after each context `[B, L, C]`, in the units of the context.

        Only what that patch depends on is computed. In the last layer that is the last token of
        each channel, which may attend to every token; the first layer's projections are composed
        with the embedding, because a token enters it as P numbers and not as D.

        The result's type is that of the context, or the network's if that is wider, and at least
        float32. Dropout plays no part, whatever the mode.

        Raises:
            InputError: a context that is not three-dimensional, or not whole patches.
        """
        patches, instance = self._patches(context)
        source = patches
        for index, static in enumerate(self._prepare(patches)):
            layer = self._layer(index)
            last = index == self.config.layers - 1
            asked = source[:, :, -1:].contiguous() if last else source
            residual = self.embedding(asked) if index == 0 else asked
            query = layer.split(static.projection.apply(asked, slice(0, 1)).flatten(1, 2))
            memory = static.projection.apply(source, slice(1, 3)).flatten(1, 2)
            key, value = memory.chunk(2, dim=-1)
            hidden = layer.finish(
                residual.flatten(1, 2),
                rotate(query, static.query_rotation),
                rotate(layer.split(key), static.key_rotation),
                layer.split(value),
                static.mask,
                dropout=0.0,
            )
            source = torch.unflatten(hidden, 1, asked.shape[1:3])
        return self._forecast(source, instance)

    @torch.inference_mode()
    def remember(self, context: Tensor, room: int, stride: int | None = None) -> TokenMemory:
        """An empty memory for series that begin with `context`; see `RememberingForecaster`.

        A token of channel c and time n has position c·`stride` + n. By default the stride is the
        context's number of tokens, as in training: then an appended token stands to those before it
        as in training, and its position is also that of the next channel's first (the attention
        bias tells channels apart).

        Raises:
            InputError: a context that is not three-dimensional, or not whole patches.
        """
        patches, instance = self._patches(context)
        batch, channels, tokens, _ = patches.shape

        def normalise(patches: Tensor, rows: Tensor | None) -> Tensor:
            mean, deviation = (t.transpose(1, 2) for t in instance.of(rows))
            # Contiguous: the products that follow are much slower otherwise.
            patches = patches.transpose(2, 3).to(mean.dtype).contiguous()
            return ((patches - mean) / deviation).to(self.embedding.weight.dtype)

        def forecast(hidden: Tensor, rows: Tensor | None) -> Gaussian:
            return self._forecast(hidden, instance.of(rows))

        return TokenMemory(
            self._make_tables(channels, tokens + room, tokens if stride is None else stride),
            normalise,
            self.embedding,
            forecast,
            patch=self.patch,
            batch=batch,
            channels=channels,
            times=tokens + room,
        )

    def _make_tables(self, channels: int, times: int, stride: int) -> Tables:
        """The static part of a memory, from the cache."""
        state = self._state_key()
        key = (channels, times, stride, state)
        if key not in self._tables:
            self._tables = {k: v for k, v in self._tables.items() if k[-1] == state}
            layers = [self._layer(index) for index in range(self.config.layers)]
            projections = [self._projection(index) for index in range(self.config.layers)]
            self._tables[key] = Tables(layers, projections, channels, times, stride)
        return self._tables[key]

    def _patches(self, context: Tensor) -> tuple[Tensor, _Instance]:
        """Normalised patches `[B, C, N, P]` in the network's type, and what undoes the scaling."""
        weight = self.embedding.weight
        if context.dim() != 3:
            raise InputError(
                f"context of shape {list(context.shape)}: must be [windows, points, channels]"
            )
        length = context.shape[1]
        if length < self.patch or length % self.patch:
            raise InputError(
                f"context of {length} points: must be a multiple of the model's patch, "
                f"{self.patch} points"
            )
        exact = torch.promote_types(torch.promote_types(context.dtype, weight.dtype), torch.float32)
        series = context.to(exact).transpose(1, 2).contiguous()
        patches = torch.unflatten(series, 2, (-1, self.patch))
        mean = patches.mean(dim=(2, 3), keepdim=True)
        centred = patches - mean
        variance = centred.square().mean(dim=(2, 3), keepdim=True)
        deviation = torch.sqrt(variance + NORMALISATION_EPSILON)
        return (centred / deviation).to(weight.dtype), _Instance(mean, deviation)

    def _forecast(self, hidden: Tensor, instance: _Instance) -> Gaussian:
        """From tokens `[B, C, n, D]` to forecasts `[B, n·P, C]` in the units of the context."""

        def series(patches: Tensor) -> Tensor:
            return patches.flatten(2).transpose(1, 2)

        hidden = self.norm(hidden)
        exact = instance.mean.dtype
        mean = torch.addcmul(instance.mean, self.mean_head(hidden).to(exact), instance.deviation)
        if self.log_variance_head is None:
            return Gaussian(series(mean), None)
        limit = LOG_VARIANCE_LIMIT
        log_variance = self.log_variance_head(hidden).to(exact)
        variance = log_variance.clamp(-limit, limit).exp() * instance.deviation.square()
        return Gaussian(series(mean), series(variance))

    def _layer(self, index: int) -> Layer:
        return cast(Layer, self.layers[index])

    def _geometry(self, patches: Tensor) -> Geometry:
        _, channels, tokens, _ = patches.shape
        head_width = self.config.d_model // self.config.heads
        return geometry_of(channels, tokens, head_width, patches.dtype, patches.device)

    def _prepare(self, patches: Tensor) -> Sequence[_Static]:
        """The static part of each layer for this number of channels and tokens, from the cache."""
        state = self._state_key()
        key = (*patches.shape[1:3], state)
        if key not in self._static:
            # Changed weights make all older entries useless.
            self._static = {k: v for k, v in self._static.items() if k[-1] == state}
            self._static[key] = [self._make_static(i, patches) for i in range(self.config.layers)]
        return self._static[key]

    def _make_static(self, index: int, patches: Tensor) -> _Static:
        layer, geometry = self._layer(index), self._geometry(patches)
        rotation, mask = geometry.rotation, layer.mask(geometry)
        if index == self.config.layers - 1:
            tokens = patches.shape[2]
            last = slice(tokens - 1, None, tokens)
            mask = mask[:, :, last].contiguous()
            rotation = rotation[last].contiguous()
        return _Static(self._projection(index), mask, rotation, geometry.rotation)

    def _projection(self, index: int) -> Projection:
        """A layer's; in the first composed with the embedding: its input is a patch."""
        layer = self._layer(index)
        every = (layer.query, layer.key, layer.value)
        weight, bias = torch.cat([p.weight for p in every]), torch.cat([p.bias for p in every])
        if index == 0:
            dtype = weight.dtype
            embedding, offset = self.embedding.weight.double(), self.embedding.bias.double()
            bias = (weight.double() @ offset + bias).to(dtype)
            weight = (weight.double() @ embedding).to(dtype)
        return Projection(weight, bias)

    def _state_key(self) -> tuple[int, ...]:
        """Changes whenever a weight is written to; where it is replaced, `_forget` is called."""
        if not self._weights:
            self._weights = tuple(self.parameters())
        return tuple(weight._version for weight in self._weights)

    def _forget(self) -> None:
        """Drop all that was derived from the weights."""
        self._weights, self._static, self._tables, self._fingerprint = (), {}, {}, None

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`; not every optimizer's steps show in the counters of its weights."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts come through here."""
        self._forget()
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in `nn.Module`; with `assign`, tensors are replaced."""
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts afresh: the counters by which changes are noticed are not copied."""
        return self.__dict__ | {
            "_weights": (),
            "_static": {},
            "_tables": {},
            "_fingerprint": None,
        }


def _content_hash(model: TimerXL) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([model.config.heads, model.config.activation]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
