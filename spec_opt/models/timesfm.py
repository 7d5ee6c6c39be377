"""TimesFM 2.5 (Das et al. 2024, "A decoder-only foundation model for time-series forecasting",
arXiv:2310.10688), with the network classes of the package `timesfm`.

It reads input patches of 32 points and forecasts 128 at a time, as quantiles. Each input patch is
scaled by running statistics, so a growing context is what its own `decode` has: to verify k patches
in one cached pass gives its native forecast.

Shapes: R series, w tokens, p points per token, P points per forecast patch, D width, H heads, F
width of the feedforward. Each point has 10 outputs: a mean and the deciles.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from spec_opt.errors import CheckpointError
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.univariate import (
    CausalNetwork,
    Pass,
    RunningScaling,
    Scaling,
    UnivariateForecaster,
)
from spec_opt.models.weights import Tensors, filled, shape_of

MARKS: Final = (
    re.compile(r"(?P<prefix>|.*?\.)stacked_xf\.(?P<layer>\d{1,4})\.attn\.qkv_proj\.weight$"),
)
"""The names of layers by which a TimesFM 2.5 is recognised."""
OUTPUTS: Final = 10
LOW, MEDIAN, HIGH = 1, 5, 9
"""The outputs that are the quantiles of 10, 50 and 90 %."""
GAUSSIAN_RANGE: Final = 2.563
"""Between these quantiles of a Gaussian, in standard deviations."""


class TimesFM(CausalNetwork):
    """The package's network, with our pass over its layers.

    The package's own pass cannot read series at different times together, and computes what
    decoding does not need: all quantiles of 1024 points.

    Args:
        module: a `TimesFM_2p5_200M_torch_module`.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.token, self.patch = module.p, module.o
        self.layers, self.heads, self.head_width = module.x, module.h, module.hd
        feedforward = module.config.stacked_transformers.transformer.hidden_dims
        self.description = f"TimesFM 2.5 {module.md}/{self.heads}/{feedforward}/{self.layers}"

    def scaling(self, context: Tensor, tokens: int) -> Scaling:
        """By running statistics."""
        return RunningScaling(len(context), tokens, context.device)

    def embed(self, patches: Tensor) -> Tensor:
        """See `CausalNetwork`."""
        # The second half says which points are missing.
        known = torch.cat([patches, torch.zeros_like(patches)], dim=2)
        tokens: Tensor = self.module.tokenizer(known)
        return tokens

    def layer(self, index: int, hidden: Tensor, at: Pass, asked: int) -> Tensor:
        """See `CausalNetwork`."""
        block = self.module.stacked_xf[index]
        attention, residual = block.attn, hidden[:, -asked:]
        projected = attention.qkv_proj(block.pre_attn_ln(hidden))
        query, key, value = torch.unflatten(projected, 2, (3, self.heads, -1)).unbind(dim=2)
        turn = attention.rotary_position_embedding
        query = attention.query_ln(turn(query[:, -asked:], at.positions[:, -asked:]))
        query = attention.per_dim_scale(query).to(value.dtype)
        key = attention.key_ln(turn(key, at.positions)).to(value.dtype)
        attended = attention.out(at.attend(index, query, key, value, scale=1.0))
        hidden = residual + block.post_attn_ln(attended)
        expanded = block.activation(block.ff0(block.pre_ff_ln(hidden)))
        output: Tensor = hidden + block.post_ff_ln(block.ff1(expanded))
        return output

    def head(self, hidden: Tensor) -> Gaussian:
        """The median, and the variance of a Gaussian with the same quantiles of 10 and 90 %."""
        outputs = self.module.output_projection_point(hidden)
        quantiles = torch.unflatten(outputs, 2, (self.patch, OUTPUTS))
        deviation = (quantiles[..., HIGH] - quantiles[..., LOW]) / GAUSSIAN_RANGE
        return Gaussian(quantiles[..., MEDIAN], deviation.square())


@dataclass(frozen=True)
class TimesFMConfig:
    """Sizes of a network; by default the published one's."""

    token: int = 32
    patch: int = 128
    far: int = 1024
    """Points of a second head for quantiles, which decoding does not use."""
    width: int = 1280
    heads: int = 16
    feedforward: int = 1280
    layers: int = 20


def load_timesfm(tensors: Tensors) -> UnivariateForecaster:
    """A TimesFM 2.5 from a state dict whose names have no prefix; sizes follow from its tensors.

    Raises:
        CheckpointError: the tensors are not those of a TimesFM 2.5, or the package is missing.
    """
    with torch.device("meta"):
        module = module_of(sizes_of(tensors))
    return UnivariateForecaster(TimesFM(filled(module, tensors)))


def sizes_of(tensors: Tensors) -> TimesFMConfig:
    """The sizes of a network, from the shapes of its tensors.

    Raises:
        CheckpointError: a tensor is missing, or the sizes do not fit together.
    """
    _, inputs = shape_of(tensors, "tokenizer.hidden_layer.weight", "[D, 2p]")
    width, _ = shape_of(tensors, "tokenizer.output_layer.weight", "[D, D]")
    (head_width,) = shape_of(tensors, "stacked_xf.0.attn.query_ln.scale", "[D/H]")
    feedforward, _ = shape_of(tensors, "stacked_xf.0.ff0.weight", "[F, D]")
    points, _ = shape_of(tensors, "output_projection_point.output_layer.weight", "[10P, D]")
    far, _ = shape_of(tensors, "output_projection_quantiles.output_layer.weight", "[n, D]")
    token, patch = inputs // 2, points // OUTPUTS
    if not token or not patch or not head_width or patch % token or width % head_width:
        raise CheckpointError(
            f"input patches of {token} points, forecasts of {patch}, a width of {width} and heads "
            f"of {head_width} do not fit together"
        )
    layers = len({int(match["layer"]) for match in map(MARKS[0].match, tensors) if match})
    heads = width // head_width
    return TimesFMConfig(token, patch, far // OUTPUTS, width, heads, feedforward, layers)


def module_of(config: TimesFMConfig) -> Any:
    """The package's network with these sizes.

    Raises:
        CheckpointError: the package is missing.
    """
    try:
        from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module as Module
    except ImportError as error:
        raise CheckpointError(
            "a TimesFM 2.5, which needs the package timesfm: pip install 'timesfm>=2.0'"
        ) from error

    def block(published: Any, inputs: int, outputs: int) -> Any:
        sizes = {"input_dims": inputs, "hidden_dims": config.width, "output_dims": outputs}
        return replace(published, **sizes)

    whole, width = Module.config, config.width
    stack = whole.stacked_transformers
    transformer = replace(
        stack.transformer,
        model_dims=width,
        hidden_dims=config.feedforward,
        num_heads=config.heads,
    )
    sized = replace(
        whole,
        input_patch_len=config.token,
        output_patch_len=config.patch,
        output_quantile_len=config.far,
        tokenizer=block(whole.tokenizer, 2 * config.token, width),
        stacked_transformers=replace(stack, num_layers=config.layers, transformer=transformer),
        output_projection_point=block(whole.output_projection_point, width, OUTPUTS * config.patch),
        output_projection_quantiles=block(
            whole.output_projection_quantiles, width, OUTPUTS * config.far
        ),
    )
    # The package's class takes its sizes from this attribute.
    return type(Module.__name__, (Module,), {"config": sized})()
