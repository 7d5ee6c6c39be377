"""Make models: fit a target to a series, distil a draft from the target, and keep both.

A model trains on every token: the forecast of each patch of a context is compared with the patch
that came after it. The best epoch is chosen by the last token alone, whose forecast is the one that
decoding uses: for a target by its squared error, for a draft by the likelihood of the target's
forecasts (the error of a draft's mean says nothing of its variance, on which acceptance depends).

The same data and settings never train twice: models are kept in `<cache>/models`.
"""

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from spec_opt.config.models import DistillationConfig, DraftConfig, TargetConfig, TrainingConfig
from spec_opt.config.study_file import StudyConfig
from spec_opt.data.windows import Dataset, Windows
from spec_opt.errors import CheckpointError, ConfigError, TrainingError
from spec_opt.models.checkpoint import Origin, Provenance, cached_model, load_model
from spec_opt.models.device import resolve_device
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig, scaled_config

logger = logging.getLogger(__name__)

TRAINING_VERSION = 1
"""Increased with every change to training that changes its result: older models are made anew."""
SPEC_OPT_VERSION = version("spec-opt")
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

    @classmethod
    def of(
        cls,
        role: Literal["target", "draft"],
        settings: TrainingConfig,
        dataset: Dataset,
        context: int,
        patch: int,
        device: torch.device = CPU,
    ) -> "Task":
        """Windows of `context` points, and the patch after them.

        Raises:
            DataError: a split is too short for one window.
        """
        dataset = replace(dataset, values=dataset.values.to(device))
        training = dataset.windows("train", context, patch, max_windows=settings.max_windows)
        validation = dataset.windows("validation", context, patch, max_windows=VALIDATION_WINDOWS)
        first, second = (replace(w, starts=w.starts.to(device)) for w in (training, validation))
        return cls(role, settings, first, second)

    @property
    def device(self) -> torch.device:
        return self.training.starts.device

    @property
    def fingerprint(self) -> str:
        """Of both sets of windows; on the CPU only."""
        return f"{self.training.fingerprint}-{self.validation.fingerprint}"

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

    Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) with a Gaussian negative
    log-likelihood (Nix and Weigend 1994), constants left out.
    """

    def __init__(self, target: FrozenTimerXL, config: DistillationConfig, task: Task) -> None:
        self._teacher, self._config = target.network, config
        self._generator = torch.Generator(task.device).manual_seed(task.settings.seed)
        self._known: Tensor | None = None
        size = len(task.training) * task.training.context * task.training.values.shape[1] * 4
        if not config.teacher_dropout and size <= TEACHER_MEMORY:
            self._known = torch.cat([self._teach(c) for _, c in task.batches(task.training)])
        forecasts = [target.predict(contexts).mean for _, contexts in task.batches(task.validation)]
        self._validation = torch.cat(forecasts)

    def training(self, forecast: Gaussian, rows: Tensor, index: Tensor) -> Tensor:
        length = forecast.mean.shape[1]
        teacher = self._teach(rows[:, :length]) if self._known is None else self._known[index]
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
        mean: Tensor = self._teacher(contexts, dropout=self._config.teacher_dropout).mean
        return mean


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
    sizes = TimerXLConfig(**config.model_dump(exclude={"checkpoint", "training"}))
    task = Task.of("target", config.training, dataset, context, config.patch, device)
    with task.seeded():
        return _fit(TimerXL(sizes).to(device), SupervisedLoss(task.validation), task)


def distil_draft(
    config: DraftConfig,
    target: FrozenTimerXL,
    dataset: Dataset,
    context: int,
    device: torch.device = CPU,
) -> Fit:
    """Distil a stochastic draft from a target, on the contexts of the training split.

    Raises:
        DataError: a split is too short for one window.
        TrainingError: the loss is not finite.
    """
    task = Task.of("draft", config.training, dataset, context, target.patch, device)
    with task.seeded():
        network = TimerXL(scaled_config(target.config, config.scale)).to(device)
        return _fit(network, DistillationLoss(target.to(device), config.distillation, task), task)


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
            batch_loss = loss.training(network(rows[:, : training.context]), rows, index)
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
        total += float(loss.validation(model.predict(contexts), index)) * len(contexts)
    return total / len(task.validation)


# --- the models of a study ------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """The pair that decoding takes: on the CPU, in float32."""

    target: FrozenTimerXL
    draft: FrozenTimerXL
    target_path: Path
    draft_path: Path


def prepare_models(config: StudyConfig, dataset: Dataset) -> Models:
    """The pair of a study: loaded from its checkpoints or from the cache, or else trained.

    Raises:
        CheckpointError: a checkpoint cannot be read, or the patches of the two models differ.
        ConfigError: the context is not whole patches, or the device does not exist.
        DataError: a split is too short for one window.
        TrainingError: a loss is not finite.
    """
    context, device = config.data.context, resolve_device(config.decoding.device)
    target, target_path = _prepare_target(config.target, dataset, context, device)
    if context % target.patch:
        raise ConfigError(
            f"data.context = {context} must be a multiple of the target's patch, {target.patch}"
        )
    draft, draft_path = _prepare_draft(config.draft, target, dataset, context, device)
    if draft.patch != target.patch:
        raise CheckpointError(
            f"{config.draft.checkpoint}: the draft forecasts {draft.patch} points at a time and "
            f"the target {target.patch}: they must be the same"
        )
    return Models(target, draft, target_path, draft_path)


def _prepare_target(
    config: TargetConfig, dataset: Dataset, context: int, device: torch.device
) -> tuple[FrozenTimerXL, Path]:
    if config.checkpoint is not None:
        return load_model(config.checkpoint, activation=config.activation), config.checkpoint
    task = Task.of("target", config.training, dataset, context, config.patch)
    settings = config.model_dump(mode="json", exclude={"checkpoint"})
    origin = Origin("target", context, task.fingerprint, teacher=None, settings=settings)
    return _cached(origin, lambda: train_target(config, dataset, context, device))


def _prepare_draft(
    config: DraftConfig, target: FrozenTimerXL, dataset: Dataset, context: int, device: torch.device
) -> tuple[FrozenTimerXL, Path]:
    if config.checkpoint is not None:
        return load_model(config.checkpoint, activation=config.activation), config.checkpoint
    task = Task.of("draft", config.training, dataset, context, target.patch)
    # A distilled draft has its target's activation.
    settings = config.model_dump(mode="json", exclude={"checkpoint", "activation"})
    origin = Origin("draft", context, task.fingerprint, target.fingerprint, settings)
    return _cached(origin, lambda: distil_draft(config, target, dataset, context, device))


def _cached(origin: Origin, train: Callable[[], Fit]) -> tuple[FrozenTimerXL, Path]:
    """The model of this origin from the cache, or else trained and put there; and its file."""

    def make() -> tuple[FrozenTimerXL, Provenance]:
        logger.info("training the %s; it is kept for the next time", origin.role)
        fit = train()
        provenance = Provenance(origin, SPEC_OPT_VERSION, fit.best_epoch, fit.validation_losses)
        return fit.model, provenance

    document = json.dumps([TRAINING_VERSION, asdict(origin)], sort_keys=True)
    return cached_model(hashlib.sha256(document.encode()).hexdigest()[:32], make)
