"""How models are shown what was emitted so far: the one thing in which decoding modes differ.

    rolling   the context slides: the last L points, encoded anew for every patch, their statistics
              included
    growing   the context is appended to: its statistics stay those of the observed L points, what
              was read before is remembered (keys and values), and a round is verified in one pass

The decoders know neither: they ask a `Reading`. Where windows stand is known on the CPU, so all
indices are CPU tensors; no answer has to come back from a device for the next question.
"""

from abc import ABC, abstractmethod
from typing import Final

import torch
from torch import Tensor

from spec_opt.errors import DecodingError, InputError
from spec_opt.models.device import send
from spec_opt.models.forecaster import Forecaster, Gaussian, RememberingForecaster


def patches_to_cover(horizon: int, patch: int) -> int:
    """M: how many patches of `patch` points cover `horizon` points."""
    return -(-horizon // patch)


class EmittedBuffer:
    """B contexts and the patches emitted after them, in one tensor [B, L + M * P, C].

    Position e of a row is its (e + 1)-th patch; the context at position e is the L points before.
    Rows and positions are int64 [n] on the CPU.
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
        self._sum = torch.zeros((), dtype=torch.float64, device=context.device)

    @property
    def observed(self) -> Tensor:
        """The contexts as given: [B, L, C]."""
        return self._values[:, : self.length]

    def before(self, rows: Tensor, positions: Tensor, points: int) -> Tensor:
        """The `points` points before `positions` of `rows`: [n, points, C]."""
        # A view, not copies: all runs of that length that end where a patch begins.
        patches, first = divmod(self.length - points, self.patch)
        runs = self._values[:, first:].unfold(1, points, self.patch)
        index = positions + patches
        return runs[self.to_device(rows), self.to_device(index)].transpose(1, 2)

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """What stands at `positions` of `rows`: [n, P, C]."""
        return self._emitted[self.to_device(rows), self.to_device(positions)]

    def write(self, rows: Tensor, positions: Tensor, patches: Tensor) -> None:
        """Put `patches` [n, P, C] at `positions` of `rows`."""
        self._sum += patches.sum(dtype=torch.float64)
        patches = patches.to(self._values.dtype)
        self._emitted[self.to_device(rows), self.to_device(positions)] = patches

    @property
    def finite(self) -> Tensor:
        """Whether all patches that were written are numbers: a bool, where the values are."""
        return torch.isfinite(self._sum)

    def require_finite(self) -> None:
        """Stop where a patch that was written is not a number.

        Raises:
            DecodingError: a value is not finite.
        """
        require_finite(self._sum)

    def forecast(self, horizon: int) -> Tensor:
        """What was emitted, cut to the horizon: [B, H, C]."""
        return self._values[:, self.length : self.length + horizon]

    def to_device(self, index: Tensor) -> Tensor:
        """A CPU index where the values are."""
        return send(index, self.device)


def require_finite(patches: Tensor) -> None:
    """Stop at the first patch that is not a number, instead of forecasting nonsense on from it.

    Raises:
        DecodingError: a value is not finite.
    """
    # One reduction, one synchronisation: a sum is finite only if all its terms are.
    if not bool(torch.isfinite(patches.sum(dtype=torch.float64))):
        raise DecodingError(
            "a decoded patch holds a value that is not finite: "
            "the model diverges on its own forecasts, or its weights are broken"
        )


class Reading(ABC):
    """One model at work on the B rows of a buffer."""

    def __init__(self) -> None:
        self.calls = 0
        """Of the model."""
        self.evaluations = 0
        """Next-patch forecasts that were computed, over all rows and positions."""

    @abstractmethod
    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        """The patch at `positions` of `rows`, each row once, ascending: [n, P, C]."""

    @abstractmethod
    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        """Means at the `counts` [A] positions from `first` [A] on of `rows` [A].

        Returns:
            [counts.sum(), P, C]: the first position of all rows, then the second; see `pairs`.
        """

    @abstractmethod
    def bonus(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Means at the position after those that were verified last, of some of the rows then
        verified, nothing having been written to them since: [n, P, C]."""

    @abstractmethod
    def rewritten(self, rows: Tensor, positions: Tensor) -> None:
        """What stands at `positions` of `rows` is not what this model may have read there."""


class Contexts(ABC):
    """A decoding mode."""

    @abstractmethod
    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        """Put a model to work.

        Raises:
            InputError: the model cannot work in this mode.
        """

    @abstractmethod
    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        """The patch after `series` [n, observed + d * P, C], of which d patches were emitted.

        The same as through a `Reading`, to rounding, without one: [n, P, C].
        """


def pairs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """(member, slot) for every slot below `counts` [A]: slot by slot, in each the members."""
    slots = torch.arange(int(counts.max()))
    slot, member = torch.nonzero(slots.unsqueeze(1) < counts, as_tuple=True)
    return member, slot


class RollingReading(Reading):
    """Every position is a context of its own: a verification is one batch of them."""

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

    def rewritten(self, rows: Tensor, positions: Tensor) -> None:
        """Nothing to do: nothing is remembered."""


class Rolling(Contexts):
    """See the head of the file."""

    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        return RollingReading(model, buffer)

    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        return model.predict(series[:, -observed:])


class GrowingReading(Reading):
    """A model with a memory. Times: 0 to N - 1 are the context's, N + e is emitted patch e."""

    def __init__(self, model: RememberingForecaster, buffer: EmittedBuffer) -> None:
        super().__init__()
        self._buffer = buffer
        self._context = buffer.length // buffer.patch  # N
        # What stands at the last position is never read.
        self._memory = model.remember(buffer.observed, buffer.patches - 1)
        self._known = torch.zeros(buffer.batch, dtype=torch.int64)
        """[B]: how many times of each row the memory has right."""
        self._ahead: Tensor | None = None
        """[B, P, C]: what `bonus` will be asked for."""

    def next(self, rows: Tensor, positions: Tensor) -> Gaussian:
        mean, variance = self._read(rows, positions, 1)
        return Gaussian(mean[:, 0], None if variance is None else variance[:, 0])

    def verify(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        # The bonus comes with the last proposal, where there is one: not past the horizon.
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
        if self._ahead is None:
            raise DecodingError("a bonus patch was asked for before any verification")
        return self._ahead[self._buffer.to_device(rows)]

    def rewritten(self, rows: Tensor, positions: Tensor) -> None:
        self._known[rows] = torch.minimum(self._known[rows], self._context + positions)

    def _read(self, rows: Tensor, positions: Tensor, outputs: int) -> Gaussian:
        """Forecast the `outputs` patches that end with `positions`: [n, outputs, P, C].

        Rows may lack more or fewer patches; all read as many as the one that lacks most, some of
        theirs a second time. Outputs before a row's own first are of no use.
        """
        self.calls += 1
        self.evaluations += len(rows) * outputs
        end = self._context + positions  # times that must be known
        width = max(int((end - self._known[rows]).max()), outputs)
        points = width * self._buffer.patch
        series = self._buffer.before(rows, positions, points)
        answer = self._memory.read(rows, end - width, series, outputs)
        self._known[rows] = end
        return answer


class Growing(Contexts):
    """See the head of the file."""

    def reading(self, model: Forecaster, buffer: EmittedBuffer) -> Reading:
        return GrowingReading(_remembering(model), buffer)

    def forecast(self, model: Forecaster, series: Tensor, observed: int) -> Gaussian:
        emitted = (series.shape[1] - observed) // model.patch
        memory = _remembering(model).remember(series[:, :observed], emitted)
        rows = torch.arange(len(series))
        mean, variance = memory.read(rows, torch.zeros_like(rows), series, 1)
        return Gaussian(mean[:, 0], None if variance is None else variance[:, 0])


def _remembering(model: Forecaster) -> RememberingForecaster:
    if not isinstance(model, RememberingForecaster):
        raise InputError(
            "decoding.context = 'growing' needs a model that remembers what it has read; "
            f"{type(model).__name__} does not: use context = 'rolling'"
        )
    return model


ROLLING: Final = Rolling()
GROWING: Final = Growing()
CONTEXTS: Final[dict[str, Contexts]] = {"rolling": ROLLING, "growing": GROWING}
