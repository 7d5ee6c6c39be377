"""Models that are one matrix from the context to the next patch, and how they are fitted.

    linear      ridge regression in normalised units, one matrix for all channels, in closed form
    seasonal    the last season again

A linear map W, b between normalised series is nearly linear in the series itself: with m the mean
of the context x and s its deviation, (((x - m) / s) W + b) s + m = x W + m (1 - 1'W) + s b, where m
is linear in x. So a forecast is a single product, and the deviation times the intercept.

Shapes: n contexts, L points that the model reads, P points per patch, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Final

import torch
from torch import Tensor

from spec_opt.config.values import Split
from spec_opt.data.windows import Dataset, Windows
from spec_opt.errors import ConfigError, InputError
from spec_opt.models.forecaster import Forecaster, Gaussian, fingerprint_of

CONTEXTS: Final = 3_000
"""Most training contexts that a model is fitted to, evenly spaced."""
VALIDATION_CONTEXTS: Final = 512
MOST_ROWS: Final = 150_000
"""Most contexts times channels: with many channels fewer contexts say as much."""
BATCH: Final = 256
RIDGES: Final = tuple(10 ** (exponent / 2) for exponent in range(-10, 5))
"""Ridge strengths that are tried, as shares of the number of rows."""
LEAST_VARIANCE: Final = 1e-6
NEARLY_AS_HIGH: Final = 0.97
EPSILON: Final = 1e-5
"""Added to a context's variance, as Timer-XL does."""
CPU: Final = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class LinearForecaster:
    """The next patch as a matrix times the last points, with a variance that does not change."""

    matrix: Tensor
    """`[P, L]`"""
    variance: Tensor
    """`[P, C]`, in the units of the context."""
    intercept: Tensor | None = None
    """`[P]`, in units of the context's standard deviation."""
    description: str = "linear"

    kind: ClassVar[str] = "linear"
    """As files of our own name it."""

    @property
    def settings(self) -> dict[str, object]:
        """What describes it besides its tensors."""
        return {"description": self.description}

    @property
    def patch(self) -> int:
        """Points per patch, P."""
        return len(self.matrix)

    @property
    def parameters(self) -> int:
        """Numbers in the matrix."""
        return self.matrix.numel()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over matrix, intercept and variance; see `fingerprint_of`."""
        return fingerprint_of(self.tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it consists of, by name."""
        named = {"matrix": self.matrix, "variance": self.variance, "intercept": self.intercept}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device, dtype: torch.dtype) -> "LinearForecaster":
        """This model on another device or in another precision."""
        intercept = None if self.intercept is None else self.intercept.to(device, dtype)
        matrix, variance = self.matrix.to(device, dtype), self.variance.to(device, dtype)
        return replace(self, matrix=matrix, variance=variance, intercept=intercept)

    @torch.inference_mode()
    def predict(self, context: Tensor) -> Gaussian:
        """The patch `[B, P, C]` after each context `[B, L or more, C]`.

        Raises:
            InputError: the context is too short, or of another number of channels.
        """
        patch, points = self.matrix.shape
        batch, length, channels = context.shape
        if length < points or channels != self.variance.shape[1]:
            raise InputError(
                f"context of {length} points and {channels} channels: this {self.description} "
                f"model reads {points} points of {self.variance.shape[1]} channels"
            )
        # One large product over all channels is faster than many thin ones.
        seen = context[:, length - points :].transpose(1, 2).reshape(-1, points)
        seen = seen.to(self.matrix.dtype)
        mean = seen @ self.matrix.T  # [B * C, P]
        if self.intercept is not None:
            # Several times faster than torch.std.
            norm = torch.linalg.vector_norm(seen - seen.mean(dim=1, keepdim=True), dim=1)
            mean = torch.addcmul(mean, norm.unsqueeze(1), self.intercept, value=points**-0.5)
        mean = mean.view(batch, channels, patch).transpose(1, 2)
        if mean.dtype != context.dtype:
            exact = torch.promote_types(context.dtype, mean.dtype)
            mean = mean.to(torch.promote_types(exact, torch.float32))
        return Gaussian(mean, self.variance.to(mean.dtype).expand(batch, -1, -1))


