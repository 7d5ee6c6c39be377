"""The objective of a study: the function from a setting to a measurement that workers call."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch

from spec_opt.config.study_file import DecodingConfig, Setting, StudyConfig
from spec_opt.config.user_code import naming_factories
from spec_opt.config.values import IntRange
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.data.summary import SeriesSummary, summarise
from spec_opt.data.windows import Dataset, load_dataset
from spec_opt.decoding.prefix_cache import default_limit
from spec_opt.errors import DataError, DecodingError, WorkError
from spec_opt.measure.cost_learning import learn_costs_quickly
from spec_opt.measure.cost_model import (
    OF_VARIANT,
    LearntCosts,
    acceptance_by_position,
    predicted_speedup,
)
from spec_opt.measure.evaluator import Evaluator, decoding_fingerprint
from spec_opt.measure.measurement import Baseline, Fingerprints, Measurement
from spec_opt.models.device import device_name, resolve_device
from spec_opt.models.linear import LinearForecaster, fit_to_series
from spec_opt.models.preparation import Models, prepare_models, with_draft
from spec_opt.models.summary import ModelSummary, summarise_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a study reads: kept with it, and shown."""

    series: SeriesSummary
    target: ModelSummary
    draft: ModelSummary

    def as_document(self) -> dict[str, Any]:
        """For JSON, and for a study's attributes."""
        models = {summary.role: summary.as_document() for summary in (self.target, self.draft)}
        return {"series": self.series.as_document(), "models": models}


def load_inputs(config: StudyConfig) -> tuple[Dataset, Models, Inputs]:
    """The series and the models of a study; logs what was read.

    It is logged before training, which takes long, but after checkpoints are loaded: of bad input,
    only what is wrong is said.

    Raises:
        InputError: the series, a checkpoint or the device does not fit the study.
        TrainingError: training a model failed.
    """
    dataset = load_dataset(config.data)
    series = summarise(dataset, config.data)
    to_train = config.draft.is_made
    if to_train:
        log.info("%s", series)
    models = prepare_models(config, dataset)
    if not to_train:
        log.info("%s", series)
    target = summarise_model("target", models.target, models.target_path)
    draft = summarise_model("draft", models.draft, models.draft_path, models.target)
    log.info("%s", target)
    log.info("%s", draft)
    return dataset, models, Inputs(series, target, draft)


