"""Make models: fit a target to a series, distil a draft from the target, and keep both.

A model trains on every token: the forecast of each patch of a context is held against the patch
that came after it. It is selected by the last token alone, whose forecast is the one that decoding
uses: a target by its squared error, a draft by the likelihood that it gives the target's forecasts
(its mean's error says nothing of its variance, on which acceptance depends).

The same data and settings never train twice: models are kept in `<cache>/models`.

What a model is taught: losses of a target (the series itself) and of a draft (its target).
"""

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from spec_opt import __version__
from spec_opt.config.models import DistillationConfig, DraftConfig, TargetConfig, TrainingConfig
from spec_opt.config.study_file import StudyConfig
from spec_opt.data.windows import Dataset, Windows
from spec_opt.errors import CheckpointError, ConfigError, TrainingError
from spec_opt.models.checkpoint import Origin, Provenance, cached_model, load_model
from spec_opt.models.device import resolve_device
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig, scaled_config

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


logger = logging.getLogger(__name__)

TRAINING_VERSION = 1
"""Raised with every change to training that changes its result: older models are made anew."""
VALIDATION_WINDOWS = 512
"""At most this many, evenly spaced: neighbours share all but one of their rows."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Models:
    """The pair that decoding takes: on the CPU, float32, in evaluation mode."""

    target: TimerXL
    draft: TimerXL
    target_path: Path
    draft_path: Path


@dataclass(frozen=True)
class Fit:
    """A trained model: the weights of the epoch with the least validation loss."""

    model: TimerXL
    best_epoch: int
    """Counted from 1."""
    validation_losses: tuple[float, ...]


def train_target(
    config: TargetConfig, dataset: Dataset, context: int, device: torch.device = CPU
) -> Fit:
    """Fit a target to the training split, one patch ahead.

    Raises:
        DataError: a split is too short for one window.
        TrainingError: a loss that is not finite.
    """
    sizes = TimerXLConfig(
        config.patch,
        config.d_model,
        config.heads,
        config.feedforward,
        config.layers,
        config.dropout,
        config.activation,
    )
    training, validation = _windows(dataset, config.training, context, config.patch, device)
    with _seeded(config.training.seed, device):
        model = TimerXL(sizes).to(device)
        return _fit(model, Supervised(validation), training, validation, config.training, "target")


def distil_draft(
    config: DraftConfig,
    target: TimerXL,
    dataset: Dataset,
    context: int,
    device: torch.device = CPU,
) -> Fit:
    """Distil a stochastic draft from a target, on the contexts of the training split.

    The target is left as it is, but for its place: it is moved to the device.

    Raises:
        DataError: a split is too short for one window.
        TrainingError: a loss that is not finite.
    """
    settings = config.training
    training, validation = _windows(dataset, settings, context, target.patch, device)
    target = target.to(device)
    with _seeded(settings.seed, device):
        model = TimerXL(scaled_config(target.config, config.scale)).to(device)
        noise = torch.Generator(device).manual_seed(settings.seed)
        lesson = Distilled(
            target, config.distillation, training, validation, settings.batch_size, noise
        )
        return _fit(model, lesson, training, validation, settings, "draft")


def _windows(
    dataset: Dataset, settings: TrainingConfig, context: int, patch: int, device: torch.device
) -> tuple[Windows, Windows]:
    """Training and validation windows, with their values on the device."""
    training = dataset.windows("train", context, patch, max_windows=settings.max_windows)
    validation = dataset.windows("validation", context, patch, max_windows=VALIDATION_WINDOWS)
    values = dataset.values.to(device)
    first, second = (
        replace(windows, values=values, starts=windows.starts.to(device))
        for windows in (training, validation)
    )
    return first, second


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Initial weights and dropout draw from torch's global generators: lend them a seed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _fit(
    model: TimerXL,
    lesson: Lesson,
    training: Windows,
    validation: Windows,
    settings: TrainingConfig,
    name: str,
) -> Fit:
    """Adam, until the epochs are over or validation has not improved for `patience` of them."""
    # One gather serves both: the contexts are all rows but the last P, the truth all but the first.
    whole = replace(training, context=training.context + training.horizon)
    order = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * math.ceil(len(training) / settings.batch_size)
    cosine = settings.schedule == "cosine"
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2 if cosine else 1.0
    )
    losses: list[float] = []
    best_loss, best_epoch, best = math.inf, 0, model.state_dict()
    with _progress(name, steps) as (advance, report):
        for epoch in range(1, settings.epochs + 1):
            begun, total = time.perf_counter(), torch.zeros((), device=training.starts.device)
            model.train()
            permutation = torch.randperm(len(training), generator=order)
            for index in torch.split(permutation.to(training.starts.device), settings.batch_size):
                rows = whole.contexts(index)
                loss = lesson.loss(model(rows[:, : training.context]), rows, index)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(index)
                advance()
            losses.append(_validate(model.eval(), lesson, validation, settings.batch_size))
            if not math.isfinite(losses[-1]) or not total.isfinite():
                raise TrainingError(
                    f"{name}: the loss of epoch {epoch} is not finite with learning_rate = "
                    f"{settings.learning_rate:g}: lower it in [{name}.training]"
                )
            report(
                f"epoch {epoch}/{settings.epochs}: training loss {total / len(training):.4f}, "
                f"validation loss {losses[-1]:.4f}, {time.perf_counter() - begun:.1f} s"
            )
            if losses[-1] < best_loss:
                best_loss, best_epoch = losses[-1], epoch
                best = {key: value.clone() for key, value in model.state_dict().items()}
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best)
    return Fit(model.eval().to(CPU), best_epoch, tuple(losses))


def _validate(model: TimerXL, lesson: Lesson, windows: Windows, batch_size: int) -> float:
    total = 0.0
    for batch in batches_of(len(windows), batch_size):
        contexts = windows.contexts(batch)
        loss = lesson.validation_loss(model.predict(contexts), batch)
        total += float(loss) * len(contexts)
    return total / len(windows)


@contextmanager
def _progress(name: str, steps: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar on a terminal, log lines elsewhere: `advance()` after a step, `report(text)`."""
    if not sys.stderr.isatty():
        yield lambda: None, lambda text: logger.info("%s: %s", name, text)
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"Training the {name}", total=steps)

        def report(text: str) -> None:
            bar.update(task, description=f"Training the {name}, {text}")

        yield lambda: bar.advance(task), report


