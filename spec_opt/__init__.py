"""Tune speculative decoding of autoregressive time-series models with Optuna."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_opt.config.study_file import Setting
    from spec_opt.decoding.forecast import forecast
    from spec_opt.models.checkpoint import load_model
    from spec_opt.models.forecaster import Gaussian, fingerprint_of

__all__ = ["Gaussian", "Setting", "__version__", "fingerprint_of", "forecast", "load_model"]

__version__ = "0.1.0"

_HOMES = {
    "Gaussian": "spec_opt.models.forecaster",
    "Setting": "spec_opt.config.study_file",
    "fingerprint_of": "spec_opt.models.forecaster",
    "forecast": "spec_opt.decoding.forecast",
    "load_model": "spec_opt.models.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: it brings torch, which takes a second."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
