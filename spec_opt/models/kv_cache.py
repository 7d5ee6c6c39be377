"""Keys and values of what a network has read, so that a growing series is read once.

Where `TimerXL.predict` encodes a context anew for each patch, a memory appends: statistics are
those of the observed context, tokens of emitted patches join those of the context, and only the
new tokens are computed (causal attention: a token never looks at later ones).

Tokens stand by time here, not by channel: all channels of time 0, then of time 1. A slot that was
filled in vain, by a proposal that was rejected, needs no clearing: it lies in the future of every
token until it is written again. Shapes: B series, A of them read at once, T times, C channels, H
heads, D width.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spec_opt.models.device import send
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.layers import Layer, rotate, rotation_at


class Projection(NamedTuple):
    """Weight `[3D, in]` and bias by which a layer makes queries, keys and values, stacked."""

    weight: Tensor
    bias: Tensor

    def apply(self, tokens: Tensor, parts: slice) -> Tensor:
        """Of the three, `parts`, for `tokens` `[..., in]`: `[..., parts·D]`."""
        width = len(self.weight) // 3
        rows = slice((parts.start or 0) * width, (parts.stop or 3) * width)
        return F.linear(tokens, self.weight[rows], self.bias[rows])

    def some(self, tokens: Tensor, parts: slice, heads: int) -> Tensor:
        """The same by head: `[..., parts, H, D/H]`."""
        width = len(self.weight) // 3
        return torch.unflatten(self.apply(tokens, parts), -1, (-1, heads, width // heads))


class Tables:
    """What does not depend on the series: made once for a number of channels, tokens and times.

    Args:
        layers: of the network, first to last.
        projections: of each; the first one's input is a patch.
        channels, times: C and T.
        stride: how far apart the positions of neighbouring channels' tokens are. Token (c, n) has
            position c·stride + n; the network was trained with the context's number of tokens.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        projections: Sequence[Projection],
        channels: int,
        times: int,
        stride: int,
    ) -> None:
        self.layers, self.projections = layers, projections
        weight = layers[0].query.weight
        head_width = layers[0].query.out_features // layers[0].heads
        position = torch.arange(times).unsqueeze(1) + stride * torch.arange(channels)
        rotation = rotation_at(position.flatten(), head_width, weight.dtype).to(weight.device)
        self._rotation = torch.unflatten(rotation, 0, (times, channels))
        same = torch.eye(channels, dtype=torch.bool, device=weight.device)
        self._bias = [layer.bias_between(same).detach() for layer in layers]  # [H, C, C] each
        self._times = torch.arange(times, device=weight.device)
        self._shared_masks: dict[tuple[int, int, int, int], Tensor] = {}

    def rotation(self, times: Tensor | slice) -> Tensor:
        """For the tokens of `times`: `[A or 1, w, C, 1, 1, D/2H]`."""
        rotation = self._rotation[times][..., None, None, :]
        return rotation.unsqueeze(0) if isinstance(times, slice) else rotation

    def mask(self, index: int, times: Tensor | slice, length: int) -> Tensor:
        """What layer `index` adds to the scaled logits: [A or 1, H, w·C, length·C].

        Queries are the tokens of `times`, keys those of the first `length` times.
        """
        if not isinstance(times, slice):
            return self._make_mask(index, times, length)
        key = (index, times.start, times.stop, length)
        if key not in self._shared_masks:
            self._shared_masks[key] = self._make_mask(
                index, self._times[times].unsqueeze(0), length
            )
        return self._shared_masks[key]

    def _make_mask(self, index: int, times: Tensor, length: int) -> Tensor:
        hidden = self._times[:length] > times.unsqueeze(2)  # [A, w, length]
        bias = self._bias[index]
        rows, width = times.shape
        heads, channels, _ = bias.shape
        mask = bias[None, :, None, :, None, :].expand(rows, -1, width, -1, length, -1)
        mask = mask.masked_fill(hidden[:, None, :, None, :, None], -math.inf)
        return mask.reshape(rows, heads, width * channels, length * channels)