def prepare_models(config: StudyConfig, dataset: Dataset) -> Models:
    """The pair of a study: loaded from its checkpoints, or trained unless the cache has it.

    Raises:
        CheckpointError: a checkpoint that cannot be read, or a draft of another patch length.
        ConfigError: a context that is not whole patches, or a device that is not there.
        DataError: a split is too short for one window.
        TrainingError: a loss that is not finite.
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
    return Models(target.to(CPU), draft, target_path, draft_path)


def _prepare_target(
    config: TargetConfig, dataset: Dataset, context: int, device: torch.device
) -> tuple[TimerXL, Path]:
    if config.checkpoint is not None:
        return load_model(config.checkpoint, activation=config.activation), config.checkpoint
    origin = Origin(
        "target",
        context,
        data=_data_fingerprint(dataset, config.training, context, config.patch),
        teacher=None,
        settings=config.model_dump(mode="json", exclude={"checkpoint"}),
    )
    return _cached(origin, lambda: train_target(config, dataset, context, device))


def _prepare_draft(
    config: DraftConfig, target: TimerXL, dataset: Dataset, context: int, device: torch.device
) -> tuple[TimerXL, Path]:
    if config.checkpoint is not None:
        return load_model(config.checkpoint, activation=config.activation), config.checkpoint
    origin = Origin(
        "draft",
        context,
        data=_data_fingerprint(dataset, config.training, context, target.patch),
        teacher=target.fingerprint,
        # A draft that is made has its target's activation.
        settings=config.model_dump(mode="json", exclude={"checkpoint", "activation"}),
    )
    return _cached(origin, lambda: distil_draft(config, target, dataset, context, device))


def _data_fingerprint(dataset: Dataset, settings: TrainingConfig, context: int, patch: int) -> str:
    training, validation = _windows(dataset, settings, context, patch, CPU)
    return f"{training.fingerprint}-{validation.fingerprint}"


def _cached(origin: Origin, train: Callable[[], Fit]) -> tuple[TimerXL, Path]:
    """The model of this origin from the cache, else trained and put there; and its file."""

    def make() -> tuple[TimerXL, Provenance]:
        logger.info("training the %s; it is kept for the next time", origin.role)
        fit = train()
        provenance = Provenance(origin, __version__, fit.best_epoch, fit.validation_losses)
        return fit.model, provenance

    document = json.dumps([TRAINING_VERSION, asdict(origin)], sort_keys=True)
    return cached_model(hashlib.sha256(document.encode()).hexdigest()[:32], make)
