"""What decoding knows of a model: from a context to the distribution of the next patch.

A target or a draft is anything that satisfies `Forecaster`; nothing here is particular to one kind
of network.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Independent Gaussians, one per element, in the units of the context.

    The shape is `[B, P, C]` for a next patch; a network's training pass gives `[B, N·P, C]`.
    """

    mean: Tensor
    variance: Tensor | None
    """None for a model that gives point forecasts only."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussian":
        """The same change of shape, or choice of elements, for mean and variance."""
        variance = None if self.variance is None else function(self.variance)
        return Gaussian(function(self.mean), variance)


class Forecaster(Protocol):
    """A model that forecasts the patch after a context."""

    @property
    def patch(self) -> int:
        """Points per patch, P."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the forecasts depend on: equal hashes, equal forecasts."""

    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` that follows each context `[B, L, C]`, without gradients."""


class MovableForecaster(Forecaster, Protocol):
    """A forecaster that can be put on a device, as evaluation does."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Forecaster:
        """This model on a device, computing in a precision; this one stays as it is."""


class Memory(Protocol):
    """The patches of B growing series that a model has read, so that none is read twice.

    Times count patches: the observed context has times 0 to N - 1, the first patch after it N.
    """

    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """Read the next patches of some series, and forecast what follows the last of them.

        Whatever was read at these times or later is replaced: a rejected proposal, for example.

        Args:
            rows: int64 [A], ascending, on the CPU: which of the B series.
            first: int64 [A], on the CPU: the time of the first patch that is read. All patches
                before it must have been read.
            series: [A, w·P, C]: the w patches, in the units of the context.
            outputs: after how many of these patches to forecast, the last of each row; 1 to w.

        Returns:
            The patches after those `outputs`: [A, outputs, P, C].
        """


@runtime_checkable
class RememberingForecaster(Forecaster, Protocol):
    """A model that can also continue a series without reading it again."""

    def remember(self, context: Tensor, room: int) -> Memory:
        """An empty memory for series that begin with `context` [B, L, C].

        Their scale stays that of the context, whatever is appended: up to `room` patches.
        """
