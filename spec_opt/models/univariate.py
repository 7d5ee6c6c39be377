"""Causal networks that forecast one channel at a time, with or without a memory.

Timer and TimesFM are such networks. Channels are folded into the batch, a token is one input patch
of one series, and every token may attend to those before it. A forecast patch may be several input
patches long.

Shapes: B windows, L points, C channels, R = B·C series, p points per token, P points per forecast
patch (a multiple of p), w tokens that are read, T tokens of a whole series, D width, H heads.
"""

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spec_opt.errors import ConfigError
from spec_opt.models.device import send
from spec_opt.models.forecaster import Gaussian, check_context, fingerprint_of

LEAST_DEVIATION: Final = 1e-6
"""A series that varies less is not divided by its standard deviation."""
LEAST_VARIANCE: Final = 1e-6
"""Of a forecast, in the units of the context."""


class Scale(NamedTuple):
    """Mean and standard deviation of each token's series as it is scaled: `[R, w or 1, 1]`."""

    mean: Tensor
    deviation: Tensor


class KeyValues:
    """Keys and values of R series in every layer, for up to T tokens each."""

    def __init__(self, network: "CausalNetwork", series: int, tokens: int) -> None:
        slots = (series, tokens, network.heads, network.head_width)
        like = next(network.parameters())
        self._layers = [
            (like.new_zeros(slots), like.new_zeros(slots)) for _ in range(network.layers)
        ]

    def write(self, layer: int, key: Tensor, value: Tensor, at: "Pass") -> tuple[Tensor, Tensor]:
        """Store keys and values `[R, w, H, D/H]`; return all up to the last: `[R, T, H, D/H]`."""
        stored = self._layers[layer]
        for slots, new in zip(stored, (key, value), strict=True):
            slots[at.index] = new
        keys, values = (slots[at.series, : at.length] for slots in stored)
        return keys, values


