"""What an evaluation gives back: frozen results, free of heavy imports.

Errors are in the data's standardised units, acceptance lies in [0, 1], times are in seconds.
"""

import statistics
from dataclasses import dataclass

from spec_opt.config.study_file import Setting


@dataclass(frozen=True)
class Blocks:
    """A measurement by runs of consecutive windows: from two of them on the same windows follows
    how sure the difference of two settings is."""

    rows: tuple[int, ...]
    """Where each block lies: the mean of its windows' first rows, rounded down."""
    reach: int
    """Rows of the series that the forecasts of one block cover."""
    mse: tuple[float, ...]
    """What each block adds to the MSE, times the number of blocks: their mean is the MSE."""
    accepted: tuple[int, ...]
    tested: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """One setting, measured on a set of windows.

    The counters are those of DESIGN section 2 and hold only proposals that lie within the horizon.
    """

    acceptance_rate: float
    """accepted / tested."""
    mse: float
    mae: float
    acceptance_se: float | None
    """Standard error over windows, their overlap respected; None for a single window."""
    mse_se: float | None
    windows: int
    accepted: int
    tested: int
    """Proposals that the rule judged: those up to and with the first rejection of a round."""
    proposed: int
    """Proposals drafted, judged or not."""
    rounds: int
    bonus: int
    patches: int
    """Patches emitted: windows times patches per forecast."""
    patches_per_round: float
    accepted_by_position: tuple[int, ...]
    """accepted, by position in the round; length k."""
    tested_by_position: tuple[int, ...]
    target_evaluations: int
    """Contexts that the target was run on for this measurement (fewer when cached)."""
    draft_evaluations: int
    thinning_exhausted: int
    """Replacements of rule `exact` for which the bound on tries was met (0 in practice)."""
    evaluation_seconds: float
    """The cost of measuring. Not a decoding time: `spec-opt bench` measures that."""
    blocks: Blocks
    predicted_speedup: float | None = None
    """Over the target alone, in lockstep batches of the study's size, by the cost model and by what
    the steps of decoding cost on the worker's device; `spec-opt bench` measures it."""


@dataclass(frozen=True)
class Baseline:
    """Target alone and draft alone (its mean) on the same windows."""

    target_mse: float
    target_mae: float
    target_mse_se: float | None
    draft_mse: float
    draft_mae: float
    draft_mse_se: float | None
    draft_minus_target_mse_se: float | None
    """Standard error of the paired difference draft - target, window by window."""

    @property
    def draft_is_as_good(self) -> bool:
        """Whether the draft's MSE is not clearly above the target's (two standard errors)."""
        slack = 2.0 * (self.draft_minus_target_mse_se or 0.0)
        return self.draft_mse <= self.target_mse + slack


@dataclass(frozen=True)
class Fingerprints:
    """What a study's numbers depend on; equal fingerprints mean comparable numbers."""

    target: str
    draft: str
    data: str
    decoding: str


@dataclass(frozen=True)
class Shares:
    """Where the time of speculative decoding goes; they add up to 1."""

    draft: float
    verification: float
    acceptance: float
    """Sampling, judging, replacing."""
    overhead: float


@dataclass(frozen=True)
class BenchRow:
    """One setting at one batch size: repeated runs over the same windows, taken in turns."""

    trial: int | None
    """None for a setting that was given."""
    setting: Setting
    context: str
    """rolling or growing"""
    batch_size: int
    windows: int
    """Forecasts per run; they are made in batches, one after the other."""
    patches: int
    """Patches per run."""
    rounds: int
    """Rounds per run, over all windows."""
    target_only: tuple[float, ...]
    """Seconds of each run: the target alone, with the same emission, precision and contexts."""
    speculative: tuple[float, ...]
    draft_only: tuple[float, ...]
    """The draft's means."""
    predicted_speedup: float
    target_only_calls: int
    """Calls of the model per run."""
    target_calls: int
    draft_calls: int
    shares: Shares
    acceptance_rate: float
    mse: float

    @property
    def target_only_s(self) -> float:
        return statistics.median(self.target_only)

    @property
    def speculative_s(self) -> float:
        return statistics.median(self.speculative)

    @property
    def draft_only_s(self) -> float:
        return statistics.median(self.draft_only)

    @property
    def speedup(self) -> float:
        """Target-only over speculative, medians."""
        return self.target_only_s / self.speculative_s

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and highest speedup of runs that stood side by side."""
        ratios = [a / b for a, b in zip(self.target_only, self.speculative, strict=True)]
        return min(ratios), max(ratios)

    @property
    def batches(self) -> int:
        """Batches per run; a forecast is there when its batch is."""
        return -(-self.windows // self.batch_size)


@dataclass(frozen=True)
class Case:
    """A setting to time, and what is known of it from all of the study's windows."""

    trial: int | None
    setting: Setting
    acceptance: tuple[float, ...]
    """By position in the round."""
    acceptance_rate: float
    mse: float