class TokenMemory:
    """Keys and values of B series of C channels, for up to T times, in every layer.

    Args:
        tables: for C channels and at least T times.
        normalise: raw patches `[A, w, P, C]` of given rows -> `[A, w, C, P]`, as the network
            takes them, by the statistics of those rows' contexts.
        embed: `[..., P]` -> `[..., D]`.
        forecast: what the last layer says at `[A, C, outputs, D]`, back in the units of the
            context: `[A, outputs·P, C]`.
        batch, channels, times: B, C, T.
    """

    def __init__(
        self,
        tables: Tables,
        normalise: Callable[[Tensor, Tensor | None], Tensor],
        embed: Callable[[Tensor], Tensor],
        forecast: Callable[[Tensor, Tensor | None], Gaussian],
        *,
        patch: int,
        batch: int,
        channels: int,
        times: int,
    ) -> None:
        self._tables, self._normalise = tables, normalise
        self._embed, self._forecast = embed, forecast
        self._patch, self._batch, self._channels = patch, batch, channels
        weight = tables.layers[0].query.weight
        self._device = weight.device
        self._keys, self._values = (
            [weight.new_zeros(batch, times, channels, *_heads(layer)) for layer in tables.layers]
            for _ in range(2)
        )

    @torch.inference_mode()
    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """See `Memory.read`."""
        width = series.shape[1] // self._patch
        length = int(first.max()) + width
        chosen = None if len(rows) == self._batch else send(rows, self._device)
        # Where all stand at one time, tables and slots are slices: no copy, no index.
        level = int(first.min()) + width == length
        times: Tensor | slice = slice(length - width, length)
        if not level:
            times = send(first.unsqueeze(1) + torch.arange(width), self._device)
        asked_times: Tensor | slice = slice(length - outputs, length)
        if isinstance(times, Tensor):
            asked_times = times[:, -outputs:]

        tokens = self._normalise(torch.unflatten(series, 1, (width, self._patch)), chosen)
        for index, layer in enumerate(self._tables.layers):
            asked, here = tokens, times
            if index == len(self._tables.layers) - 1 and outputs < width:
                asked, here = tokens[:, -outputs:].contiguous(), asked_times
            query, key, value = self._project(index, tokens, times, asked, here)
            hidden = layer.finish(
                (self._embed(asked) if index == 0 else asked).flatten(1, 2),
                _by_head(query),
                _by_head(self._store(self._keys[index], key, chosen, times, length)),
                _by_head(self._store(self._values[index], value, chosen, times, length)),
                self._tables.mask(index, here, length),
                dropout=0.0,
            )
            tokens = torch.unflatten(hidden, 1, (-1, self._channels))
        answer = self._forecast(tokens.transpose(1, 2), chosen)
        return Gaussian(
            self._patches(answer.mean),
            None if answer.variance is None else self._patches(answer.variance),
        )

    def _project(
        self,
        index: int,
        tokens: Tensor,
        times: Tensor | slice,
        asked: Tensor,
        asked_times: Tensor | slice,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `asked`, keys and values of `tokens`: `[A, ·, C, H, D/H]` each."""
        projection, heads = self._tables.projections[index], self._tables.layers[index].heads
        rotation = self._tables.rotation(times)
        if asked is tokens:  # one product, and one turn, for both
            every = projection.some(tokens, slice(3), heads)
            turned = rotate(every[..., :2, :, :], rotation)
            return turned[..., 0, :, :], turned[..., 1, :, :], every[..., 2, :, :]
        query = projection.some(asked, slice(0, 1), heads)
        memory = projection.some(tokens, slice(1, 3), heads)
        turned = rotate(query, self._tables.rotation(asked_times))
        key = rotate(memory[..., :1, :, :], rotation)
        return turned.squeeze(-3), key.squeeze(-3), memory[..., 1, :, :]

    def _store(
        self,
        slots: Tensor,
        entries: Tensor,
        rows: Tensor | None,
        times: Tensor | slice,
        length: int,
    ) -> Tensor:
        """Put `entries` `[A, w, C, H, ·]` at `times`, and give all of `rows` before `length`.

        `rows` None stands for all of them. Returns `[A, length, C, H, ·]`.
        """
        if isinstance(times, slice):
            slots[slice(None) if rows is None else rows, times] = entries
        else:
            every = torch.arange(self._batch, device=self._device) if rows is None else rows
            slots[every.unsqueeze(1), times] = entries
        return slots[:, :length] if rows is None else slots[rows, :length]

    def _patches(self, series: Tensor) -> Tensor:
        return torch.unflatten(series, 1, (-1, self._patch))


def _heads(layer: Layer) -> tuple[int, int]:
    """H and D/H."""
    return layer.heads, layer.query.out_features // layer.heads


def _by_head(tokens: Tensor) -> Tensor:
    """`[A, w, C, H, ·]` -> `[A, H, w·C, ·]`."""
    return tokens.flatten(1, 2).transpose(1, 2)
