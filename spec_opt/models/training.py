"""Train networks: fit a target to a series, and distil a draft from any target.

A model trains on every token: the forecast of each patch of a context is compared with the patch
that came after it. The best epoch is chosen by the last token alone, whose forecast is the one that
decoding uses: for a target by its squared error, for a draft by the likelihood of the target's
forecasts (the error of a draft's mean says nothing of its variance, on which acceptance depends).
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from spec_opt.config.models import DistillationConfig, DraftConfig, TargetConfig, TrainingConfig
from spec_opt.data.windows import Dataset, Windows
from spec_opt.errors import ConfigError, TrainingError
from spec_opt.models.forecaster import Gaussian, MovableForecaster, PositionForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig, scaled_config

logger = logging.getLogger(__name__)

VALIDATION_WINDOWS = 512
"""At most this many, evenly spaced: neighbours share all but one of their rows."""
TEACHER_MEMORY = 2**30
"""Bytes up to which a teacher's forecasts are kept, so that they are computed once."""
LOWEST_FREE_LOG_VARIANCE = -5.0
"""Log-variances of a draft below this are penalised."""
CPU = torch.device("cpu")


# --- what is trained on, and towards what ---------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The windows that a model is fitted to, on the device that trains it, and the settings."""

    role: Literal["target", "draft"]
    settings: TrainingConfig
    training: Windows
    validation: Windows
    seen: int | None = None
    """Points of the context that a draft sees, the last ones; all of them if None."""

    @classmethod
    def of(
        cls,
        role: Literal["target", "draft"],
        settings: TrainingConfig,
        dataset: Dataset,
        context: int,
        patch: int,
        device: torch.device = CPU,
        seen: int | None = None,
    ) -> "Task":
        """Windows of `context` points, and the patch after them.

        Raises:
            DataError: a split is too short for one window.
        """
        dataset = replace(dataset, values=dataset.values.to(device))
        training = dataset.windows("train", context, patch, max_windows=settings.max_windows)
        validation = dataset.windows("validation", context, patch, max_windows=VALIDATION_WINDOWS)
        first, second = (replace(w, starts=w.starts.to(device)) for w in (training, validation))
        return cls(role, settings, first, second, seen)

    @property
    def device(self) -> torch.device:
        return self.training.starts.device

    @property
    def fingerprint(self) -> str:
        """Of both sets of windows; on the CPU only."""
        return f"{self.training.fingerprint}-{self.validation.fingerprint}"

    def sees(self, contexts: Tensor) -> Tensor:
        """The part of contexts `[B, L, C]` that the model sees."""
        return contexts if self.seen is None else contexts[:, -self.seen :]

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Seed torch's global generators, for weights and dropout, and restore them after."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed)
            yield

    def batches(self, windows: Windows) -> Iterator[tuple[slice, Tensor]]:
        """The contexts `[B, L, C]` of all windows in order, and which they are."""
        for start in range(0, len(windows), self.settings.batch_size):
            index = slice(start, start + self.settings.batch_size)
            yield index, windows.contexts(index)


