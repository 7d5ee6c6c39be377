"""The results of measuring, as frozen dataclasses without heavy imports.

Errors are in the data's standardised units, acceptance lies in [0, 1], times are in seconds.
docs/method.md, "What is counted", defines the counters.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Final

from spec_opt.config.study_file import Setting


@dataclass(frozen=True)
class Blocks:
    """A measurement summarised in runs of consecutive windows, one entry a block.

    From them follow 95 % intervals, also of the difference of two settings on the same windows.
    """

    rows: tuple[int, ...]
    """Position of each block: the mean of its windows' first rows, rounded down."""
    windows: tuple[int, ...]
    width: int
    """Rows from the first window of a block to its last, in the widest block."""
    context: int
    horizon: int
    mse: tuple[float, ...]
    """Mean over each block's windows."""
    accepted: tuple[int, ...]
    tested: tuple[int, ...]

    def same_windows(self, other: "Blocks") -> bool:
        """Whether both are of the same windows, in the same blocks."""
        own, others = (
            (one.rows, one.windows, one.width, one.context, one.horizon) for one in (self, other)
        )
        return own == others


@dataclass(frozen=True)
class Measurement:
    """One setting, measured on a set of windows. Only proposals within the horizon are counted."""

    acceptance_rate: float
    """accepted / tested."""
    mse: float
    mae: float
    acceptance_se: float | None
    """Standard error over windows and random numbers, allowing for the overlap of windows; None for
    too few windows."""
    acceptance_ci95: float | None
    """Half of the 95 % interval: acceptance_rate ± this. Wider than two standard errors, which are
    uncertain themselves."""
    mse_se: float | None
    mse_ci95: float | None
    windows: int
    accepted: int
    tested: int
    """Proposals that the rule judged: those of a round up to and including the first rejection."""
    proposed: int
    """Proposals drafted, judged or not."""
    rounds: int
    bonus: int
    patches: int
    """Patches emitted: windows times seeds times patches per forecast."""
    patches_per_round: float
    accepted_by_position: tuple[int, ...]
    """accepted, by position in the round; length k."""
    tested_by_position: tuple[int, ...]
    target_evaluations: int
    """Contexts that the target was run on for this measurement; cached ones are not counted."""
    draft_evaluations: int
    thinning_exhausted: int
    """Replacements of rule `exact` for which thinning used up its tries (0 in practice)."""
    evaluation_seconds: float
    """The time that measuring took, not a decoding time; `spec-opt bench` measures those."""
    blocks: Blocks
    seeds: int = 1
    """How often each window was decoded; counters are sums over all seeds."""
    acceptance_seed_se: float | None = None
    """The part of `acceptance_se` that is due to random numbers; None for a single seed."""
    mse_seed_se: float | None = None
    predicted_speedup: float | None = None
    """Over the target alone, in lockstep batches of the study's size: the cost model's prediction
    from costs learnt on the worker's device. `spec-opt bench` measures the speedup."""


THE_SAME: Final = 1e-6
"""Relative difference of two MSEs by which one model may differ from itself: batches round."""


@dataclass(frozen=True)
class Baseline:
    """Target, draft and a linear model alone, each by its means, on the same windows."""

    target_mse: float
    target_mae: float
    target_mse_se: float | None
    draft_mse: float
    draft_mae: float
    draft_mse_se: float | None
    draft_minus_target_mse_se: float | None
    """Standard error of the paired difference, draft minus target, over windows."""
    # Studies of older versions lack what follows.
    target_mse_ci95: float | None = None
    """Half of the 95 % interval."""
    draft_mse_ci95: float | None = None
    draft_minus_target_mse_ci95: float | None = None
    target_blocks: tuple[float, ...] = ()
    """MSE by block, in the blocks of the study's trials."""
    draft_blocks: tuple[float, ...] = ()
    linear_mse: float | None = None
    """Of a linear model alone, which is fitted to the series itself and needs no target."""
    linear_mse_ci95: float | None = None
    linear_minus_target_mse_ci95: float | None = None

    @property
    def another_linear_mse(self) -> float | None:
        """`linear_mse`; None where the draft, or the target, is that linear model."""
        linear = self.linear_mse
        pair = (self.target_mse, self.draft_mse)
        if linear is None or any(math.isclose(linear, mse, rel_tol=THE_SAME) for mse in pair):
            return None
        return linear

    @property
    def levels(self) -> dict[str, float]:
        """The MSE of each model alone, by what it is called; none of them twice."""
        levels = {"target alone": self.target_mse, "draft alone": self.draft_mse}
        if (linear := self.another_linear_mse) is not None:
            levels["linear model alone"] = linear
        return levels


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of what a study's numbers depend on: equal fingerprints mean comparable numbers."""

    target: str
    draft: str
    data: str
    decoding: str


@dataclass(frozen=True)
class Shares:
    """Shares of the time of speculative decoding; they add up to 1."""

    draft: float
    verification: float
    acceptance: float
    """Sampling, judging, replacing."""
    overhead: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of times."""

    value: float
    """Of the medians."""
    low: float
    """The lowest of runs that were timed side by side."""
    high: float

    @classmethod
    def of(cls, times: tuple[float, ...], others: tuple[float, ...]) -> "Ratio":
        ratios = [a / b for a, b in zip(times, others, strict=True)]
        return cls(statistics.median(times) / statistics.median(others), min(ratios), max(ratios))


@dataclass(frozen=True)
class BenchRow:
    """One setting at one batch size: repeated runs over the same windows, timed in turns."""

    trial: int | None
    """None for a setting given on the command line."""
    setting: Setting
    context: str
    """rolling or growing"""
    batch_size: int
    windows: int
    """Forecasts per run, made in consecutive batches."""
    patches: int
    """Patches per run."""
    rounds: int
    """Rounds per run, over all windows."""
    target_only: tuple[float, ...]
    """Seconds of each run: the target alone, with the same noise, precision and context mode."""
    speculative: tuple[float, ...]
    draft_only: tuple[float, ...]
    """The draft's means."""
    predicted_speedup: float | None
    """None where time was too short to learn costs."""
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
    def speedup(self) -> Ratio:
        """Target-only over speculative time."""
        return Ratio.of(self.target_only, self.speculative)

    @property
    def draft_speedup(self) -> Ratio:
        """Target-only over draft-only time."""
        return Ratio.of(self.target_only, self.draft_only)

    @property
    def batches(self) -> int:
        """Batches per run."""
        return -(-self.windows // self.batch_size)


@dataclass(frozen=True)
class Case:
    """A setting to time, with its results on all of the study's windows."""

    trial: int | None
    setting: Setting
    acceptance: tuple[float, ...]
    """By position in the round."""
    acceptance_rate: float
    mse: float