class Objective(Protocol):
    """Measures settings, for workers."""

    @property
    def fingerprints(self) -> Fingerprints:
        """Hashes of what the measurements depend on."""

    @property
    def baseline(self) -> Baseline:
        """Target, draft and a linear model alone."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", or a GPU's name."""

    @property
    def draft_path(self) -> str:
        """Where the draft comes from: a file, or a factory's name."""

    def of(self, variant: Variant) -> "Objective":
        """The objective of a variant of the study. An exception fails the trial."""

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting. An exception fails the trial, not the study."""


ShareCosts = Callable[[str, Callable[[], LearntCosts]], LearntCosts]
"""From a key and a function that learns costs to the costs that are kept under the key."""


def _keep_to_oneself(key: str, learn: Callable[[], LearntCosts]) -> LearntCosts:
    del key
    return learn()


MOST_VARIANTS = 4
"""Variants whose models and prefixes a worker keeps, the study file as written among them."""


@dataclass
class StudyObjective:
    """The objective of a study file: its models on its windows, prepared once, kept in memory.

    Variants share series, target and windows. The last few are kept, and divide among them the
    memory that the prefixes of one would have.
    """

    dataset: Dataset
    models: Models
    evaluator: Evaluator
    fingerprints: Fingerprints
    config: StudyConfig
    inputs: Inputs
    """What was read."""
    fit_linear: Callable[[], LinearForecaster]
    """Fits the linear model of the baseline."""
    _baseline: Baseline | None = field(default=None, repr=False)
    share_costs: ShareCosts = field(default=_keep_to_oneself, repr=False)
    """Where costs are kept, so that all workers of a study predict from the same ones."""
    _costs: LearntCosts | None = field(default=None, repr=False)
    variant: Variant = AS_WRITTEN
    written: "StudyObjective | None" = field(default=None, repr=False)
    """That of the study file as written, of which this is a variant."""
    _variants: dict[Variant, "StudyObjective"] = field(default_factory=dict, repr=False)
    """The one that was used last is the last."""
    _cache_limit: int | None = None
    """Bytes for the prefixes of each variant."""

    @classmethod
    def prepare(cls, config: StudyConfig) -> "StudyObjective":
        """Read the series, load or make the models, cut the windows.

        Raises:
            InputError: the series, a checkpoint or the device does not fit the study.
            TrainingError: training a model failed.
        """
        dataset, models, inputs = load_inputs(config)
        data = config.data
        windows = dataset.windows(
            data.split, data.context, data.horizon, data.window_stride, data.max_windows
        )
        limit = None
        if config.search.varied:
            limit = default_limit(resolve_device(config.decoding.device)) // MOST_VARIANTS
        pair = (models.target, models.draft)
        evaluator = Evaluator(*pair, windows, config.decoding, cache_limit_bytes=limit)
        fingerprints = _fingerprints(config, models, evaluator)
        fit = partial(fit_to_series, dataset, data.context, models.target.patch)
        made = cls(dataset, models, evaluator, fingerprints, config, inputs, fit)
        made._cache_limit = limit
        return made

    def of(self, variant: Variant) -> "StudyObjective":
        """The objective of a variant; its draft is found in the cache, or else made.

        Raises:
            InputError: the draft does not fit the series or the target.
            TrainingError: training the draft failed.
        """
        if variant == self.variant:
            return self
        found = self._variants.pop(variant, None)
        if found is None:
            while len(self._variants) >= MOST_VARIANTS - 1:
                del self._variants[next(iter(self._variants))]
            found = self._make(variant)
        self._variants[variant] = found
        return found

    def _make(self, variant: Variant) -> "StudyObjective":
        config, models = self.config.with_variant(variant), self.models
        if variant.changes_draft:
            models = with_draft(config, self.dataset, models.target, models.target_path)
        windows = self.evaluator.workload.windows
        pair = (models.target, models.draft)
        limit = self._cache_limit
        evaluator = Evaluator(*pair, windows, config.decoding, cache_limit_bytes=limit)
        draft = summarise_model("draft", models.draft, models.draft_path, models.target)
        log.info("%s: %s", variant, draft)
        return replace(
            self,
            models=models,
            evaluator=evaluator,
            fingerprints=_fingerprints(config, models, evaluator),
            config=config,
            inputs=replace(self.inputs, draft=draft),
            share_costs=lambda key, learn: self.share_costs(key, learn),
            variant=variant,
            written=self,
            _baseline=None,
            _costs=None,
            _variants={},
        )

    @property
    def draft_path(self) -> str:
        """Where the draft comes from: a file, or a factory's name."""
        return str(self.models.draft_path)

    @property
    def device(self) -> str:
        """Where the models run, as torch calls it."""
        return str(self.evaluator.device)

    @property
    def baseline(self) -> Baseline:
        """Target, draft and a linear model alone on the same windows; computed on first use.

        That of a variant is without the linear model.
        """
        if self._baseline is None and self.written is not None:
            with self._users_code():
                target_alone = self.written.evaluator.target_alone
                self._baseline = self.evaluator.baseline(target_alone=target_alone)
        if self._baseline is None:
            try:
                linear = self.fit_linear()
            except DataError as error:  # a checkpoint needs no training split
                log.info("no linear model beside the pair: %s", error)
                linear = None
            with self._users_code():
                self._baseline = self.evaluator.baseline(linear)
        return self._baseline

    def _users_code(self) -> AbstractContextManager[None]:
        """Say where errors in models of the user's own arise."""
        return naming_factories(self.config.target.factory, self.config.draft.factory)

    def measure(self, setting: Setting) -> Measurement:
        """Measure a setting, without a prediction of its speedup.

        Raises:
            DecodingError: a forecast is not finite.
            WorkError: code of the user's own failed.
        """
        with self._users_code():
            return self.evaluator.measure(setting)

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting, and predict its speedup.

        Raises:
            DecodingError: a forecast is not finite.
            WorkError: code of the user's own failed, or an objective could not be predicted.
        """
        measurement = self.measure(setting)
        return replace(measurement, predicted_speedup=self._predict(measurement, setting))

    def _predict(self, measurement: Measurement, setting: Setting) -> float | None:
        """The speedup by the cost model; None if costs are not known.

        Raises:
            WorkError: they are not known, but the speedup is an objective of the study.
        """
        workload = self.evaluator.workload
        try:
            learnt = self._learnt_costs(setting.sigma)
        except DecodingError as error:
            # With scripted acceptance, decoding may diverge where this trial does not.
            log.warning("no speedup is predicted for %s: %s", setting, error)
            return None
        if not learnt.are_known:
            if "speedup" in self.config.search.objectives:
                raise WorkError(
                    f"the speedup is not known: {learnt}; run the study on an idle machine"
                )
            return None
        acceptance = acceptance_by_position(
            measurement.accepted_by_position, measurement.tested_by_position
        )
        return predicted_speedup(acceptance, workload.patches, learnt.costs, self._batch_size)

    @property
    def _batch_size(self) -> int:
        """Windows that are decoded together."""
        return min(self.config.decoding.batch_size, len(self.evaluator.workload.windows))

    def _learnt_costs(self, sigma: float) -> LearntCosts:
        """What the steps of decoding cost on this device; learnt or looked up on first use."""
        if self._costs is None:
            search, decoding = self.config.search, self.config.decoding
            learn = partial(
                learn_costs_quickly,
                self.evaluator.workload,
                self._batch_size,
                sigma=sigma,
                largest_k=search.k.high if isinstance(search.k, IntRange) else max(search.k),
                # Longer where trials are compared by their speedup.
                seconds=3.0 if "speedup" in search.objectives else 0.5,
            )
            key = _costs_key(decoding, self.evaluator.device)
            key += f"{OF_VARIANT}{self.variant}" if self.variant != AS_WRITTEN else ""
            self._costs = self.share_costs(key, learn)
            if not self._costs.are_known:
                log.warning("no speedup is predicted: %s", self._costs)
        return self._costs


def _fingerprints(config: StudyConfig, models: Models, evaluator: Evaluator) -> Fingerprints:
    decoding = decoding_fingerprint(config.decoding)
    if "speedup" in config.search.objectives:
        # Trials are compared by their speedup, which differs between devices and batch sizes.
        key = f"{decoding} {_costs_key(config.decoding, evaluator.device)}"
        decoding = hashlib.sha256(key.encode()).hexdigest()
    return Fingerprints(
        target=models.target.fingerprint,
        draft=models.draft.fingerprint,
        data=evaluator.workload.windows.fingerprint,
        decoding=decoding,
    )


def _costs_key(config: DecodingConfig, device: torch.device) -> str:
    """Names all that costs depend on besides the models."""
    return (
        f"{device_name(device)}, {config.precision}, {config.context} context, "
        f"batch size {config.batch_size}, {torch.get_num_threads()} threads"
    )
