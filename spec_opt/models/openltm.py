"""Timer-XL state dicts of OpenLTM and STRIDE, and ours without metadata: names, sizes, weights."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from spec_opt.errors import CheckpointError
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.layers import Activation
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig
from spec_opt.models.weights import Tensors, filled, name_in_file, shape_of

logger = logging.getLogger(__name__)

LAYER = "blocks.attn_layers.{i}"
NAMES = {
    "embedding": "embedding",
    "layers.{i}.attention_bias": f"{LAYER}.attention.inner_attention.attn_bias.emb.weight",
    "layers.{i}.query": f"{LAYER}.attention.query_projection",
    "layers.{i}.key": f"{LAYER}.attention.key_projection",
    "layers.{i}.value": f"{LAYER}.attention.value_projection",
    "layers.{i}.out": f"{LAYER}.attention.out_projection",
    "layers.{i}.attention_norm": f"{LAYER}.norm1",
    "layers.{i}.expand": f"{LAYER}.conv1",
    "layers.{i}.contract": f"{LAYER}.conv2",
    "layers.{i}.feedforward_norm": f"{LAYER}.norm2",
    "norm": "blocks.norm",
    "mean_head": "head",
}
"""Our names of the network's parts, and theirs."""
STOCHASTIC_HEADS = {"mean_head": "head_mean", "log_variance_head": "head_logvar"}
"""The parts that a stochastic draft has in place of `head`."""
UNUSED = "adapter_to_target."
"""A STRIDE draft may contain this map to the target's width; no output depends on it."""
MARKS: Final = (
    re.compile(r"(?P<prefix>|.*?\.)blocks\.attn_layers\.(?P<layer>\d{1,4})\."),
    re.compile(r"(?P<prefix>|.*?\.)layers\.(?P<layer>\d{1,4})\.attention_bias$"),
)
"""The names of layers by which a Timer-XL is recognised: theirs, and ours."""


def timer_xl_from(tensors: Tensors, activation: Activation) -> FrozenTimerXL:
    """A Timer-XL from a state dict whose names have no prefix.

    Raises:
        InputError: the tensors are not those of a Timer-XL.
    """
    unused = sorted(name for name in tensors if name.startswith(UNUSED))
    if unused:
        logger.info("ignoring tensors that no output depends on: %s", ", ".join(unused))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    theirs, ours = MARKS
    is_theirs = any(theirs.match(name) for name in tensors)
    stochastic = ("head_logvar.weight" if is_theirs else "log_variance_head.weight") in tensors
    names = NAMES | (STOCHASTIC_HEADS if stochastic else {}) if is_theirs else {}
    config = _sizes_of(tensors, theirs if is_theirs else ours, names, activation)
    return timer_xl_of(replace(config, stochastic=stochastic), tensors, names)


def timer_xl_of(
    config: TimerXLConfig, tensors: Tensors, names: Mapping[str, str] | None = None
) -> FrozenTimerXL:
    """The model of this configuration with these weights; see `filled`."""
    if config.layers > len(tensors):
        raise CheckpointError(f"{len(tensors)} tensors cannot make {config.layers} layers")
    with torch.device("meta"):
        network = TimerXL(config)
    return FrozenTimerXL(filled(network, tensors, names))


def _sizes_of(
    tensors: Tensors, mark: re.Pattern[str], names: Mapping[str, str], activation: Activation
) -> TimerXLConfig:
    """The sizes of a network, from the shapes of its tensors."""

    def shape(name: str, expected: str) -> tuple[int, ...]:
        return shape_of(tensors, name_in_file(name, names), expected)

    width, patch = shape("embedding.weight", "[D, P]")
    _, heads = shape("layers.0.attention_bias", "[2, H]")
    feedforward, *_ = shape("layers.0.expand.weight", "[F, D, 1]" if names else "[F, D]")
    return TimerXLConfig(
        patch=patch,
        d_model=width,
        heads=heads,
        feedforward=feedforward,
        # With a gap in the numbering, the last layers come out as missing or surplus.
        layers=len({int(match["layer"]) for match in map(mark.match, tensors) if match}),
        activation=activation,
    )
