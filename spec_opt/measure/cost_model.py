"""The cost model: the time of a forecast from acceptance rates and the costs of the steps.

Pure arithmetic; docs/method.md derives it. A window with m patches left makes min(k, m) proposals a
round and emits one patch more than are accepted, but never past the horizon. The acceptance rates
by position in the round give the probability of every course of a forecast. These probabilities
and the costs give the time of a batch that decodes in lockstep, until its slowest window is done.

Terms are those of `Measurement`. Times are in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDEST_SPREAD: Final = 0.25
"""Repeats differ by 4 to 9 % on an idle machine. Where they differ by more than this, predictions
were up to 30 % off (benchmarks/results/prediction.md)."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a step that a number of windows take together."""

    fixed: float
    per_row: float
    per_proposal: float = 0.0

    def expected(self, chance: float, rows: float, proposals: float = 0.0) -> float:
        """Mean seconds if any window takes the step with probability `chance`, and `rows` windows
        with `proposals` proposals take it on average."""
        return self.fixed * chance + self.per_row * rows + self.per_proposal * proposals


@dataclass(frozen=True)
class Costs:
    """The cost of each step of decoding, everything up to the next step included.

    A model's first step of a forecast may have to read the whole context, so it is kept apart.
    """

    target_first: Cost
    """Target-only decoding: one patch."""
    target_next: Cost
    draft_first: Cost
    """One proposal."""
    draft_next: Cost
    verify_first: Cost
    """Verifying and judging all proposals of a round, and replacing the rejected one."""
    verify_next: Cost
    bonus: Cost


@dataclass(frozen=True)
class LearntCosts:
    """Costs, and how far the timings can be trusted that they were learnt from."""

    costs: Costs
    spread: float
    """Slowest over fastest repeat of the same decode, less 1; the median over decodes."""
    batch_sizes: tuple[int, ...] = ()
    """Of the batches that were timed; empty where a study of an older version holds the costs."""

    def cover(self, batch_size: int) -> bool:
        """Whether batches of this size were timed, or smaller and larger ones."""
        sizes = self.batch_sizes
        return bool(sizes) and min(sizes) <= batch_size <= max(sizes)

    @property
    def are_known(self) -> bool:
        """Whether repeats agree well enough to predict from."""
        return self.spread <= WIDEST_SPREAD

    def __str__(self) -> str:
        return f"timings of the same work varied by {100 * self.spread:.0f}%"


OF_VARIANT: Final = " | "
"""Before the variant, in the key of costs that are not of the study file as written."""


@dataclass(frozen=True)
class BatchCosts:
    """Costs that were learnt for batches of one size on one device."""

    device: str
    """Its name."""
    batch_size: int
    learnt: LearntCosts


@dataclass(frozen=True)
class Round:
    """Probabilities of one window in the t-th round of its forecast."""

    proposing: tuple[float, ...]
    """That it makes a proposal at each position of the round."""
    bonus: float
    """That it gets a bonus patch."""

    @property
    def active(self) -> float:
        """That it is not finished yet."""
        return self.proposing[0]


def acceptance_by_position(accepted: Sequence[int], tested: Sequence[int]) -> tuple[float, ...]:
    """The share of judged proposals that was accepted, at each position of the round.

    0 where none was judged: no window reached that position, so the value does not matter.
    """
    return tuple(a / t if t else 0.0 for a, t in zip(accepted, tested, strict=True))


def course(acceptance: Sequence[float], patches: int) -> tuple[Round, ...]:
    """The rounds of one window's forecast of `patches` patches, up to the last possible one.

    A Markov chain over the patches left: of w = min(k, left) proposals, j are accepted before a
    rejection with chance a_1 ... a_j (1 - a_(j + 1)), which emits j + 1 patches; all w with chance
    a_1 ... a_w, which emits w + 1, or w where none is left for a bonus.
    """
    k = len(acceptance)
    left = [0.0] * patches + [1.0]  # the chance that so many patches are left
    rounds = []
    while any(left[1:]):
        proposing = tuple(sum(left[slot + 1 :]) for slot in range(min(k, patches)))
        bonus = 0.0
        after = [0.0] * (patches + 1)
        for lacking in range(1, patches + 1):
            reached, wanted = left[lacking], min(k, lacking)
            for slot in range(wanted):
                after[lacking - slot - 1] += reached * (1.0 - acceptance[slot])
                reached *= acceptance[slot]
            if lacking > wanted:
                bonus += reached
                after[lacking - wanted - 1] += reached
            else:
                after[0] += reached
        rounds.append(Round(proposing, bonus))
        left = after
    return tuple(rounds)


def speculative_seconds(rounds: Sequence[Round], costs: Costs, batch: int) -> float:
    """Mean time of a batch that decodes in lockstep.

    A step costs its fixed part if at least one window takes it, and the rest per window.
    Verification includes a step of the target, so it is never priced below one: timings of the two
    that are noisy could say otherwise.
    """
    seconds = 0.0
    for number, chances in enumerate(rounds):
        verify = costs.verify_first if number == 0 else costs.verify_next
        target = costs.target_first if number == 0 else costs.target_next
        for slot, chance in enumerate(chances.proposing):
            draft = costs.draft_first if number == slot == 0 else costs.draft_next
            seconds += draft.expected(_some(chance, batch), batch * chance)
        active, bonus = chances.active, chances.bonus
        proposals = batch * sum(chances.proposing)
        least = target.expected(_some(active, batch), batch * active)
        seconds += max(least, verify.expected(_some(active, batch), batch * active, proposals))
        seconds += costs.bonus.expected(_some(bonus, batch), batch * bonus)
    return seconds


def target_only_seconds(patches: int, costs: Costs, batch: int) -> float:
    """Time of the same batch with the target alone."""
    later = (patches - 1) * costs.target_next.expected(1.0, batch)
    return costs.target_first.expected(1.0, batch) + later


def predicted_speedup(acceptance: Sequence[float], patches: int, costs: Costs, batch: int) -> float:
    """Target-only over speculative time, for forecasts of `patches` patches in lockstep batches."""
    speculative = speculative_seconds(course(acceptance, patches), costs, batch)
    return target_only_seconds(patches, costs, batch) / speculative


def _some(chance: float, batch: int) -> float:
    """The probability of at least one of `batch` independent events, each with `chance`."""
    return 1.0 - (1.0 - min(chance, 1.0)) ** batch
