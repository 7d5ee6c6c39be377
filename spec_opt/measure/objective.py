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
from spec_opt.data.summary import SeriesSummary, summarise
from spec_opt.data.windows import Dataset, load_dataset
from spec_opt.errors import DataError, DecodingError, WorkError
from spec_opt.measure.cost_learning import learn_costs_quickly
from spec_opt.measure.cost_model import LearntCosts, acceptance_by_position, predicted_speedup
from spec_opt.measure.evaluator import Evaluator, decoding_fingerprint
from spec_opt.measure.measurement import Baseline, Fingerprints, Measurement
from spec_opt.models.device import device_name
from spec_opt.models.linear import LinearForecaster, fit_to_series
from spec_opt.models.preparation import Models, prepare_models
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

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting. An exception fails the trial, not the study."""


ShareCosts = Callable[[str, Callable[[], LearntCosts]], LearntCosts]
"""From a key and a function that learns costs to the costs that are kept under the key."""


def _keep_to_oneself(key: str, learn: Callable[[], LearntCosts]) -> LearntCosts:
    del key
    return learn()


@dataclass
class StudyObjective:
    """The objective of a study file: its models on its windows, prepared once, kept in memory."""

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
        evaluator = Evaluator(models.target, models.draft, windows, config.decoding)
        decoding = decoding_fingerprint(config.decoding)
        if "speedup" in config.search.objectives:
            # Trials are compared by their speedup, which differs between devices and batch sizes.
            key = f"{decoding} {_costs_key(config.decoding, evaluator.device)}"
            decoding = hashlib.sha256(key.encode()).hexdigest()
        fingerprints = Fingerprints(
            target=models.target.fingerprint,
            draft=models.draft.fingerprint,
            data=windows.fingerprint,
            decoding=decoding,
        )
        fit = partial(fit_to_series, dataset, data.context, models.target.patch)
        return cls(evaluator, fingerprints, config, inputs, fit)

    @property
    def device(self) -> str:
        """Where the models run, as torch calls it."""
        return str(self.evaluator.device)

    @property
    def baseline(self) -> Baseline:
        """Target, draft and a linear model alone on the same windows; computed on first use."""
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

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting.

        Raises:
            DecodingError: a forecast is not finite.
            WorkError: code of the user's own failed.
        """
        with self._users_code():
            measurement = self.evaluator.measure(setting)
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
            self._costs = self.share_costs(_costs_key(decoding, self.evaluator.device), learn)
            if not self._costs.are_known:
                log.warning("no speedup is predicted: %s", self._costs)
        return self._costs


def _costs_key(config: DecodingConfig, device: torch.device) -> str:
    """Names all that costs depend on besides the models."""
    return (
        f"{device_name(device)}, {config.precision}, {config.context} context, "
        f"batch size {config.batch_size}, {torch.get_num_threads()} threads"
    )
