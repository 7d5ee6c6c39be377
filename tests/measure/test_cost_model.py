"""The cost model, checked by hand and against simulation."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from spec_opt.measure.cost_model import (
    Cost,
    Costs,
    LearntCosts,
    Round,
    course,
    predicted_speedup,
    speculative_seconds,
    target_only_seconds,
)

COSTS = Costs(
    target_first=Cost(5.0, 0.5),
    target_next=Cost(2.0, 0.25),
    draft_first=Cost(1.0, 0.1),
    draft_next=Cost(0.5, 0.05),
    verify_first=Cost(6.0, 0.5, 0.3),
    verify_next=Cost(3.0, 0.2, 0.1),
    bonus=Cost(0.7, 0.2),
)


def expected_rounds(rounds: Sequence[Round], batch: int = 1) -> float:
    """Rounds until all of `batch` independent windows are finished, on average."""
    return sum(1.0 - (1.0 - min(chances.active, 1.0)) ** batch for chances in rounds)


@dataclass
class Simulation:
    """A lockstep batch, decoded step by step."""

    rounds: int = 0
    seconds: float = 0.0


def simulate(
    acceptance: Sequence[float], patches: int, batch: int, dice: random.Random
) -> Simulation:
    k, result = len(acceptance), Simulation()
    left = [patches] * batch
    while any(left):
        first = result.rounds == 0
        active = [b for b in range(batch) if left[b]]
        wanted = {b: min(k, left[b]) for b in active}
        for slot in range(max(wanted.values())):
            cost = COSTS.draft_first if first and slot == 0 else COSTS.draft_next
            result.seconds += cost.fixed + cost.per_row * sum(wanted[b] > slot for b in active)
        cost = COSTS.verify_first if first else COSTS.verify_next
        result.seconds += cost.fixed + cost.per_row * len(active)
        result.seconds += cost.per_proposal * sum(wanted.values())
        given = 0
        for b in active:
            run = 0
            while run < wanted[b] and dice.random() < acceptance[run]:
                run += 1
            left[b] -= run
            if run < wanted[b]:
                left[b] -= 1
            elif left[b]:
                left[b] -= 1
                given += 1
        if given:
            result.seconds += COSTS.bonus.fixed + COSTS.bonus.per_row * given
        result.rounds += 1
    return result


CASES = [
    # acceptance by position, patches
    ((0.7,), 4),
    ((0.7, 0.7, 0.7), 4),
    ((0.9, 0.6, 0.3, 0.8, 0.5), 11),
    ((0.2, 0.9), 7),
    ((0.5, 0.5, 0.5, 0.5, 0.5), 3),
]


@pytest.mark.parametrize("batch", [1, 2, 8, 64])
@pytest.mark.parametrize(("acceptance", "patches"), CASES)
def test_finite_horizon_and_lockstep_are_what_is_simulated(
    acceptance: tuple[float, ...], patches: int, batch: int
) -> None:
    dice = random.Random(0)
    runs = [simulate(acceptance, patches, batch, dice) for _ in range(4000 // batch + 150)]
    rounds = sum(run.rounds for run in runs) / len(runs)
    seconds = sum(run.seconds for run in runs) / len(runs)

    chances = course(acceptance, patches)

    assert expected_rounds(chances, batch) == pytest.approx(rounds, rel=0.03)
    assert speculative_seconds(chances, COSTS, batch) == pytest.approx(seconds, rel=0.03)


def test_a_forecast_of_two_patches_by_hand() -> None:
    """k = 1: accepted (0.6) and a bonus; or replaced, and a second round for the last patch."""
    first, second = course([0.6], 2)
    assert (first.proposing, first.bonus) == ((1.0,), 0.6)
    assert second.proposing == pytest.approx((0.4,))
    assert second.bonus == 0.0
    seconds = (1.1 + 6.8) + 0.6 * 0.9 + 0.4 * (0.55 + 3.3)
    assert speculative_seconds((first, second), COSTS, 1) == pytest.approx(seconds)
    # Two windows: the second round is needed unless both were lucky.
    assert expected_rounds((first, second), 2) == pytest.approx(1 + 1 - 0.36)


@pytest.mark.parametrize(("acceptance", "patches"), CASES)
def test_every_patch_is_emitted(acceptance: tuple[float, ...], patches: int) -> None:
    """Each judged proposal gives a patch, accepted or replaced; bonuses add the rest."""
    emitted = 0.0
    for chances in course(acceptance, patches):
        reached = 1.0
        emitted += chances.bonus
        for chance, rate in zip(chances.proposing, acceptance, strict=False):
            emitted += chance * reached
            reached *= rate
    assert emitted == pytest.approx(patches)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.0])
def test_a_far_horizon(rate: float, k: int) -> None:
    """Leviathan et al., and the limit of the finite formula."""
    closed = k + 1 if rate == 1.0 else (1 - rate ** (k + 1)) / (1 - rate)
    acceptance = [rate] * k
    assert expected_rounds(course(acceptance, 300)) == pytest.approx(300 / closed, rel=0.02)
    step = Cost(1.0, 0.0)
    draft = Cost(0.1, 0.0)
    free = Cost(0.0, 0.0)
    costs = Costs(step, step, draft, draft, step, step, free)
    speedup = predicted_speedup(acceptance, 300, costs, 1)
    assert speedup == pytest.approx(closed / (0.1 * k + 1.0), rel=0.02)


def test_all_accepted_and_none() -> None:
    assert [r.proposing for r in course([1.0, 1.0], 5)] == [(1.0, 1.0), (1.0, 1.0)]
    assert [r.bonus for r in course([1.0, 1.0], 5)] == [1.0, 0.0]
    nothing = course([0.0, 0.0], 3)
    assert [r.proposing for r in nothing] == [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0)]
    assert len(course([0.3] * 9, 2)[0].proposing) == 2


def test_target_only() -> None:
    assert target_only_seconds(4, COSTS, 8) == pytest.approx(5 + 0.5 * 8 + 3 * (2 + 0.25 * 8))
    acceptance = (0.8, 0.8)
    speedup = predicted_speedup(acceptance, 4, COSTS, 8)
    seconds = speculative_seconds(course(acceptance, 4), COSTS, 8)
    assert speedup == pytest.approx(21.0 / seconds)


def test_rejected_proposals_are_never_a_gain() -> None:
    """Not even by timings that say a verification is cheaper than the step it contains."""
    noisy = replace(COSTS, verify_first=Cost(1.0, 0.1), verify_next=Cost(0.5, 0.01))

    for batch in (1, 8, 64):
        assert predicted_speedup((0.0, 0.0, 0.0), 6, noisy, batch) < 1.0


def test_timings_that_disagree_are_not_known() -> None:
    assert LearntCosts(COSTS, spread=0.1).are_known
    varied = LearntCosts(COSTS, spread=0.9)
    assert not varied.are_known
    assert "varied by 90%" in str(varied)
