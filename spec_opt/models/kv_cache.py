"""Keys and values of the tokens that a network has read, so that a growing series is read once.

Where `FrozenTimerXL.predict` encodes a context anew for each patch, a memory appends: each series
keeps the scale of its observed context, tokens of emitted patches join those of the context, and
only new tokens are computed (attention is causal: a token never looks at later ones).

Tokens are ordered by time here, not by channel: all channels of time 0, then of time 1. The slots
of a rejected proposal need no clearing: they lie in the future of every token until they are
overwritten. Shapes: B series, A of them read at once, T times, C channels, H heads, D width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spec_opt.models.device import send
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.layers import Layer, Projection, rotate, rotation_at
from spec_opt.models.timer_xl import Scale, TimerXL


class Tables:
    """Rotations and masks for a number of channels and times; they do not depend on the series.

    Args:
        layers: of the network, first to last.
        channels, times: C and T.
        stride: distance between the positions of neighbouring channels' tokens. Token (c, n) has
            position c·stride + n; in training, the stride is the context's number of tokens.
    """

    def __init__(self, layers: Sequence[Layer], channels: int, times: int, stride: int) -> None:
        self.channels, self.times = channels, times
        weight = layers[0].query.weight
        position = torch.arange(times).unsqueeze(1) + stride * torch.arange(channels)
        rotation = rotation_at(position.flatten(), layers[0].head_width, weight.dtype)
        self._rotation = torch.unflatten(rotation.to(weight.device), 0, (times, channels))
        same = torch.eye(channels, dtype=torch.bool, device=weight.device)
        self._bias = [layer.bias_between(same).detach() for layer in layers]  # [H, C, C] each
        self._times = torch.arange(times, device=weight.device)
        self._shared_masks: dict[tuple[int, int, int, int], Tensor] = {}

    def rotation(self, times: Tensor | slice) -> Tensor:
        """For the tokens of `times`: `[A or 1, w, C, 1, 1, D/2H]`."""
        rotation = self._rotation[times][..., None, None, :]
        return rotation.unsqueeze(0) if isinstance(times, slice) else rotation

    def mask(self, index: int, times: Tensor | slice, length: int) -> Tensor:
        """The mask that layer `index` adds to its scaled logits: `[A or 1, H, w·C, length·C]`.

        Queries are the tokens of `times`, keys those of the first `length` times.
        """
        if not isinstance(times, slice):
            return self._make_mask(index, times, length)
        key = (index, times.start, times.stop, length)
        if key not in self._shared_masks:
            mask = self._make_mask(index, self._times[times].unsqueeze(0), length)
            self._shared_masks[key] = mask
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
    """Keys and values of B series of C channels, for up to T times, in every layer; a `Memory`.

    Args:
        network: in evaluation mode.
        projections: of each layer; the first one's input is a patch.
        tables: for C channels and T times.
        scale: of the B observed contexts.
    """

    def __init__(
        self, network: TimerXL, projections: Sequence[Projection], tables: Tables, scale: Scale
    ) -> None:
        self._network, self._projections = network, projections
        self._tables, self._scale = tables, scale
        self._patch, self._batch = network.config.patch, len(scale.mean)
        weight, layers = network.embedding.weight, network.layers
        self._device = weight.device
        slots = (self._batch, tables.times, tables.channels)
        self._keys, self._values = (
            [weight.new_zeros(*slots, layer.heads, layer.head_width) for layer in layers]
            for _ in range(2)
        )

    @torch.inference_mode()
    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """See `Memory.read`."""
        width = series.shape[1] // self._patch
        length = int(first.max()) + width
        chosen = None if len(rows) == self._batch else send(rows, self._device)
        # Where all rows are at the same time, tables and slots are slices: no copy, no index.
        times: Tensor | slice = slice(length - width, length)
        asked_times: Tensor | slice = slice(length - outputs, length)
        if int(first.min()) + width < length:
            times = send(first.unsqueeze(1) + torch.arange(width), self._device)
            asked_times = times[:, -outputs:]

        scale = self._scale if chosen is None else Scale(*(part[chosen] for part in self._scale))
        tokens = self._normalise(torch.unflatten(series, 1, (width, self._patch)), scale)
        for index, layer in enumerate(self._network.layers):
            asked, here = tokens, times
            if index == len(self._network.layers) - 1 and outputs < width:
                asked, here = tokens[:, -outputs:].contiguous(), asked_times
            query, key, value = self._project(index, tokens, times, asked, here)
            hidden = layer.finish(
                (self._network.embedding(asked) if index == 0 else asked).flatten(1, 2),
                _by_head(query),
                _by_head(self._store(self._keys[index], key, chosen, times, length)),
                _by_head(self._store(self._values[index], value, chosen, times, length)),
                self._tables.mask(index, here, length),
                dropout=0.0,
            )
            tokens = torch.unflatten(hidden, 1, (-1, self._tables.channels))
        answer = self._network.forecast(tokens.transpose(1, 2), scale)
        return answer.map(lambda part: torch.unflatten(part, 1, (outputs, self._patch)))

    def _normalise(self, patches: Tensor, scale: Scale) -> Tensor:
        """Patches `[A, w, P, C]` of some rows -> `[A, w, C, P]` by these rows' scale."""
        mean, deviation = (part.transpose(1, 2) for part in scale)
        # Contiguous: the products that follow are much slower otherwise.
        patches = patches.transpose(2, 3).to(mean.dtype).contiguous()
        return ((patches - mean) / deviation).to(self._network.embedding.weight.dtype)

    def _project(
        self,
        index: int,
        tokens: Tensor,
        times: Tensor | slice,
        asked: Tensor,
        asked_times: Tensor | slice,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `asked`, keys and values of `tokens`: `[A, ·, C, H, D/H]` each."""
        projection, heads = self._projections[index], self._network.config.heads
        rotation = self._tables.rotation(times)
        if asked is tokens:  # one product and one rotation for both
            every = projection.by_head(tokens, slice(3), heads)
            turned = rotate(every[..., :2, :, :], rotation)
            return turned[..., 0, :, :], turned[..., 1, :, :], every[..., 2, :, :]
        query = projection.by_head(asked, slice(0, 1), heads)
        memory = projection.by_head(tokens, slice(1, 3), heads)
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
        """Write `entries` `[A, w, C, H, ·]` at `times`; return `rows` up to `length`.

        `rows` is None for all of them. Returns `[A, length, C, H, ·]`.
        """
        if isinstance(times, slice):
            slots[slice(None) if rows is None else rows, times] = entries
        else:
            every = torch.arange(self._batch, device=self._device) if rows is None else rows
            slots[every.unsqueeze(1), times] = entries
        return slots[:, :length] if rows is None else slots[rows, :length]


def _by_head(tokens: Tensor) -> Tensor:
    """`[A, w, C, H, ·]` -> `[A, H, w·C, ·]`."""
    return tokens.flatten(1, 2).transpose(1, 2)
