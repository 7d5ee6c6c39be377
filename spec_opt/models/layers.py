"""One layer of Timer-XL: attention over variables and time, and a feedforward.

Tokens of C channels with N patches each are ordered channel by channel: token (c, n) has index
c·N + n. Shapes: B windows, S = C·N tokens, D width, H heads.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "gelu"]

ROTARY_BASE = 10_000.0


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (a, b) of `[B, H, S, D/H]` by its angle (Su et al. 2021, RoFormer, eq. 34).

    `rotation` is `[S, D/2H]`, complex: as (a + bi)·e^(iθ) this is one pass over the data.
    """
    exact = heads.to(rotation.real.dtype)
    pairs = torch.view_as_complex(torch.unflatten(exact, -1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)


class Geometry(NamedTuple):
    """Rotation and masks for a number of channels and tokens."""

    rotation: Tensor
    """`[S, D/2H]`, complex; see `rotate`."""
    same_variable: Tensor
    """`[S, S]`, true where query and key belong to the same variable."""
    hidden: Tensor
    """`[S, S]`, true where the key lies in the query's future."""


@lru_cache(maxsize=16)
def geometry_of(
    channels: int, tokens: int, head_width: int, dtype: torch.dtype, device: torch.device
) -> Geometry:
    # Normal tensors, even when first needed in inference mode, because training uses them too.
    with torch.inference_mode(False), torch.no_grad():
        variable = torch.arange(channels).repeat_interleave(tokens)
        time = torch.arange(tokens).repeat(channels)
        return Geometry(
            rotation_at(torch.arange(channels * tokens), head_width, dtype).to(device),
            (variable[:, None] == variable).to(device),
            (time[:, None] < time).to(device),
        )


def rotation_at(positions: Tensor, head_width: int, dtype: torch.dtype) -> Tensor:
    """e^(iθ) for integer `positions` [S], `[S, D/2H]`; the second half of a head is not rotated.

    The position of a token is its index in the whole sequence, which runs on from one variable to
    the next: the order of channels matters.
    """
    width = head_width // 2
    frequency = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    frequency = torch.cat([frequency, torch.zeros_like(frequency)])
    angle = torch.outer(positions.to(torch.float64), frequency)
    rotation = torch.polar(torch.ones_like(angle), angle)
    return rotation.to(torch.complex128 if dtype == torch.float64 else torch.complex64)


class Layer(nn.Module):
    """Self-attention and feedforward, each followed by residual and norm (post-norm)."""

    def __init__(self, width: int, heads: int, feedforward: int, activation: Activation) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        # In place, because nothing else reads its input: this saves the largest tensor of all.
        self.activation = torch.relu_ if activation == "relu" else F.gelu
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_bias = nn.Parameter(torch.randn(2, heads))
        """Added to logits between different variables (row 0) and within one (row 1)."""
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, geometry: Geometry, dropout: float) -> Tensor:
        """`[B, S, D]` -> `[B, S, D]`, every token."""
        query = rotate(self.split(self.query(hidden)), geometry.rotation)
        key = rotate(self.split(self.key(hidden)), geometry.rotation)
        value = self.split(self.value(hidden))
        return self.finish(hidden, query, key, value, self.mask(geometry), dropout)

    def split(self, projected: Tensor) -> Tensor:
        """`[B, S, D]` -> `[B, H, S, D/H]`."""
        return torch.unflatten(projected, -1, (self.heads, -1)).transpose(1, 2)

    def mask(self, geometry: Geometry) -> Tensor:
        """The mask that is added to the scaled logits, `[1, H, S, S]`.

        The network's logits are (q·k + bias) / √(D/H): the bias is scaled too.
        """
        bias = self.bias_between(geometry.same_variable)
        return bias.masked_fill(geometry.hidden, -math.inf).unsqueeze(0)

    def bias_between(self, same_variable: Tensor) -> Tensor:
        """The attention bias to add to the scaled logits, for pairs `[n, m]`: `[H, n, m]`."""
        between, within = self.attention_bias[:, :, None, None] / math.sqrt(self.head_width)
        return torch.where(same_variable, within, between)

    def finish(
        self,
        residual: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        dropout: float,
    ) -> Tensor:
        """The layer after its projections, for the tokens of `query` (`[B, H, Q, D/H]`).

        `residual` is the layer's input at these tokens, `[B, Q, D]`; the result has this shape.
        """
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        attended = self.out(attended.transpose(1, 2).flatten(2))
        hidden: Tensor = self.attention_norm(residual + _drop(attended, dropout))
        expanded = _drop(self.activation(self.expand(hidden)), dropout)
        output: Tensor = self.feedforward_norm(hidden + _drop(self.contract(expanded), dropout))
        return output


class Projection(NamedTuple):
    """Weight `[3D, in]` and bias `[3D]` of a layer's queries, keys and values, stacked."""

    weight: Tensor
    bias: Tensor

    def apply(self, tokens: Tensor, parts: slice) -> Tensor:
        """Those of the three in `parts`, for `tokens` `[..., in]`: `[..., parts·D]`."""
        width = len(self.weight) // 3
        rows = slice((parts.start or 0) * width, (parts.stop or 3) * width)
        return F.linear(tokens, self.weight[rows], self.bias[rows])

    def by_head(self, tokens: Tensor, parts: slice, heads: int) -> Tensor:
        """The same by head: `[..., parts, H, D/H]`."""
        width = len(self.weight) // 3
        return torch.unflatten(self.apply(tokens, parts), -1, (-1, heads, width // heads))


@torch.no_grad()
def projection_of(layer: Layer, embedding: nn.Linear | None) -> Projection:
    """A layer's projection; with `embedding`, composed with it, so that its input is a patch."""
    every = (layer.query, layer.key, layer.value)
    weight, bias = torch.cat([p.weight for p in every]), torch.cat([p.bias for p in every])
    if embedding is None:
        return Projection(weight, bias)
    exact = weight.double()
    bias = (exact @ embedding.bias.double() + bias).to(bias.dtype)
    return Projection((exact @ embedding.weight.double()).to(weight.dtype), bias)


def _drop(values: Tensor, rate: float) -> Tensor:
    return F.dropout(values, rate) if rate else values
