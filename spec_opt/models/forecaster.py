"""What spec-opt knows of a model: from a context to the distribution of the next patch.

A target or a draft is anything that satisfies `MovableForecaster`; nothing here is particular to
one kind of network. docs/your_model.md shows how to bring one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from spec_opt.errors import InputError


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
        """Points that are forecast at a time, P. How it cuts the context is the model's affair."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that the forecasts depend on: equal hashes, equal forecasts."""

    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` that follows each context `[B, L, C]`, without gradients.

        A row's answer must not depend on the other rows.

        Raises:
            InputError: the model cannot read a context of this length or this many channels.
        """


class MovableForecaster(Forecaster, Protocol):
    """A forecaster that can be put on a device, as a study's target and draft must be."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "MovableForecaster":
        """This model on a device, computing in a precision; this one stays as it is."""


class Memory(Protocol):
    """The patches of B growing series that a model has read, so that none is read twice.

    Times count patches: the observed context has times 0 to N - 1, the first patch after it N. If
    its length is not whole patches, what is left over comes before time 0.
    """

    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """Read the next patches of some series, and forecast what follows the last of them.

        Whatever was read at these times or later is replaced: a rejected proposal, for example.

        Args:
            rows: int64 [A], ascending, on the CPU: which of the B series.
            first: int64 [A], on the CPU: the time of the first patch that is read. All patches
                before it must have been read.
            series: [A, w·P, C]: the w patches, in the units of the context.
            outputs: after how many of these patches to forecast, the last of each row; 1 to w, and
                none that ends within the observed context but its last.

        Returns:
            The patches after those `outputs`: [A, outputs, P, C].
        """


@runtime_checkable
class RememberingForecaster(Forecaster, Protocol):
    """A model that can also continue a series without reading it again."""

    def remember(self, context: Tensor, room: int) -> Memory:
        """An empty memory for series that begin with `context` [B, L, C] and grow by up to `room`
        patches.

        L is a multiple of `input_patch`, if the model has such an attribute, or else of `patch`.
        What L has beyond whole patches is at the beginning, before time 0, and is not read later:
        the memory has it from here.

        What it forecasts must depend only on what was read before, as in one pass over the whole
        series; by which statistics a patch is scaled (the context's, or running ones) is the
        model's own affair.
        """


@runtime_checkable
class PositionForecaster(Forecaster, Protocol):
    """A model that forecasts at every patch of a context in one pass, as a teacher of drafts."""

    def predict_positions(self, context: Tensor, dropout: float = 0.0) -> Gaussian:
        """After every patch of `[B, L, C]`, the patch that follows it: `[B, L, C]`."""


def remembers(model: Forecaster, context: int) -> TypeGuard[RememberingForecaster]:
    """Whether a model can continue series that begin with so many points."""
    return isinstance(model, RememberingForecaster) and context % input_patch_of(model) == 0


def input_patch_of(model: Forecaster) -> int:
    """Points of which a remembered context must be a multiple: `patch`, unless the model says."""
    points: int = getattr(model, "input_patch", model.patch)
    return points


def check_context(context: Tensor, points: int, patch: str) -> None:
    """Raise unless a context is three-dimensional, and whole patches.

    Args:
        points: of a patch.
        patch: what a message calls it.

    Raises:
        InputError: it is not.
    """
    if context.dim() != 3:
        raise InputError(
            f"context of shape {list(context.shape)}: must be [windows, points, channels]"
        )
    length = context.shape[1]
    if length < points or length % points:
        raise InputError(
            f"context of {length} points: must be a multiple of the model's {patch}, "
            f"{points} points"
        )


def fingerprint_of(tensors: Mapping[str, Tensor], settings: object = None) -> str:
    """SHA-256 over tensors (name, type, shape, bytes) and whatever else forecasts depend on.

    It is the same on every device; another precision changes it.

    Args:
        tensors: a `state_dict()`, for example.
        settings: anything that `json.dumps` takes.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().flatten().view(torch.uint8).numpy()
        digest.update(content.data)
    return digest.hexdigest()
