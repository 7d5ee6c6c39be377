"""Tune speculative decoding of autoregressive time-series models with Optuna."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_opt.api import TuningStudy, open_study
    from spec_opt.config.study_file import Setting, StudyConfig
    from spec_opt.decoding.forecast import forecast
    from spec_opt.models.checkpoint import load_model
    from spec_opt.models.forecaster import Gaussian, fingerprint_of

__all__ = [
    "Gaussian",
    "Setting",
    "StudyConfig",
    "TuningStudy",
    "__version__",
    "fingerprint_of",
    "forecast",
    "load_model",
    "open_study",
]

__version__ = "0.1.0"

_HOMES = {
    "Gaussian": "spec_opt.models.forecaster",
    "Setting": "spec_opt.config.study_file",
    "StudyConfig": "spec_opt.config.study_file",
    "TuningStudy": "spec_opt.api",
    "fingerprint_of": "spec_opt.models.forecaster",
    "forecast": "spec_opt.decoding.forecast",
    "load_model": "spec_opt.models.checkpoint",
    "open_study": "spec_opt.api",
}


def __dir__() -> list[str]:
    """What is imported when asked for too, so that it is completed."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Imported when asked for: some bring torch or Optuna, which take a second."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
