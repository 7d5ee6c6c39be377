"""The two context modes: how models are shown the patches emitted so far.

    rolling   the context slides: the last L points, encoded anew for every patch, statistics
              included
    growing   emitted patches are appended: a model that remembers reads each once, and verifies a
              round in one pass; one that does not sees the last L points, as in rolling contexts

Decoders work with either through a `Reading`. Rows and positions are CPU tensors, so choosing what
to compute next never waits for the device.
"""

from abc import ABC, abstractmethod
from typing import Final

import torch
from torch import Tensor

from spec_opt.errors import DecodingError, InputError
from spec_opt.models.device import send
from spec_opt.models.forecaster import (
    Forecaster,
    Gaussian,
    RememberingForecaster,
    input_patch_of,
    remembers,
)


def patches_to_cover(horizon: int, patch: int) -> int:
    """M, the number of patches of `patch` points that cover `horizon` points."""
    return -(-horizon // patch)


def require_growing(target: Forecaster, context: int) -> None:
    """Raise InputError unless a target can read growing contexts that begin with `context` points.

    Raises:
        InputError: it does not remember, or the context is not whole patches.
    """
    if not isinstance(target, RememberingForecaster):
        raise InputError(
            "decoding.context = 'growing' needs a target that remembers what it has read; "
            f"{type(target).__name__} does not: use context = 'rolling'"
        )
    if not remembers(target, context):
        raise InputError(
            f"data.context = {context} must be a multiple of the target's input patch, "
            f"{input_patch_of(target)} points, with decoding.context = 'growing'"
        )


class EmittedBuffer:
    """B contexts, each followed by its emitted patches, in one tensor [B, L + M * P, C].

    Position e of a row is its (e + 1)-th patch; the context at position e is the L points before
    it. Rows and positions are int64 [n] on the CPU.
    """

    def __init__(self, context: Tensor, patch: int, patches: int) -> None:
        self.batch, self.length, self.channels = context.shape
        self.patch, self.patches = patch, patches
        self.device = context.device
        room = context.new_zeros(self.batch, patches * patch, self.channels)
        self._values = torch.cat([context, room], dim=1)
        self._emitted = self._values[:, self.length :].view(
            self.batch, patches, patch, self.channels
        )

    @property
    def observed(self) -> Tensor:
        """The contexts as given: [B, L, C]."""
        return self._values[:, : self.length]

    def before(self, rows: Tensor, positions: Tensor, points: int) -> Tensor:
        """The `points` points before `positions` of `rows`: [n, points, C]."""
        # A view of all runs of that length that end where a patch begins.
        patches, first = divmod(self.length - points, self.patch)
        runs = self._values[:, first:].unfold(1, points, self.patch)
        index = positions + patches
        return runs[self.to_device(rows), self.to_device(index)].transpose(1, 2)

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The patches at `positions` of `rows`: [n, P, C]."""
        return self._emitted[self.to_device(rows), self.to_device(positions)]

    def write(self, rows: Tensor, positions: Tensor, patches: Tensor) -> None:
        """Write `patches` [n, P, C] at `positions` of `rows`."""
        patches = patches.to(self._values.dtype)
        self._emitted[self.to_device(rows), self.to_device(positions)] = patches

    @property
    def total(self) -> Tensor:
        """The sum of all emitted patches, on the device: finite only if all of them are."""
        return self._emitted.sum(dtype=torch.float64)

    def require_finite(self) -> None:
        """Raise DecodingError if an emitted patch is not finite."""
        require_finite(self._emitted)

    def forecast(self, horizon: int) -> Tensor:
        """The emitted patches, cut to the horizon: [B, H, C]."""
        return self._values[:, self.length : self.length + horizon]

    def to_device(self, index: Tensor) -> Tensor:
        """A CPU index on the buffer's device."""
        return send(index, self.device)


def require_finite(patches: Tensor) -> None:
    """Raise DecodingError unless all values are finite: forecasts must not build on them."""
    # One reduction and one synchronisation: a sum is finite only if all its terms are.
    if not bool(torch.isfinite(patches.sum(dtype=torch.float64))):
        raise DecodingError(
            "a decoded patch holds a value that is not finite: "
            "the model diverges on its own forecasts, or its weights are broken"
        )


class Reading(ABC):
    """One model reading the B rows of a buffer, with what it caches of them."""

    def __init__(self) -> None:
        self.calls = 0
        """Batched calls of the model."""
        self.evaluations = 0
        """Next-patch distributions computed, over all rows and positions."""

    @abstractmethod
    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        """The distribution of the patch at `positions` of `rows`: [n, P, C]. Rows are ascending."""

    @abstractmethod
    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        """Means at the `counts` [A] positions from `first` [A] on of `rows` [A].

        Returns:
            [counts.sum(), P, C]: the first position of all rows, then the second, as in `pairs`.
        """

    @abstractmethod
    def bonus(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Means at the position after the last verification, for some of its rows: [n, P, C].

        Nothing may have been written to these rows since.
        """

    def invalidate(self, rows: Tensor, positions: Tensor) -> None:
        """Invalidate cached state of `rows` from `positions` on; here there is none."""
        del rows, positions


class Contexts(ABC):
    """A context mode."""

    @abstractmethod
    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        """Let `model` read `buffer`."""

    @abstractmethod
    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        """The patch after `series` [n, observed + d * P, C], whose last d patches were emitted.

        Without caching; equals what a `Reading` gives, to rounding: [n, P, C].
        """


def pairs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(member, slot) of every slot below `counts` [A], ordered by slot, then by member."""
    slots = torch.arange(int(counts.max()))
    slot, member = torch.nonzero(slots.unsqueeze(1) < counts, as_tuple=True)
    return member, slot


class RollingReading(Reading):
    """Every position has a context of its own: a verification is one batch of contexts."""

    def __init__(self, model: Forecaster, buffer: EmittedBuffer) -> None:
        super().__init__()
        self._model, self._buffer = model, buffer

    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        self.calls += 1
        self.evaluations += len(rows)
        return self._model.predict(self._buffer.before(rows, positions, self._buffer.length))

    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        member, slot = pairs(counts)
        return self.next(rows[member], first[member] + slot).mean

    def bonus(self, rows: Tensor, positions: Tensor) -> Tensor:
        return self.next(rows, positions).mean


class Rolling(Contexts):
    """The last L points."""

    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        return RollingReading(model, buffer)

    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        return model.predict(series[:, -observed:])


class GrowingReading(Reading):
    """A model that remembers. Patches of the context have times 0 to N - 1, emitted patch e has
    time N + e."""

    def __init__(self, model: RememberingForecaster, buffer: EmittedBuffer) -> None:
        super().__init__()
        self._buffer = buffer
        self._context = buffer.length // buffer.patch  # N
        # The last patch of a forecast is never read.
        self._memory = model.remember(buffer.observed, buffer.patches - 1)
        self._known = torch.zeros(buffer.batch, dtype=torch.int64)
        """[B]: how many times of each row are validly cached."""
        self._ahead = torch.empty(0)
        """[B, P, C]: the means that `bonus` returns after a verification."""

    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        return self._read(rows, positions, 1).map(lambda outputs: outputs[:, 0])

    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        # One output more than proposals, for the bonus, unless that lies past the horizon.
        wanted = (counts + 1).clamp(max=self._buffer.patches - first)
        outputs = int(wanted.max())
        mean = self._read(rows, first + wanted - 1, outputs).mean
        member, slot = pairs(counts)
        output = outputs - wanted[member] + slot
        to_device = self._buffer.to_device
        self._ahead = mean.new_empty(self._buffer.batch, *mean.shape[2:])
        self._ahead[to_device(rows)] = mean[:, -1]
        return mean[to_device(member), to_device(output)]

    def bonus(self, rows: Tensor, positions: Tensor) -> Tensor:
        del positions
        return self._ahead[self._buffer.to_device(rows)]

    def invalidate(self, rows: Tensor, positions: Tensor) -> None:
        self._known[rows] = torch.minimum(self._known[rows], self._context + positions)

    def _read(self, rows: Tensor, positions: Tensor, outputs: int) -> Gaussian:
        """Forecast the `outputs` patches that end with `positions`: [n, outputs, P, C].

        All rows read as many patches as the row with most unread ones, some for a second time.
        """
        self.calls += 1
        self.evaluations += len(rows) * outputs
        end = self._context + positions  # times that must be read by then
        width = max(int((end - self._known[rows]).max()), outputs)
        points = width * self._buffer.patch
        series = self._buffer.before(rows, positions, points)
        answer = self._memory.read(rows, end - width, series, outputs)
        self._known[rows] = end
        return answer


class Growing(Contexts):
    """The observed L points and all patches emitted after them."""

    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        if remembers(model, buffer.length):
            return GrowingReading(model, buffer)
        return RollingReading(model, buffer)

    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        if not remembers(model, observed):
            return ROLLING.forecast(model, series, observed)
        emitted = (series.shape[1] - observed) // model.patch
        memory = model.remember(series[:, :observed], emitted)
        rows = torch.arange(len(series))
        answer = memory.read(rows, torch.zeros_like(rows), series[:, observed % model.patch :], 1)
        return answer.map(lambda outputs: outputs[:, 0])


ROLLING: Final = Rolling()
GROWING: Final = Growing()
CONTEXTS: Final[dict[str, Contexts]] = {"rolling": ROLLING, "growing": GROWING}