class Pass:
    """One pass of w new tokens of some series through the layers.

    Args:
        series: int64 [R], which of the series that `store` has; or a slice that takes all.
        positions: int64 `[R or 1, w]`, of the new tokens in their series.
        store: of the tokens before them, and then of these too; None if there are none.
    """

    def __init__(
        self,
        series: Tensor | slice,
        positions: Tensor,
        length: int,
        store: KeyValues | None = None,
    ) -> None:
        self.series, self.positions, self.length = series, positions, length
        self._store = store
        seen = torch.arange(length, device=positions.device) <= positions.unsqueeze(2)
        self._seen = seen.unsqueeze(1)  # [R or 1, 1, w, T]

    @property
    def index(self) -> tuple[Tensor | slice, Tensor]:
        """Where the new tokens are in a tensor [series, T, ...]."""
        if isinstance(self.series, slice):
            if len(self.positions) == 1:
                return self.series, self.positions[0]
            every = torch.arange(len(self.positions), device=self.positions.device)
            return every.unsqueeze(1), self.positions
        return self.series.unsqueeze(1), self.positions

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
    ) -> Tensor:
        """The attention of the last q new tokens to every token up to their own.

        Args:
            query: `[R, q, H, D/H]`.
            key, value: of all new tokens, `[R, w, H, D/H]`.
            scale: of the logits; 1/√(D/H) if None.

        Returns:
            `[R, q, D]`.
        """
        if self._store is not None:
            key, value = self._store.write(layer, key, value, self)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mask = self._seen[:, :, -query.shape[2] :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        return attended.transpose(1, 2).flatten(2)


class Scaling(Protocol):
    """How the tokens of R series are scaled."""

    def of(self, patches: Tensor, at: Pass) -> Scale:
        """The scale of the new tokens `[R, w, p]`, whose predecessors have been asked for."""


class ContextScaling:
    """By mean and unbiased standard deviation of the observed context `[R, L]`."""

    def __init__(self, context: Tensor) -> None:
        deviation, mean = torch.std_mean(context, dim=1, keepdim=True)
        self._scale = Scale(mean.unsqueeze(2), deviation.unsqueeze(2))

    def of(self, patches: Tensor, at: Pass) -> Scale:
        """See `Scaling`."""
        del patches
        return Scale(*(part[at.series] for part in self._scale))


class RunningScaling:
    """Each token by mean and standard deviation of all points up to its own last one.

    Args:
        series, tokens: R and T.
    """

    def __init__(self, series: int, tokens: int, device: torch.device) -> None:
        # Sums over tokens of the mean and of the mean square; slot t has those before token t.
        self._sums = torch.zeros(series, tokens + 1, 2, dtype=torch.float64, device=device)

    def of(self, patches: Tensor, at: Pass) -> Scale:
        """See `Scaling`."""
        exact = patches.double()
        new = torch.stack([exact.mean(dim=2), exact.square().mean(dim=2)], dim=2)
        series, positions = at.index
        sums = self._sums[series, positions[..., :1]] + new.cumsum(dim=1)
        self._sums[series, positions + 1] = sums
        mean, square = (sums / (at.positions + 1).unsqueeze(2)).chunk(2, dim=2)
        deviation = (square - mean.square()).clamp(min=0.0).sqrt()
        return Scale(mean.to(patches.dtype), deviation.to(patches.dtype))


class CausalNetwork(nn.Module, ABC):
    """What differs from one such network to the next."""

    token: int
    """Points per input patch, p."""
    patch: int
    """Points per forecast patch, P."""
    layers: int
    heads: int
    head_width: int
    description: str
    """What it is, in two words."""

    @abstractmethod
    def scaling(self, context: Tensor, tokens: int) -> Scaling:
        """Of series that begin with `context` `[R, L]` and grow to T tokens."""

    @abstractmethod
    def embed(self, patches: Tensor) -> Tensor:
        """Scaled patches `[R, w, p]` to tokens `[R, w, D]`."""

    @abstractmethod
    def layer(self, index: int, hidden: Tensor, at: Pass, asked: int) -> Tensor:
        """One layer, for the last `asked` of the tokens `[R, w, D]`."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Gaussian:
        """The patch after each token, in scaled units: `[R, n, P]`."""

    def forecast(self, patches: Tensor, scaling: Scaling, at: Pass, outputs: int) -> Gaussian:
        """Read patches `[R, w, p]`; forecast after the last token, and after each that lies a
        multiple of P points before it: `[R, outputs, P]`, in the units of the series."""
        scale = scaling.of(patches, at)
        divisor = torch.where(scale.deviation < LEAST_DEVIATION, 1.0, scale.deviation)
        weight = next(self.parameters())
        hidden = self.embed(((patches - scale.mean) / divisor).to(weight.dtype))
        step = self.patch // self.token
        asked = (outputs - 1) * step + 1
        for index in range(self.layers):
            last = index == self.layers - 1
            hidden = self.layer(index, hidden, at, asked if last else hidden.shape[1])
        mean, variance = self.head(hidden[:, ::step])
        if scale.mean.shape[1] > 1:
            scale = Scale(*(part[:, -asked::step] for part in scale))
        mean = torch.addcmul(scale.mean, mean.to(patches.dtype), scale.deviation)
        if variance is not None:
            variance = variance.to(patches.dtype) * scale.deviation.square()
            variance = variance.clamp(min=LEAST_VARIANCE)
        return Gaussian(mean, variance)


class UnivariateForecaster:
    """A causal network that forecasts channel by channel.

    It satisfies `RememberingForecaster` and `PositionForecaster`.
    """

    def __init__(self, network: CausalNetwork) -> None:
        self.network = network.eval()
        self.patch, self.input_patch = network.patch, network.token
        """Points that are forecast at a time, P; and of which a context must be a multiple, p."""
        self.description = network.description
        self.parameters = sum(weight.numel() for weight in network.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and the description, which names all sizes."""
        return fingerprint_of(self.network.state_dict(), self.description)

    def to(self, device: torch.device, dtype: torch.dtype) -> "UnivariateForecaster":
        """This model on another device or in another precision; itself if nothing changes."""
        weight = next(self.network.parameters())
        if (device, dtype) == (weight.device, weight.dtype):
            return self
        return UnivariateForecaster(copy.deepcopy(self.network).to(device, dtype))

    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` after each context `[B, L, C]`, in the units of the context.

        Raises:
            InputError: the context is not three-dimensional, or not whole input patches.
        """
        return self._predict(context, 1)

    def predict_positions(self, context: Tensor, dropout: float = 0.0) -> Gaussian:
        """See `PositionForecaster`: at every P-th point, counted from the end.

        Raises:
            ConfigError: dropout is asked for, which these networks do not have.
        """
        if dropout:
            raise ConfigError(
                f"draft.distillation.teacher_dropout = {dropout:g}: {self.description} has no "
                "dropout; leave it out"
            )
        answer = self._predict(context, context.shape[1] // self.patch)
        return answer.map(lambda part: part.clone())  # training needs no inference tensors

    @torch.inference_mode()
    def _predict(self, context: Tensor, outputs: int) -> Gaussian:
        patches = self._patches(context)
        tokens = patches.shape[1]
        scaling = self.network.scaling(patches.flatten(1), tokens)
        positions = torch.arange(tokens, device=context.device).unsqueeze(0)
        at = Pass(slice(None), positions, tokens)
        answer = self.network.forecast(patches, scaling, at, outputs)
        return answer.map(lambda part: unfolded(part, len(context)).flatten(1, 2))

    @torch.inference_mode()
    def remember(self, context: Tensor, room: int) -> "UnivariateMemory":
        """A memory for series that begin with `context`; see `RememberingForecaster`.

        The statistics of the context scale all that follows, unless the network has running ones.

        Raises:
            InputError: the context is not three-dimensional, or not whole input patches.
        """
        return UnivariateMemory(self.network, self._patches(context), len(context), room)

    def _patches(self, context: Tensor) -> Tensor:
        """The input patches of a context, `[R, w, p]`."""
        token = self.network.token
        check_context(context, token, "input patch")
        exact = torch.promote_types(context.dtype, next(self.network.parameters()).dtype)
        return folded(context.to(torch.promote_types(exact, torch.float32)), token)


class UnivariateMemory:
    """Keys and values of B growing series of C channels; a `Memory`.

    Times count forecast patches. What the context has beyond whole ones is read at once: it comes
    before time 0.

    Args:
        patches: of the observed context, `[B·C, w, p]`.
    """

    def __init__(self, network: CausalNetwork, patches: Tensor, batch: int, room: int) -> None:
        series, tokens, _ = patches.shape
        self._network, self._batch, self._channels = network, batch, series // batch
        self._step = network.patch // network.token
        self._device = patches.device
        most = tokens + room * self._step
        self._scaling = network.scaling(patches.flatten(1), most)
        self._store = KeyValues(network, series, most)
        self._lead = tokens % self._step  # tokens before time 0
        if self._lead:
            positions = torch.arange(self._lead).unsqueeze(0)
            self._read(None, positions, patches[:, : self._lead], 1)

    @torch.inference_mode()
    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """See `Memory.read`."""
        patches = folded(series, self._network.token)
        start = first * self._step + self._lead
        if bool((start == start[0]).all()):
            start = start[:1]
        else:
            start = start.repeat_interleave(self._channels)
        positions = start.unsqueeze(1) + torch.arange(patches.shape[1])
        chosen = None if len(rows) == self._batch else rows
        answer = self._read(chosen, positions, patches, outputs)
        return answer.map(lambda part: unfolded(part, len(rows)))

    def _read(
        self, rows: Tensor | None, positions: Tensor, patches: Tensor, outputs: int
    ) -> Gaussian:
        """Read patches `[R, w, p]` at `positions`, on the CPU, of `rows`, or of all if None."""
        every: Tensor | slice = slice(None)
        if rows is not None:
            members = rows.unsqueeze(1) * self._channels + torch.arange(self._channels)
            every = send(members.flatten(), self._device)
        length = int(positions.max()) + 1
        at = Pass(every, send(positions, self._device), length, self._store)
        return self._network.forecast(patches, self._scaling, at, outputs)


def folded(series: Tensor, token: int) -> Tensor:
    """`[B, w·p, C]` to the patches of each channel: `[B·C, w, p]`."""
    return torch.unflatten(series.transpose(1, 2).flatten(0, 1), 1, (-1, token))


def unfolded(patches: Tensor, batch: int) -> Tensor:
    """`[B·C, n, P]` to `[B, n, P, C]`."""
    return torch.unflatten(patches, 0, (batch, -1)).permute(0, 2, 3, 1)