class Loss(Protocol):
    """The mean loss of a model's forecasts, in training and in validation."""

    def training(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        """Of the forecasts `[B, L, C]` of all tokens.

        `rows` are the contexts and the patch after them, `[B, L + P, C]`; `index` `[B]` says which
        of the training windows they are.
        """

    def validation(self, forecast: Gaussian, index: slice) -> Tensor:
        """Of the next patches `[B, P, C]` of some validation windows, without randomness."""


class SupervisedLoss:
    """Mean squared error against the series itself, in the data's units."""

    def __init__(self, validation: Windows) -> None:
        self._truth = validation.futures()

    def training(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        length = forecast.mean.shape[1]
        return (forecast.mean - rows[:, -length:]).square().mean()

    def validation(self, forecast: Gaussian, index: slice) -> Tensor:
        return (forecast.mean - self._truth[index]).square().mean()


class DistillationLoss:
    """Negative log-likelihood of the target's forecasts with noise added.

    At every patch, if the target forecasts there, or else at the last one.

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) with a Gaussian negative
    log-likelihood (Nix and Weigend 1994), constants left out.
    """

    def __init__(self, target: MovableForecaster, config: DistillationConfig, task: Task) -> None:
        self._target, self._config = target, config
        if config.teacher_dropout and not isinstance(target, PositionForecaster):
            raise ConfigError(
                f"draft.distillation.teacher_dropout = {config.teacher_dropout:g}: "
                "this target has no dropout; leave it out"
            )
        self._generator = torch.Generator(task.device).manual_seed(task.settings.seed)
        self._known: Tensor | None = None
        size = len(task.training) * task.training.context * task.training.values.shape[1] * 4
        if not config.teacher_dropout and size <= TEACHER_MEMORY:
            self._known = torch.cat([self._teach(c) for _, c in task.batches(task.training)])
        forecasts = [target.predict(contexts).mean for _, contexts in task.batches(task.validation)]
        self._validation = torch.cat(forecasts)

    def training(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        contexts = rows[:, : -self._target.patch]
        teacher = self._teach(contexts) if self._known is None else self._known[index]
        # A draft may see less of the past than its teacher, and a teacher answer for less of it.
        points = min(forecast.mean.shape[1], teacher.shape[1])
        teacher, forecast = teacher[:, -points:], forecast.map(lambda part: part[:, -points:])
        noise = torch.empty_like(teacher).normal_(generator=self._generator)
        error = forecast.mean - (teacher + self._config.teacher_noise * noise)
        variance = _variance(forecast)
        penalty = (LOWEST_FREE_LOG_VARIANCE - variance.log()).relu().mean()
        return _nll(error.square(), variance) + self._config.variance_regularizer * penalty

    def validation(self, forecast: Gaussian, index: slice) -> Tensor:
        # In expectation over the noise, whose variance adds to the squared error.
        error = (forecast.mean - self._validation[index]).square() + self._config.teacher_noise**2
        return _nll(error, _variance(forecast))

    @torch.no_grad()
    def _teach(self, contexts: Tensor) -> Tensor:
        if isinstance(self._target, PositionForecaster):
            return self._target.predict_positions(contexts, self._config.teacher_dropout).mean
        return self._target.predict(contexts).mean.clone()  # an inference tensor, perhaps


def _variance(forecast: Gaussian) -> Tensor:
    assert forecast.variance is not None, "a draft to be distilled is stochastic"
    return forecast.variance


def _nll(squared_error: Tensor, variance: Tensor) -> Tensor:
    return 0.5 * (variance.log() + squared_error / variance).mean()


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """A trained model: the weights of the epoch with the least validation loss, on the CPU."""

    model: FrozenTimerXL
    best_epoch: int
    """Counted from 1."""
    validation_losses: tuple[float, ...]


def train_target(
    config: TargetConfig, dataset: Dataset, context: int, device: torch.device = CPU
) -> Fit:
    """Fit a target to the training split, one patch ahead.

    Raises:
        DataError: a split is too short for one window.
        TrainingError: the loss is not finite.
    """
    task = Task.of("target", config.training, dataset, context, config.patch, device)
    with task.seeded():
        return _fit(TimerXL(sizes_of(config)).to(device), SupervisedLoss(task.validation), task)


def sizes_of(config: TargetConfig) -> TimerXLConfig:
    """The network that a study file describes."""
    sizes = {field.name for field in fields(TimerXLConfig)}
    return TimerXLConfig(**config.model_dump(include=sizes))


def distil_draft(
    config: DraftConfig,
    target: MovableForecaster,
    dataset: Dataset,
    context: int,
    device: torch.device = CPU,
) -> Fit:
    """Distil a stochastic draft from a target, on the contexts of the training split.

    Its sizes are fractions of a Timer-XL target's, or else of a Timer-XL with the default sizes.

    Raises:
        ConfigError: the target has no dropout, or the draft does not see whole patches.
        DataError: a split is too short for one window.
        TrainingError: the loss is not finite.
    """
    patch, seen = target.patch, config.context or context
    if seen % patch:
        shorter = seen // patch * patch
        raise ConfigError(
            f"{'draft' if config.context else 'data'}.context = {seen}: a draft of kind 'timer-xl' "
            f"sees whole patches: a multiple of the target's, {patch}"
            f"{f'; draft.context = {shorter} is the next smaller one' if shorter else ''}"
        )
    task = Task.of("draft", config.training, dataset, context, patch, device, config.context)
    if isinstance(target, FrozenTimerXL):
        sizes = target.config
    else:
        sizes = sizes_of(TargetConfig(patch=patch))
    with task.seeded():
        network = TimerXL(scaled_config(sizes, config.scale)).to(device)
        teacher = target.to(device, torch.float32)
        return _fit(network, DistillationLoss(teacher, config.distillation, task), task)


def _fit(network: TimerXL, loss: Loss, task: Task) -> Fit:
    """Train until all epochs are done or validation has not improved for `patience` of them."""
    settings, losses = task.settings, list[float]()
    best_loss, best_epoch, best = math.inf, 0, FrozenTimerXL(network)
    title, terminal, began = f"Training the {task.role}", sys.stderr.isatty(), time.perf_counter()
    with Progress(console=Console(stderr=True), disable=not terminal) as bar:
        shown = bar.add_task(title, total=settings.epochs * len(task.training))
        epochs = _epochs(network, loss, task, lambda windows: bar.advance(shown, windows))
        for epoch, training_loss in enumerate(epochs, start=1):
            model = FrozenTimerXL(network)
            losses.append(_validate(model, loss, task))
            if not math.isfinite(losses[-1]) or not math.isfinite(training_loss):
                raise TrainingError(
                    f"{task.role}: the loss of epoch {epoch} is not finite with learning_rate = "
                    f"{settings.learning_rate:g}: lower it in [{task.role}.training]"
                )
            report = (
                f"epoch {epoch}/{settings.epochs}: training loss {training_loss:.4f}, "
                f"validation loss {losses[-1]:.4f}, {time.perf_counter() - began:.1f} s"
            )
            bar.update(shown, description=f"{title}, {report}")
            if not terminal:
                logger.info("%s: %s", task.role, report)
            if losses[-1] < best_loss:
                best_loss, best_epoch, best = losses[-1], epoch, model
            elif epoch - best_epoch >= settings.patience:
                break
            began = time.perf_counter()
    return Fit(best.to(CPU), best_epoch, tuple(losses))


def _epochs(
    network: TimerXL, loss: Loss, task: Task, advance: Callable[[int], None]
) -> Iterator[float]:
    """Adam, epoch after epoch: yields the mean training loss of each."""
    settings, training = task.settings, task.training
    order = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * math.ceil(len(training) / settings.batch_size)
    cosine = settings.schedule == "cosine"
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2 if cosine else 1.0
    )
    # One gather serves both: the contexts are all rows but the last P, the truth all but the first.
    whole = replace(training, context=training.context + training.horizon)
    network.train()
    for _ in range(settings.epochs):
        total = torch.zeros((), device=task.device)
        permutation = torch.randperm(len(training), generator=order).to(task.device)
        for index in torch.split(permutation, settings.batch_size):
            rows = whole.contexts(index)
            forecast = network(task.sees(rows[:, : training.context]))
            batch_loss = loss.training(forecast, rows, index)
            optimizer.zero_grad()
            batch_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += batch_loss.detach() * len(index)
            advance(len(index))
        yield float(total / len(training))


def _validate(model: FrozenTimerXL, loss: Loss, task: Task) -> float:
    total = 0.0
    for index, contexts in task.batches(task.validation):
        total += float(loss.validation(model.predict(task.sees(contexts)), index)) * len(contexts)
    return total / len(task.validation)
