"""The cost model: what acceptance and the cost of each step make of a forecast's time.

Pure arithmetic; docs/method.md derives it. A window with m patches left makes min(k, m) proposals a
round and emits one patch more than are accepted, but never past the horizon. From the acceptance
rate at each position of a round follow the chances of every course that a forecast may take; from
these, and from what each step costs with so many windows at it, the time of a batch that decodes
in lockstep, whose rounds go on until its slowest window is done.

Words are those of `Measurement`. Times are in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of a step that `rows` windows take together."""

    fixed: float
    per_row: float
    per_proposal: float = 0.0

    def expected(self, chance: float, rows: float, proposals: float = 0.0) -> float:
        """Seconds on average, if the step is taken with a chance, by so many windows on average."""
        return self.fixed * chance + self.per_row * rows + self.per_proposal * proposals


@dataclass(frozen=True)
class Costs:
    """What each step of decoding costs, all that belongs to it included.

    The first step of a forecast, which may have to read the whole context, has a cost of its own.
    """

    target_first: Cost
    """Target-only decoding: one patch."""
    target_next: Cost
    draft_first: Cost
    """One proposal."""
    draft_next: Cost
    verify_first: Cost
    """Verification and judgement of all proposals of a round, and the replacement."""
    verify_next: Cost
    bonus: Cost


@dataclass(frozen=True)
class Round:
    """The chances of one window in the t-th round of its forecast."""

    proposing: tuple[float, ...]
    """That it makes a proposal at each position; the first: that it is not finished yet."""
    bonus: float
    """That it gets a bonus patch."""

    @property
    def active(self) -> float:
        return self.proposing[0]


def acceptance_by_position(accepted: Sequence[int], tested: Sequence[int]) -> tuple[float, ...]:
    """Of the proposals judged at each position of a round, the share that was accepted.

    Where none was judged no window ever came, so any value does: 0.
    """
    return tuple(a / t if t else 0.0 for a, t in zip(accepted, tested, strict=True))


def patches_per_round(acceptance: Sequence[float]) -> float:
    """Patches that a round of len(acceptance) proposals emits on average, the horizon being far.

    For a constant rate a: (1 - a^(k + 1)) / (1 - a) (Leviathan et al. 2023, equation 1).
    """
    total = reached = 1.0
    for rate in acceptance:
        reached *= rate
        total += reached
    return total


def far_horizon_speedup(
    acceptance: Sequence[float], draft_cost: float, verification_cost: float = 1.0
) -> float:
    """Speedup of one window whose horizon is far, over target-only decoding.

    Args:
        acceptance: by position in the round; its length is k.
        draft_cost: c, a step of the draft over one of the target alone.
        verification_cost: v(k), a verification over a step of the target alone; 1 where a device
            verifies k patches in the time of one, as Leviathan et al. 2023 (theorem 3.8) have it.
    """
    return patches_per_round(acceptance) / (len(acceptance) * draft_cost + verification_cost)


def course(acceptance: Sequence[float], patches: int) -> tuple[Round, ...]:
    """The rounds of one window's forecast of `patches` patches, as many as it may take.

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


def expected_rounds(rounds: Sequence[Round], batch: int = 1) -> float:
    """Rounds until all of `batch` independent windows are finished, on average."""
    return sum(_some(chances.active, batch) for chances in rounds)


def speculative_seconds(rounds: Sequence[Round], costs: Costs, batch: int) -> float:
    """Time of a batch whose windows make their rounds together.

    A step costs its fixed part when at least one window takes it, the rest per window that does.
    """
    seconds = 0.0
    for number, chances in enumerate(rounds):
        verify = costs.verify_first if number == 0 else costs.verify_next
        for slot, chance in enumerate(chances.proposing):
            draft = costs.draft_first if number == slot == 0 else costs.draft_next
            seconds += draft.expected(_some(chance, batch), batch * chance)
        active, bonus = chances.active, chances.bonus
        proposals = batch * sum(chances.proposing)
        seconds += verify.expected(_some(active, batch), batch * active, proposals)
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
    """The chance that at least one of `batch` independent windows does what each does with one."""
    return 1.0 - (1.0 - min(chance, 1.0)) ** batch