# --- fitting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """Contexts `[n, L, C]` of a split, and what a model is fitted to, `[n, P, C]`."""

    windows: Windows
    answers: Tensor

    def normalised(self, points: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of contexts, answers `[rows, P]` and deviations `[rows, 1]`.

        The contexts end with a 1, for an intercept: `[rows, points + 1]`.
        """
        for first in range(0, len(self.windows), BATCH):
            index = slice(first, first + BATCH)
            contexts = self.windows.contexts(index)[:, -points:].transpose(1, 2)
            mean = contexts.mean(dim=2, keepdim=True)
            deviation = (contexts.var(dim=2, keepdim=True, correction=0) + EPSILON).sqrt()
            answers = (self.answers[index].transpose(1, 2) - mean) / deviation
            ones = torch.ones_like(mean)
            yield (
                torch.cat([(contexts - mean) / deviation, ones], dim=2).flatten(0, 1),
                answers.flatten(0, 1),
                deviation.flatten(0, 1),
            )


def examples_of(
    dataset: Dataset,
    context: int,
    patch: int,
    target: Forecaster | None = None,
    device: torch.device = CPU,
) -> tuple[Examples, Examples]:
    """Training and validation examples, evenly spaced.

    Args:
        target: on `device`; its forecasts are the answers, or else what came after the contexts.

    Raises:
        DataError: a split is too short for one window.
    """

    def examples(split: Split, windows: int) -> Examples:
        most = max(1, min(windows, MOST_ROWS // dataset.values.shape[1]))
        found = dataset.windows(split, context, patch, max_windows=most)
        answers = [
            found.futures(batch)
            if target is None
            else target.predict(found.contexts(batch).to(device)).mean.float().cpu()
            for batch in (slice(first, first + BATCH) for first in range(0, len(found), BATCH))
        ]
        return Examples(found, torch.cat(answers))

    return examples("train", CONTEXTS), examples("validation", VALIDATION_CONTEXTS)


def fit_linear(training: Examples, validation: Examples, points: int) -> LinearForecaster:
    """Ridge regression from the last `points` to the next patch.

    The ridge strength is the one with the least squared error on the validation examples, in the
    data's units.
    """
    patch = training.answers.shape[1]
    gram = torch.zeros(points + 1, points + 1, dtype=torch.float64)
    cross = torch.zeros(points + 1, patch, dtype=torch.float64)
    rows = 0
    for contexts, answers, _ in training.normalised(points):
        gram += contexts.T @ contexts
        cross += contexts.T @ answers
        rows += len(contexts)
    values, vectors = torch.linalg.eigh(gram)
    cross, strengths = vectors.T @ cross, torch.tensor(RIDGES, dtype=torch.float64) * rows
    # [ridges, L + 1, P]
    scaled = cross / (values.clamp(min=0.0)[:, None] + strengths[:, None, None])
    candidates = (vectors @ scaled).float()
    errors = torch.zeros(len(RIDGES), dtype=torch.float64)
    for contexts, answers, deviation in validation.normalised(points):
        error = (contexts @ candidates - answers) * deviation
        errors += error.square().sum(dim=(1, 2))
    best = candidates[errors.argmin()].T  # of normalised series
    matrix, intercept = best[:, :-1], best[:, -1].contiguous()
    matrix = matrix + (1.0 - matrix.sum(dim=1, keepdim=True)) / points
    return _with_variance(matrix.contiguous(), intercept, training, "linear")


def fit_to_series(dataset: Dataset, context: int, patch: int) -> LinearForecaster:
    """The linear model that needs no target: fitted to what came after the training contexts.

    Raises:
        DataError: a split is too short for one window.
    """
    return fit_linear(*examples_of(dataset, context, patch), context)


def fit_seasonal(
    dataset: Dataset, training: Examples, points: int, period: int | None
) -> LinearForecaster:
    """The last season again and again: `period` of the last `points`; found if it is None.

    Raises:
        ConfigError: the period is longer than the context, or there is none.
    """
    patch = training.answers.shape[1]
    if period is None:
        period = period_of(dataset.values[: dataset.borders.train.stop], points)
    if period > points:
        raise ConfigError(
            f"draft.period = {period}: must be at most the {points} points that the draft sees"
        )
    matrix = torch.eye(period)[torch.arange(patch) % period]
    return _with_variance(matrix, None, training, f"seasonal (period {period})")


def period_of(values: Tensor, longest: int) -> int:
    """The lag of the highest peak of the autocorrelation, averaged over channels.

    Of peaks that are nearly as high, the first: a season repeats itself at its multiples too.

    Args:
        values: `[T, C]`, standardised.
        longest: no longer lag is considered.

    Raises:
        ConfigError: there is no peak.
    """
    rows = len(values)
    spectrum = torch.fft.rfft((values - values.mean(dim=0)).double(), n=2 * rows, dim=0)
    lags = torch.fft.irfft(spectrum.abs().square(), dim=0)[: min(longest + 2, rows)]
    correlation = (lags / lags[0].clamp(min=1e-12)).mean(dim=1)
    inner = correlation[1:-1]
    peaks = (inner > correlation[:-2]) & (inner >= correlation[2:]) & (inner > 0)
    if not peaks.any():
        raise ConfigError(
            f"draft.kind = 'seasonal': the series repeats itself at no lag up to {longest}: "
            "give draft.period, or choose kind = 'linear'"
        )
    high = peaks & (inner >= NEARLY_AS_HIGH * inner[peaks].max())
    return int(high.to(torch.int8).argmax()) + 1


def _with_variance(
    matrix: Tensor, intercept: Tensor | None, training: Examples, description: str
) -> LinearForecaster:
    """The model, with the variance of its residuals in training."""
    model = LinearForecaster(matrix, torch.ones_like(training.answers[0]), intercept, description)
    squares = torch.zeros_like(model.variance, dtype=torch.float64)
    for first in range(0, len(training.windows), BATCH):
        index = slice(first, first + BATCH)
        mean = model.predict(training.windows.contexts(index)).mean
        squares += (mean - training.answers[index]).square().sum(dim=0)
    variance = (squares / len(training.windows)).clamp(min=LEAST_VARIANCE)
    return replace(model, variance=variance.float())
