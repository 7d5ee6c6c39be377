"""The models of a study: loaded, brought by the user, or trained and fitted once and kept.

The same data and settings never train or fit twice: see `cache`.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from spec_opt.config.models import DraftConfig, ModelConfig, TargetConfig
from spec_opt.config.study_file import StudyConfig
from spec_opt.data.windows import Dataset
from spec_opt.models.adapted import adapted
from spec_opt.models.cache import cached_model
from spec_opt.models.checkpoint import Origin, OwnModel, Provenance, load_model
from spec_opt.models.device import resolve_device
from spec_opt.models.factory import check_forecast, model_from
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.linear import (
    LinearForecaster,
    examples_of,
    fit_linear,
    fit_seasonal,
)
from spec_opt.models.training import Fit, Task, distil_draft, train_target

logger = logging.getLogger(__name__)

TRAINING_VERSION: Final = 1
"""Increased with every change to training that changes its result: older models are made anew."""
FITTING_VERSION: Final = 1
"""The same for linear and seasonal drafts."""
SPEC_OPT_VERSION: Final = version("spec-opt")

Source = Path | str
"""Where a model comes from: a file, or a factory's name."""


@dataclass(frozen=True)
class Models:
    """The pair that decoding takes: on the CPU, in float32."""

    target: MovableForecaster
    draft: MovableForecaster
    target_path: Source
    draft_path: Source


def prepare_models(config: StudyConfig, dataset: Dataset) -> Models:
    """The pair of a study: loaded, made by the user's factory, found in the cache, or else made.

    Raises:
        InputError: a model cannot be loaded, does not fit the series or the other one, or the
            device does not exist.
        TrainingError: a loss is not finite.
    """
    context, device = config.data.context, resolve_device(config.decoding.device)
    example = dataset.values[:context].unsqueeze(0)
    target, target_path = _prepare_target(config.target, dataset, context, device)
    check_forecast(target, example, f"target with data.context = {context}")
    return with_draft(config, dataset, target, target_path)


def with_draft(
    config: StudyConfig, dataset: Dataset, target: MovableForecaster, target_path: Source
) -> Models:
    """The pair of a study, of whose models the target is there already.

    Raises:
        InputError: the draft cannot be loaded, or does not fit the series or the target.
        TrainingError: a loss is not finite.
    """
    context, device = config.data.context, resolve_device(config.decoding.device)
    example = dataset.values[:context].unsqueeze(0)
    draft, draft_path = _prepare_draft(config.draft, target, dataset, context, device)
    points = config.draft.context
    if not isinstance(draft, LinearForecaster) or draft.patch != target.patch:
        draft = adapted(draft, target, context, points or context)
    where = f"draft.context = {points}" if points else f"data.context = {context}"
    check_forecast(draft, example, f"draft with {where}")
    return Models(target, draft, target_path, draft_path)


def _given(config: ModelConfig, role: str) -> tuple[MovableForecaster, Source] | None:
    """The model that the user has; None if it is to be made."""
    if config.checkpoint is not None:
        activation = config.activation if "activation" in config.model_fields_set else None
        return load_model(config.checkpoint, activation=activation), config.checkpoint
    if config.factory is not None:
        return model_from(config.factory, config.options, role), config.factory
    return None


def _prepare_target(
    config: TargetConfig, dataset: Dataset, context: int, device: torch.device
) -> tuple[MovableForecaster, Source]:
    if (given := _given(config, "target")) is not None:
        return given
    task = Task.of("target", config.training, dataset, context, config.patch)
    settings = config.model_dump(mode="json")
    origin = Origin("target", context, task.fingerprint, teacher=None, settings=settings)
    return _trained(origin, lambda: train_target(config, dataset, context, device))


def _prepare_draft(
    config: DraftConfig,
    target: MovableForecaster,
    dataset: Dataset,
    context: int,
    device: torch.device,
) -> tuple[MovableForecaster, Source]:
    if (given := _given(config, "draft")) is not None:
        return given
    if config.kind_made != "timer-xl":
        return _fitted(config, target, dataset, context, device)
    task = Task.of("draft", config.training, dataset, context, target.patch)
    # A distilled draft has its target's activation.
    settings = config.model_dump(mode="json", include={"scale", "distillation", "training"})
    settings |= {} if config.context is None else {"context": config.context}
    origin = Origin("draft", context, task.fingerprint, target.fingerprint, settings)
    return _trained(origin, lambda: distil_draft(config, target, dataset, context, device))


def _trained(origin: Origin, train: Callable[[], Fit]) -> tuple[OwnModel, Path]:
    def make() -> tuple[OwnModel, Provenance]:
        logger.info("training the %s; it is kept for the next time", origin.role)
        fit = train()
        provenance = Provenance(origin, SPEC_OPT_VERSION, fit.best_epoch, fit.validation_losses)
        return fit.model, provenance

    return cached_model(_key(TRAINING_VERSION, origin), origin, make)


def _fitted(
    config: DraftConfig,
    target: MovableForecaster,
    dataset: Dataset,
    context: int,
    device: torch.device,
) -> tuple[OwnModel, Path]:
    """The linear or the seasonal draft, from the cache or else fitted to the target's outputs."""
    points = config.context or context
    settings = {"kind": config.kind_made, "context": points, "period": config.period}
    data = dataset.windows("train", context, target.patch).fingerprint
    data += f"-{dataset.windows('validation', context, target.patch).fingerprint}"
    origin = Origin("draft", context, data, target.fingerprint, settings)

    def make() -> tuple[OwnModel, Provenance]:
        kind = config.kind_made
        logger.info("fitting a %s draft to the target; it is kept for the next time", kind)
        teacher = target.to(device, torch.float32)
        training, validation = examples_of(dataset, context, target.patch, teacher, device)
        if kind == "linear":
            draft = fit_linear(training, validation, points)
        else:
            draft = fit_seasonal(dataset, training, points, config.period)
        return draft, Provenance(origin, SPEC_OPT_VERSION)

    return cached_model(_key(FITTING_VERSION, origin), origin, make)


def _key(version: int, origin: Origin) -> str:
    document = json.dumps([version, asdict(origin)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:32]
