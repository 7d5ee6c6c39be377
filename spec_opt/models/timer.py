"""Timer (Liu et al. 2024, "Timer: Generative Pre-trained Transformers Are Large Time Series
Models", arXiv:2402.02368), in the form that `thuml/timer-base-84m` has.

A causal Transformer over the patches of one channel: rotary embedding over the whole head, biases
in queries, keys and values only, a gated feedforward, norms after each residual. It forecasts means
only. Not the same network as Timer-XL of OpenLTM or STRIDE.

Shapes: R series, w tokens, p = P points per patch, D width, H heads.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from spec_opt.errors import CheckpointError
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.univariate import (
    CausalNetwork,
    ContextScaling,
    Pass,
    Scaling,
    UnivariateForecaster,
)
from spec_opt.models.weights import Tensors, filled, name_in_file, shape_of

LAYER = "model.layers.{i}"
NAMES: Final = {
    "embedding": "model.embed_layer.emb",
    "blocks.{i}.query": f"{LAYER}.self_attn.q_proj",
    "blocks.{i}.key": f"{LAYER}.self_attn.k_proj",
    "blocks.{i}.value": f"{LAYER}.self_attn.v_proj",
    "blocks.{i}.out": f"{LAYER}.self_attn.o_proj",
    "blocks.{i}.attention_norm": f"{LAYER}.norm1",
    "blocks.{i}.gate": f"{LAYER}.ffn_layer.gate_proj",
    "blocks.{i}.expand": f"{LAYER}.ffn_layer.up_proj",
    "blocks.{i}.contract": f"{LAYER}.ffn_layer.down_proj",
    "blocks.{i}.feedforward_norm": f"{LAYER}.norm2",
    "norm": "model.norm",
    "output": "lm_heads.0",
}
"""Our names of the network's parts, and those of the checkpoint."""
MARKS: Final = (
    re.compile(
        r"(?P<prefix>|.*?\.)model\.layers\.(?P<layer>\d{1,4})\.ffn_layer\.gate_proj\.weight$"
    ),
)
"""The names of layers by which a Timer is recognised."""
PUBLISHED_WIDTH: Final = 1024
PUBLISHED_HEADS: Final = 8
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class TimerConfig:
    """Sizes of a network."""

    patch: int
    width: int
    heads: int
    feedforward: int
    layers: int
    rotary_base: float = 10_000.0


class Block(nn.Module):
    """Self-attention and a gated feedforward, each followed by residual and norm."""

    def __init__(self, config: TimerConfig) -> None:
        super().__init__()
        width = config.width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.attention_norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, config.feedforward, bias=False)
        self.expand = nn.Linear(width, config.feedforward, bias=False)
        self.contract = nn.Linear(config.feedforward, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width)

    def feedforward(self, hidden: Tensor) -> Tensor:
        """`[R, w, D]` -> `[R, w, D]`."""
        expanded = F.silu(self.gate(hidden)) * self.expand(hidden)
        output: Tensor = self.feedforward_norm(hidden + self.contract(expanded))
        return output


class Timer(CausalNetwork):
    """The network."""

    def __init__(self, config: TimerConfig) -> None:
        super().__init__()
        self.config = config
        self.token = self.patch = config.patch
        self.layers, self.heads = config.layers, config.heads
        self.head_width = config.width // config.heads
        self.description = f"Timer {config.width}/{config.heads}/{config.feedforward}/{self.layers}"
        if config.rotary_base != TimerConfig.rotary_base:
            self.description += f" (rotary base {config.rotary_base:g})"
        self.embedding = nn.Linear(config.patch, config.width, bias=False)
        blocks = (Block(config) for _ in range(config.layers))
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, config.patch, bias=False)

    def scaling(self, context: Tensor, tokens: int) -> Scaling:
        """By the statistics of the context."""
        del tokens
        return ContextScaling(context)

    def embed(self, patches: Tensor) -> Tensor:
        """See `CausalNetwork`."""
        tokens: Tensor = self.embedding(patches)
        return tokens

    def layer(self, index: int, hidden: Tensor, at: Pass, asked: int) -> Tensor:
        """See `CausalNetwork`."""
        block, residual = self.blocks[index], hidden[:, -asked:]
        query = self._rotated(block.query(residual), at.positions[:, -asked:])
        key = self._rotated(block.key(hidden), at.positions)
        attended = block.out(at.attend(index, query, key, self._by_head(block.value(hidden))))
        return block.feedforward(block.attention_norm(residual + attended))

    def head(self, hidden: Tensor) -> Gaussian:
        """See `CausalNetwork`."""
        return Gaussian(self.output(self.norm(hidden)), None)

    def _by_head(self, projected: Tensor) -> Tensor:
        return torch.unflatten(projected, 2, (self.heads, -1))

    def _rotated(self, projected: Tensor, positions: Tensor) -> Tensor:
        """`[R, w, D]` by head, rotated: element j of a head is paired with element j + D/2H."""
        half = self.head_width // 2
        exponent = torch.arange(half, dtype=torch.float64, device=projected.device) / half
        angle = positions.unsqueeze(2) * self.config.rotary_base**-exponent  # [R or 1, w, D/2H]
        turn = torch.promote_types(projected.dtype, torch.float32)
        cos, sin = (part.to(turn).unsqueeze(2) for part in (angle.cos(), angle.sin()))
        first, second = self._by_head(projected).to(turn).chunk(2, dim=3)
        rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3)
        return rotated.to(projected.dtype)


# --- loading --------------------------------------------------------------------------------------


class _Config(BaseModel):
    """What is read of a published config.json: what the tensors do not show."""

    num_attention_heads: PositiveInt
    rope_theta: PositiveFloat = 10_000.0
    hidden_act: Literal["silu"] = "silu"


def load_timer(tensors: Tensors, path: Path) -> UnivariateForecaster:
    """A Timer from a state dict whose names have no prefix.

    The number of heads is in the config.json beside the file. Without one, it is that of the
    published model, if the width is.

    Raises:
        CheckpointError: the tensors are not those of a Timer, or config.json is missing or wrong.
    """
    width, patch = shape_of(tensors, name_in_file("embedding.weight", NAMES), "[D, P]")
    feedforward, _ = shape_of(tensors, name_in_file("blocks.0.gate.weight", NAMES), "[F, D]")
    layers = len({int(match["layer"]) for match in map(MARKS[0].match, tensors) if match})
    found = _config(path, width)
    heads = found.num_attention_heads
    if width % (2 * heads):
        raise CheckpointError(
            f"{CONFIG}: num_attention_heads = {heads}: a width of {width} does not divide into "
            "so many heads of even width"
        )
    config = TimerConfig(patch, width, heads, feedforward, layers, found.rope_theta)
    with torch.device("meta"):
        network = Timer(config)
    return UnivariateForecaster(filled(network, tensors, NAMES))


def _config(path: Path, width: int) -> _Config:
    file = path.with_name(CONFIG)
    try:
        return _Config.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        if width == PUBLISHED_WIDTH:
            return _Config(num_attention_heads=PUBLISHED_HEADS)
        raise CheckpointError(
            f"a Timer of width {width} needs its {CONFIG} in the same folder: "
            "the tensors do not show the number of heads"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{CONFIG}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"{CONFIG}: {where}: {first['msg']}") from error
