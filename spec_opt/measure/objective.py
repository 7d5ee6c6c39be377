"""What a worker evaluates: a study's models on its windows, prepared once and kept in memory.

What a worker asks of the thing that it evaluates.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.values import IntRange
from spec_opt.data.windows import load_dataset
from spec_opt.errors import DecodingError
from spec_opt.measure.cost_learning import learn_costs_quickly
from spec_opt.measure.cost_model import Costs, acceptance_by_position, predicted_speedup
from spec_opt.measure.evaluator import Evaluator, decoding_fingerprint
from spec_opt.measure.measurement import Baseline, Fingerprints, Measurement
from spec_opt.models.training import prepare_models

log = logging.getLogger(__name__)

LEARNING_SECONDS: Final = {2: 0.5, 3: 3.0}
"""What it may take a worker, once, to learn what the steps of decoding cost on its device: more
where the speedup is an objective and so has to compare from one worker to the next."""


class Objective(Protocol):
    """Models and windows, ready to be measured at any setting."""

    @property
    def fingerprints(self) -> Fingerprints:
        """What the numbers depend on."""

    @property
    def baseline(self) -> Baseline:
        """Target alone and draft alone."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", or a GPU's name."""

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting. Whatever it raises fails the trial, not the study."""


@dataclass
class StudyObjective:
    """Setting -> measurement, with what the measurement depends on."""

    evaluator: Evaluator
    fingerprints: Fingerprints
    config: StudyConfig
    _baseline: Baseline | None = field(default=None, repr=False)
    _costs: Costs | None = field(default=None, repr=False)

    @classmethod
    def prepare(cls, config: StudyConfig) -> "StudyObjective":
        """Read the series, load or make the models, cut the windows.

        Raises:
            InputError: the series, a checkpoint or the device does not fit the study.
            TrainingError: a model could not be fitted.
        """
        dataset = load_dataset(config.data)
        data = config.data
        windows = dataset.windows(
            data.split, data.context, data.horizon, data.window_stride, data.max_windows
        )
        models = prepare_models(config, dataset)
        # Before the models are cast to the precision of decoding, which changes their hash.
        fingerprints = Fingerprints(
            target=models.target.fingerprint,
            draft=models.draft.fingerprint,
            data=windows.fingerprint,
            decoding=decoding_fingerprint(config.decoding),
        )
        evaluator = Evaluator(models.target, models.draft, windows, config.decoding)
        return cls(evaluator, fingerprints, config)

    @property
    def device(self) -> str:
        """Where the models run, as torch names it."""
        return str(self.evaluator.device)

    @property
    def baseline(self) -> Baseline:
        """Target alone and draft alone on the same windows; computed when first asked for."""
        if self._baseline is None:
            self._baseline = self.evaluator.baseline()
        return self._baseline

    def __call__(self, setting: Setting) -> Measurement:
        """Measure a setting.

        Raises:
            DecodingError: a forecast is not finite.
        """
        measurement = self.evaluator.measure(setting)
        return replace(measurement, predicted_speedup=self._predict(measurement, setting))

    def _predict(self, measurement: Measurement, setting: Setting) -> float | None:
        """The speedup by the cost model; None if costs cannot be learnt."""
        workload = self.evaluator.workload
        batch_size = min(self.config.decoding.batch_size, len(workload.windows))
        if self._costs is None:
            k = self.config.search.k
            largest = k.high if isinstance(k, IntRange) else max(k)
            try:
                self._costs = learn_costs_quickly(
                    workload,
                    batch_size,
                    sigma=setting.sigma,
                    ks=(1, largest),
                    seconds=LEARNING_SECONDS[len(self.config.search.objectives)],
                )
            except DecodingError as error:
                # Its dice are scripted, so it may diverge where this trial does not.
                log.warning("no speedup is predicted for %s: %s", setting, error)
                return None
        acceptance = acceptance_by_position(
            measurement.accepted_by_position, measurement.tested_by_position
        )
        return predicted_speedup(acceptance, workload.patches, self._costs, batch_size)
