"""What a target and a draft have in common: from a context to the distribution of the next patch.

A model is anything that satisfies `Forecaster`; decoding and evaluation know no more than that.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Gaussian(NamedTuple):
    """Independent Gaussians, one per element, in the units of the context.

    The shape is `[B, P, C]` for a next patch; a network's training pass gives `[B, N·P, C]`.
    """

    mean: Tensor
    variance: Tensor | None
    """None for a model that gives a point forecast only."""

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
        """The patch `[B, P, C]` that follows each context `[B, L, C]`; no gradients."""


class Memory(Protocol):
    """What a model has read of B growing series, kept so that no patch need be read twice.

    Times count patches: the observed context has times 0 to N - 1, the first patch after it N.
    """

    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """Read patches on from where a series stands, and forecast what follows the last of them.

        What was read at these times or later is forgotten: it may have been read in vain.

        Args:
            rows: int64 [A], ascending, on the CPU: which of the B series.
            first: int64 [A], on the CPU: the time of the first patch that is read. All that
                lies before must have been read.
            series: [A, w·P, C]: the w patches, in the units of the context.
            outputs: how many of them are to tell what follows, the last of each row; 1 to w.

        Returns:
            The patches after those `outputs`: [A, outputs, P, C].
        """


@runtime_checkable
class RememberingForecaster(Forecaster, Protocol):
    """A model that can also read a series on, without reading again what it has read."""

    def remember(self, context: Tensor, room: int) -> Memory:
        """An empty memory for series that begin with `context` [B, L, C].

        Their statistics are those of the context, whatever is appended to it: up to `room` patches.
        """
