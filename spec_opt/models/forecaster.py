"""What a target and a draft have in common: from a context to the distribution of the next patch.

A model is anything that satisfies `Forecaster`; decoding and evaluation know no more than that.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class Gaussian(NamedTuple):
    """Independent Gaussians, one per element, in the units of the context.

    The shape is `[B, P, C]` for a next patch; a network's training pass gives `[B, N·P, C]`.
    """

    mean: Tensor
    variance: Tensor | None
    """None for a model that gives a point forecast only."""


class Forecaster(Protocol):
    """A model that forecasts the patch after a context."""

    @property
    def patch(self) -> int:
        """Points per patch, P."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the forecasts depend on: equal hashes, equal forecasts."""

    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` that follows each context `[B, L, C]`; no gradients."""
