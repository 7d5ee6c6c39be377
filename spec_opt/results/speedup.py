"""A speedup over the target alone, as the store keeps it."""

from __future__ import annotations

from dataclasses import dataclass

CHEAPER = 1.1
"""A draft must be this much faster than its target to be worth using alone."""
FEWEST_RUNS = 3
"""With fewer runs, "in every run" says too little."""


@dataclass(frozen=True)
class Speedup:
    """Time of the target alone over that of a setting or of the draft alone, on one device."""

    trial: int | None
    """None for the draft alone."""
    device: str
    batch_size: int
    predicted_speedup: float | None
    speedup: float | None
    """As measured, by medians over runs; None if it was only predicted."""
    speedup_low: float | None = None
    """In the slowest run."""
    speedup_high: float | None = None
    """In the fastest run."""
    runs: int = 0
    """How often it was measured; not known (0) of results of older versions."""

    @property
    def value(self) -> float:
        """Measured, else predicted, else 0."""
        return self.speedup or self.predicted_speedup or 0.0

    @property
    def measured(self) -> bool:
        return self.speedup is not None

    @property
    def is_reliable(self) -> bool:
        """Whether it was measured often enough to speak of every run."""
        return self.runs >= FEWEST_RUNS

    @property
    def is_faster(self) -> bool:
        """Whether every run was faster than the target alone."""
        return self.is_reliable and self.speedup_low is not None and self.speedup_low > 1.0

    @property
    def is_slower(self) -> bool:
        """Whether every run was slower than the target alone, or the median is so by far."""
        if not self.is_reliable or self.speedup is None or self.speedup_high is None:
            return False
        return self.speedup_high < 1.0 or self.speedup * CHEAPER < 1.0

    @property
    def at_least(self) -> float:
        """The lowest measured speedup that is known; 0 where nothing was measured."""
        return (self.speedup if self.speedup_low is None else self.speedup_low) or 0.0
