"""What an evaluation gives back: frozen results, free of heavy imports.

Errors are in the data's standardised units, acceptance lies in [0, 1], times are in seconds.
"""

from dataclasses import dataclass


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
