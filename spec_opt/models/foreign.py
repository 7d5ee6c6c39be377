"""Timer-XL state dicts of OpenLTM and STRIDE: their names, and their sizes from their shapes."""

import re
from collections.abc import Mapping

from torch import Tensor

from spec_opt.errors import CheckpointError
from spec_opt.models.layers import Activation
from spec_opt.models.timer_xl import TimerXLConfig

NAMES = {
    "embedding": "embedding",
    "layers.{i}.attention_bias": "blocks.attn_layers.{i}.attention.inner_attention.attn_bias.emb",
    "layers.{i}.query": "blocks.attn_layers.{i}.attention.query_projection",
    "layers.{i}.key": "blocks.attn_layers.{i}.attention.key_projection",
    "layers.{i}.value": "blocks.attn_layers.{i}.attention.value_projection",
    "layers.{i}.out": "blocks.attn_layers.{i}.attention.out_projection",
    "layers.{i}.attention_norm": "blocks.attn_layers.{i}.norm1",
    "layers.{i}.expand": "blocks.attn_layers.{i}.conv1",
    "layers.{i}.contract": "blocks.attn_layers.{i}.conv2",
    "layers.{i}.feedforward_norm": "blocks.attn_layers.{i}.norm2",
    "norm": "blocks.norm",
    "mean_head": "head",
}
"""Our names of the network's parts, and those of OpenLTM and STRIDE."""
STOCHASTIC_HEADS = {"mean_head": "head_mean", "log_variance_head": "head_logvar"}
"""What a stochastic draft of STRIDE has in place of `head`."""
UNUSED = "adapter_to_target."
"""A STRIDE draft may carry this map to the target's width; no output depends on it."""
_LAYER = re.compile(r"blocks\.attn_layers\.(\d{1,4})\.")


def without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the prefix that a data-parallel or compiled module puts before all names."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def sizes_of(tensors: Mapping[str, Tensor], activation: Activation) -> TimerXLConfig:
    """The sizes of a foreign network, from the shapes of its tensors.

    Raises:
        CheckpointError: it is no Timer-XL, or a tensor that tells a size is missing or misshapen.
        InputError: sizes that no network can have.
    """
    indices = {int(m[1]) for m in map(_LAYER.match, tensors) if m is not None}
    if not indices:
        names = sorted(tensors)
        some = f"{names[0]}{more_of(names)}" if names else "no tensor"
        raise CheckpointError(f"not a Timer-XL checkpoint: it holds {some}")
    layer = "blocks.attn_layers.0"
    width, patch = _shape(tensors, "embedding.weight", "[D, P]")
    _, heads = _shape(tensors, f"{layer}.attention.inner_attention.attn_bias.emb.weight", "[2, H]")
    feedforward, _, _ = _shape(tensors, f"{layer}.conv1.weight", "[F, D, 1]")
    return TimerXLConfig(
        patch=patch,
        d_model=width,
        heads=heads,
        feedforward=feedforward,
        # A gap in the numbering makes the last layers of this many come out as missing or surplus.
        layers=len(indices),
        activation=activation,
        stochastic="head_logvar.weight" in tensors,
    )


def _shape(tensors: Mapping[str, Tensor], name: str, expected: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"tensor {name} is missing, expected {expected}")
    found = tuple(tensors[name].shape)
    if len(found) != len(expected.split(",")):
        raise CheckpointError(f"tensor {name} has shape {list(found)}, expected {expected}")
    return found


def names_of(config: TimerXLConfig) -> dict[str, str]:
    """Our name of every tensor -> its foreign name."""
    parts = NAMES | (STOCHASTIC_HEADS if config.stochastic else {})
    names: dict[str, str] = {}
    for ours, theirs in parts.items():
        for i in range(config.layers if "{i}" in ours else 1):
            own, foreign = ours.format(i=i), theirs.format(i=i)
            if own.endswith(".attention_bias"):
                names[own] = f"{foreign}.weight"
            else:
                names |= {f"{own}.{kind}": f"{foreign}.{kind}" for kind in ("weight", "bias")}
    return names


def shape_in_file(name: str, shape: tuple[int, ...]) -> list[int]:
    """A foreign feedforward stands in its file as a convolution of width 1."""
    return [*shape, 1] if name.endswith(("conv1.weight", "conv2.weight")) else [*shape]


def more_of(names: list[str]) -> str:
    """What follows the first of some names in a message."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
