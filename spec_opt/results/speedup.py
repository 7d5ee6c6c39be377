"""A speedup as it was measured or predicted, how it is written, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHEAPER = 1.1
"""A draft must be this much faster than its target to be worth using alone."""
FEWEST_RUNS = 3
"""With fewer runs, "in every run" says too little."""
DISTURBED = 1.3
"""Equal runs that differ by more than this factor mean that the machine was busy."""


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
    target_low_s: float | None = None
    """Seconds of the target alone in its fastest run; not known of results of older versions."""
    target_high_s: float | None = None
    """Seconds of the target alone in its slowest run."""
    windows: int = 0
    """How many each run forecast, batch after batch; not known (0) of results of older versions."""

    def __str__(self) -> str:
        """With as many digits as the runs agree on: `1.40x`, `15x`, or `about 2x`."""
        if not self.is_steady:
            return f"about {_digits(self.value, 2)}x"
        return f"{self.value:.0f}x" if self.value >= 10 else f"{self.value:.2f}x"

    @property
    def value(self) -> float:
        """Measured, else predicted, else 0."""
        return self.speedup or self.predicted_speedup or 0.0

    @property
    def measured(self) -> bool:
        return self.speedup is not None

    @property
    def is_steady(self) -> bool:
        """Whether no two runs are known to differ much."""
        if self.speedup_low is None or self.speedup_high is None:
            return True
        return self.speedup_high < DISTURBED * self.speedup_low

    @property
    def range(self) -> str | None:
        """The slowest to the fastest run; None if it is not known, or there was one run only."""
        if self.speedup_low is None or self.speedup_high is None or self.runs == 1:
            return None
        digits = 3 if self.is_steady else 2
        low, high = (_digits(v, digits) for v in (self.speedup_low, self.speedup_high))
        return f"{low}x to {high}x"

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


def _digits(value: float, count: int) -> str:
    """Significant digits, never with an exponent."""
    return f"{float(f'{value:.{count}g}'):g}"


def disturbance(speedups: Iterable[Speedup]) -> str | None:
    """That the machine was busy while the target alone was timed; None if it is not known to be."""
    found = [
        (s.target_high_s / s.target_low_s, s.target_low_s, s.target_high_s, s.batch_size, s.windows)
        for s in speedups
        if s.target_low_s and s.target_high_s
    ]
    factor, low, high, batch_size, windows = max(found, default=(1.0, 0.0, 0.0, 0, 0))
    if factor < DISTURBED:
        return None
    work = f" for {windows} windows, batch after batch," if windows > batch_size else ""
    return (
        f"The machine was busy: equal runs of the target alone took {_milliseconds(low)} to "
        f"{_milliseconds(high)} ms{work} at batch size {batch_size}."
    )


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1.0 else f"{1e3 * seconds:.0f}"


def timings(speedups: Sequence[Speedup]) -> str | None:
    """What was measured at each of several batch sizes, in a line; None for fewer than two."""
    if len(speedups) < 2:
        return None
    found = [
        f"{one} at batch size {one.batch_size}{_runs(one)}"
        for one in sorted(speedups, key=lambda s: s.batch_size)
    ]
    return f"Timed: {', '.join(found)}."


def as_fast(speedups: Iterable[Speedup]) -> str:
    """How fast it is at each batch size, to follow "is"; empty if nothing was measured."""
    measured = sorted((s for s in speedups if s.measured), key=lambda s: s.batch_size)
    parts = [f"{s} at batch size {s.batch_size}" for s in measured]
    return ", ".join(parts).replace(" at", " as fast as the target alone at", 1)


def _runs(one: Speedup) -> str:
    if not one.runs:
        return ""
    if one.range is None:
        return f" ({one.runs} {'run' if one.runs == 1 else 'runs'})"
    return f" ({one.range} in {one.runs} runs)"
