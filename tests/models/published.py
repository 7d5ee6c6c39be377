"""Small networks with random weights, as their publishers' files have them."""

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from spec_opt.models.timesfm import TimesFMConfig, module_of

State = dict[str, Tensor]


def timer_state(
    patch: int = 24, width: int = 16, feedforward: int = 24, layers: int = 2, seed: int = 0
) -> State:
    """By the names that thuml/timer-base-84m has."""
    shapes = {
        "model.embed_layer.emb.weight": (width, patch),
        "model.norm.weight": (width,),
        "model.norm.bias": (width,),
        "lm_heads.0.weight": (patch, width),
    }
    for layer in (f"model.layers.{i}" for i in range(layers)):
        for name in "qkv":
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (width, width)
            shapes[f"{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (width, width)
        shapes[f"{layer}.ffn_layer.gate_proj.weight"] = (feedforward, width)
        shapes[f"{layer}.ffn_layer.up_proj.weight"] = (feedforward, width)
        shapes[f"{layer}.ffn_layer.down_proj.weight"] = (width, feedforward)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{layer}.{name}"] = (width,)
    generator = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        values: Tensor = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            return 1.5 * values / math.sqrt(shape[1])
        return 0.3 * values + float("norm" in name and name.endswith("weight"))

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def timer_folder(folder: Path, state: State | None = None, heads: int = 2, **config: Any) -> Path:
    """A folder with model.safetensors and config.json."""
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(state or timer_state(), folder / "model.safetensors")
    document = {"num_attention_heads": heads, "hidden_act": "silu", "rope_theta": 10000} | config
    (folder / "config.json").write_text(json.dumps(document))
    return folder


SMALL_TIMESFM = TimesFMConfig(
    token=8, patch=24, far=48, width=16, heads=2, feedforward=24, layers=2
)


def timesfm_module(config: TimesFMConfig = SMALL_TIMESFM, seed: int = 0) -> Any:
    """The package's own network, with weights so far from zero that each shows in a forecast."""
    module = module_of(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            size = 1.5 / math.sqrt(weight.shape[-1]) if weight.dim() == 2 else 0.3
            if name.startswith("output_projection_point"):
                size *= 0.3  # or else its own forecasts, fed back, grow without bounds
            weight.normal_(generator=generator).mul_(size)
            if name.endswith(".scale"):
                weight.add_(1.0)
    return module
