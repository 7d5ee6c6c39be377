"""Drafts whose sizes are not their target's: they see less of the past, or forecast other patches.

Shapes: P points per patch of the target, p per patch of the draft.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from spec_opt.models.forecaster import (
    Forecaster,
    Gaussian,
    Memory,
    MovableForecaster,
    RememberingForecaster,
)


@dataclass(frozen=True, eq=False)
class AdaptedDraft:
    """A draft that sees the last points only, and makes several steps for one patch."""

    model: MovableForecaster
    patch: int
    """Points per patch of the target, P."""
    points: int
    """Of the context, that the draft sees."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the draft, and of how it is used."""
        parts = f"{self.model.fingerprint} {self.patch} {self.points}"
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def description(self) -> str:
        """What the draft is, and how it is used."""
        own = getattr(self.model, "description", type(self.model).__name__)
        return f"{own} on {self.points} points, {self.model.patch} at a time"

    @property
    def parameters(self) -> int | None:
        """The draft's own."""
        return getattr(self.model, "parameters", None)

    def to(self, device: torch.device, dtype: torch.dtype) -> "AdaptedDraft":
        """This draft on another device or in another precision."""
        return replace(self, model=self.model.to(device, dtype))

    @torch.inference_mode()
    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` after each context; later steps read the means of earlier ones."""
        series, parts = context[:, -self.points :], list[Gaussian]()
        for first in range(0, self.patch, self.model.patch):
            if first:
                series = torch.cat([series, parts[-1].mean], dim=1)[:, -self.points :]
            parts.append(self.model.predict(series))
        return _joined(parts, dim=1).map(lambda part: part[:, : self.patch])


class RememberingDraft(AdaptedDraft):
    """The same for a draft that can remember, and whose patch divides the target's."""

    def remember(self, context: Tensor, room: int) -> "AdaptedMemory":
        """See `RememberingForecaster`; the draft's patches are counted as the target's."""
        assert isinstance(self.model, RememberingForecaster)
        steps = self.patch // self.model.patch
        seen = context[:, -self.points :]
        # The last proposal's later steps read its earlier ones.
        memory = self.model.remember(seen, (room + 1) * steps - 1)
        unseen = (context.shape[1] - self.points) // self.model.patch
        return AdaptedMemory(memory, steps, self.model.patch, unseen)


@dataclass(frozen=True, eq=False)
class AdaptedMemory:
    """Times and patches of the target become those of the draft; a `Memory`."""

    memory: Memory
    steps: int
    """The draft's patches in one of the target's."""
    patch: int
    """The draft's, p."""
    unseen: int
    """The draft's patches of the context that it does not see."""

    def read(self, rows: Tensor, first: Tensor, series: Tensor, outputs: int) -> Gaussian:
        """See `Memory.read`."""
        times = first * self.steps - self.unseen
        # All rows are read for the first time together, so what is unseen of one is of all.
        skipped = max(0, -int(times.min()))
        times, series = times + skipped, series[:, skipped * self.patch :]
        read, patches = 0, series.shape[1] // self.patch
        answers = []
        for output in range(outputs):
            end = patches - (outputs - 1 - output) * self.steps
            new = series[:, read * self.patch : end * self.patch]
            parts = [self.memory.read(rows, times + read, new, 1)]
            for step in range(self.steps - 1):
                proposed = parts[-1].mean.flatten(1, 2)
                parts.append(self.memory.read(rows, times + (end + step), proposed, 1))
            answers.append(_joined(parts, dim=2))
            read = end
        return _joined(answers, dim=1)


def _joined(parts: list[Gaussian], dim: int) -> Gaussian:
    variances = [part.variance for part in parts if part.variance is not None]
    mean = torch.cat([part.mean for part in parts], dim)
    return Gaussian(mean, torch.cat(variances, dim) if variances else None)


def adapted(
    draft: MovableForecaster, target: Forecaster, context: int, points: int
) -> MovableForecaster:
    """A draft as its target needs it: itself if nothing differs.

    Args:
        points: how many of the `context` points the draft sees.
    """
    if (draft.patch, context) == (target.patch, points):
        return draft
    remembers = isinstance(draft, RememberingForecaster) and target.patch % draft.patch == 0
    return (RememberingDraft if remembers else AdaptedDraft)(draft, target.patch, points)
