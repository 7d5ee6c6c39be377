"""Tune speculative decoding of autoregressive time-series models with Optuna."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_opt.models.checkpoint import load_model

__all__ = ["__version__", "load_model"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_model` is imported when asked for: it brings torch, which takes a second."""
    if name == "load_model":
        from spec_opt.models.checkpoint import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
