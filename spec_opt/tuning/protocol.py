"""What a worker asks of the thing that it evaluates."""

from typing import Protocol

from spec_opt.config import Setting
from spec_opt.measurement import Baseline, Fingerprints, Measurement


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


class Stop(Protocol):
    """What tells a worker to leave after its running trial; threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to leave."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until told to leave, `timeout` seconds at most; whether to leave."""
