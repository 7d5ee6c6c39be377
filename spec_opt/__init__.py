"""Tune speculative decoding of autoregressive time-series models with Optuna."""

__version__ = "0.1.0"
