"""What a worker evaluates: a study's models on its windows, prepared once and kept in memory."""

from dataclasses import dataclass, field

from spec_opt.config import Setting, StudyConfig
from spec_opt.data import load_dataset
from spec_opt.evaluation import Evaluator, decoding_fingerprint
from spec_opt.measurement import Baseline, Fingerprints, Measurement
from spec_opt.models.training import prepare_models


@dataclass
class Objective:
    """Setting -> measurement, with what the measurement depends on."""

    evaluator: Evaluator
    fingerprints: Fingerprints
    _baseline: Baseline | None = field(default=None, repr=False)

    @classmethod
    def prepare(cls, config: StudyConfig) -> "Objective":
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
        return cls(evaluator, fingerprints)

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
        return self.evaluator.measure(setting)
