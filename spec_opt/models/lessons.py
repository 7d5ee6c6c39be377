"""What a model is taught: losses of a target (the series itself) and of a draft (its target)."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from spec_opt.config_models import DistillationConfig
from spec_opt.data import Windows
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.timer_xl import TimerXL

TEACHER_MEMORY = 2**30
"""Bytes up to which a teacher's forecasts are kept, so that they are computed once."""
LOWEST_FREE_LOG_VARIANCE = -5.0
"""Log-variances of a draft below this are penalised."""


class Lesson(Protocol):
    """What is to be learnt."""

    def loss(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        """Mean loss of the forecasts `[B, L, C]` of all tokens.

        `rows` are the contexts and the patch after them, `[B, L + P, C]`; `index` `[B]` says which
        of the training windows they are.
        """

    def validation_loss(self, forecast: Gaussian, index: slice) -> Tensor:
        """Mean loss of the next patches `[B, P, C]` of some validation windows; no randomness."""


class Supervised:
    """The series itself is to be forecast: mean squared error, in the data's units."""

    def __init__(self, validation: Windows) -> None:
        self._truth = validation.futures()

    def loss(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        length = forecast.mean.shape[1]
        return (forecast.mean - rows[:, -length:]).square().mean()

    def validation_loss(self, forecast: Gaussian, index: slice) -> Tensor:
        return (forecast.mean - self._truth[index]).square().mean()


class Distilled:
    """The target's forecasts, blurred by noise, are to be given a high likelihood.

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) with a Gaussian negative
    log-likelihood (Nix and Weigend 1994), constants left out.
    """

    def __init__(
        self,
        target: TimerXL,
        config: DistillationConfig,
        training: Windows,
        validation: Windows,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        self._target, self._config, self._generator = target, config, generator
        self._known: Tensor | None = None
        size = len(training) * training.context * training.values.shape[1] * 4
        if not config.teacher_dropout and size <= TEACHER_MEMORY:
            batches = batches_of(len(training), batch_size)
            self._known = torch.cat([self._teach(training.contexts(b)) for b in batches])
        batches = batches_of(len(validation), batch_size)
        self._validation = torch.cat([target.predict(validation.contexts(b)).mean for b in batches])

    def loss(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        length = forecast.mean.shape[1]
        teacher = self._teach(rows[:, :length]) if self._known is None else self._known[index]
        noise = torch.empty_like(teacher).normal_(generator=self._generator)
        error = forecast.mean - (teacher + self._config.teacher_noise * noise)
        variance = _variance(forecast)
        penalty = (LOWEST_FREE_LOG_VARIANCE - variance.log()).relu().mean()
        return _nll(error.square(), variance) + self._config.variance_regularizer * penalty

    def validation_loss(self, forecast: Gaussian, index: slice) -> Tensor:
        # The mean over the noise, whose variance adds to the squared error.
        error = (forecast.mean - self._validation[index]).square() + self._config.teacher_noise**2
        return _nll(error, _variance(forecast))

    @torch.no_grad()
    def _teach(self, contexts: Tensor) -> Tensor:
        mean: Tensor = self._target(contexts, dropout=self._config.teacher_dropout).mean
        return mean


def _variance(forecast: Gaussian) -> Tensor:
    assert forecast.variance is not None, "a draft to be distilled is stochastic"
    return forecast.variance


def _nll(squared_error: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (variance.log() + squared_error / variance).mean()


def batches_of(count: int, size: int) -> Sequence[slice]:
    """0 to count in slices of at most that size."""
    return [slice(start, start + size) for start in range(0, count, size)]
