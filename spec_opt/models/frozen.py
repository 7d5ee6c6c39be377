"""A Timer-XL whose weights no longer change: all that follows from them is computed once.

Shapes: B windows, L = N·P points, C channels, D width, H heads, S = C·N tokens.
"""

import copy
from dataclasses import asdict
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from spec_opt.models.forecaster import Gaussian, fingerprint_of
from spec_opt.models.kv_cache import Tables, TokenMemory
from spec_opt.models.layers import geometry_of, projection_of, rotate
from spec_opt.models.timer_xl import TimerXL


class _Attention(NamedTuple):
    """Mask and rotations of one layer, for one number of channels and tokens."""

    mask: Tensor
    """`[1, H, Q, S]`, Q the tokens that ask: all S, in the last layer C."""
    query_rotation: Tensor
    key_rotation: Tensor


class FrozenTimerXL:
    """A model that forecasts, made from a trained network; a `RememberingForecaster`.

    Args:
        network: is copied, so it may be trained further.
    """

    kind: ClassVar[str] = "timer-xl"
    """As files of our own name it."""

    def __init__(self, network: TimerXL) -> None:
        self.network = copy.deepcopy(network).eval()
        """The weights. They must not change: what follows is derived from them."""
        self.config = config = self.network.config
        """Sizes of the network."""
        self.patch = config.patch
        """Points per patch, P."""
        self.description = (
            f"Timer-XL {config.d_model}/{config.heads}/{config.feedforward}/{config.layers}"
        )
        self.parameters = sum(weight.numel() for weight in self.network.parameters())
        embedding = self.network.embedding
        self._projections = [
            projection_of(layer, embedding if index == 0 else None)
            for index, layer in enumerate(self.network.layers)
        ]
        self._attention: dict[tuple[int, int], list[_Attention]] = {}
        self._tables: dict[tuple[int, int, int], Tables] = {}

    @property
    def settings(self) -> dict[str, object]:
        """The configuration."""
        return asdict(self.config)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights."""
        return self.network.state_dict()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights (name, type, shape, bytes), the heads and the activation.

        It is the same on every device; another precision changes it.
        """
        settings = [self.config.heads, self.config.activation]
        return fingerprint_of(self.tensors, settings)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "FrozenTimerXL":
        """This model on another device or in another precision; itself if nothing changes."""
        weight = self.network.embedding.weight
        device, dtype = torch.device(device or weight.device), dtype or weight.dtype
        if (device, dtype) == (weight.device, weight.dtype):
            return self
        return FrozenTimerXL(copy.deepcopy(self.network).to(device, dtype))

    @torch.no_grad()
    def predict_positions(self, context: Tensor, dropout: float = 0.0) -> Gaussian:
        """The patch after every token: see `PositionForecaster`."""
        forecast: Gaussian = self.network(context, dropout=dropout)
        return forecast

    @torch.inference_mode()
    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` after each context `[B, L, C]`, in the units of the context.

        Only what that patch depends on is computed: the last layer computes the last token of each
        channel, which may attend to every token, and the first layer's projections are composed
        with the embedding, because a token enters it as P numbers and not as D.

        The result's type is that of the context, or the network's if that is wider, and at least
        float32.

        Raises:
            InputError: the context is not three-dimensional, or not whole patches.
        """
        network, last = self.network, self.config.layers - 1
        patches, scale = network.normalise(context)
        tokens = patches
        for index, attention in enumerate(self._attention_of(patches)):
            layer, projection = network.layers[index], self._projections[index]
            asked = tokens[:, :, -1:].contiguous() if index == last else tokens
            residual = network.embedding(asked) if index == 0 else asked
            query = layer.split(projection.apply(asked, slice(0, 1)).flatten(1, 2))
            memory = projection.apply(tokens, slice(1, 3)).flatten(1, 2)
            key, value = memory.chunk(2, dim=-1)
            hidden = layer.finish(
                residual.flatten(1, 2),
                rotate(query, attention.query_rotation),
                rotate(layer.split(key), attention.key_rotation),
                layer.split(value),
                attention.mask,
                dropout=0.0,
            )
            tokens = torch.unflatten(hidden, 1, asked.shape[1:3])
        return network.forecast(tokens, scale)

    @torch.inference_mode()
    def remember(self, context: Tensor, room: int, stride: int | None = None) -> TokenMemory:
        """An empty memory for series that begin with `context`; see `RememberingForecaster`.

        A token of channel c and time n has position c·`stride` + n. By default the stride is the
        context's number of tokens, so that appended tokens are as far from those before them as in
        training. An appended token then shares its position with the next channel's first one; the
        attention bias tells channels apart.

        Raises:
            InputError: the context is not three-dimensional, or not whole patches.
        """
        patches, scale = self.network.normalise(context)
        _, channels, tokens, _ = patches.shape
        key = (channels, tokens + room, tokens if stride is None else stride)
        if key not in self._tables:
            self._tables[key] = Tables(self.network.layers, *key)
        return TokenMemory(self.network, self._projections, self._tables[key], scale)

    def _attention_of(self, patches: Tensor) -> list[_Attention]:
        """Masks and rotations of all layers for the shape of `patches` `[B, C, N, P]`."""
        _, channels, tokens, _ = patches.shape
        if (channels, tokens) not in self._attention:
            head_width = self.config.d_model // self.config.heads
            geometry = geometry_of(channels, tokens, head_width, patches.dtype, patches.device)
            rotation, masks = geometry.rotation, [la.mask(geometry) for la in self.network.layers]
            every = [_Attention(mask, rotation, rotation) for mask in masks]
            last = slice(tokens - 1, None, tokens)  # the last token of each channel
            every[-1] = _Attention(
                masks[-1][:, :, last].contiguous(), rotation[last].contiguous(), rotation
            )
            self._attention[channels, tokens] = every
        return self._attention[channels, tokens]
