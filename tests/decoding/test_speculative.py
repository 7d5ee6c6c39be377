"""The plain decoder: what it counts and emits, checked by hand and by invariants."""

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import patches_to_cover
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.speculative import Counters, Decoded
from spec_opt.errors import DecodingError
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.forecaster import Forecaster, Gaussian

from . import stubs
from .stubs import (
    Constant,
    Counting,
    Near,
    Stub,
    decode_alone,
    random_windows,
    windows_on,
    workload,
)

SURE = Setting(sigma=0.01, bias=1.0, k=3)
"""Under rule `point`, accepts equal means and rejects means a unit apart."""


def decode(
    target: Forecaster,
    draft: Forecaster,
    rule: str,
    setting: Setting,
    context: Tensor,
    horizon: int,
    windows: Tensor | None = None,
    seed: int = 5,
) -> Decoded:
    work = workload(target, draft, rule, windows_on(context, horizon, windows), seed)
    return stubs.decode(work, setting)


@pytest.fixture(scope="module")
def tiny(reference_dir: Path) -> tuple[Forecaster, Forecaster]:
    return (
        load_timer_xl(reference_dir / "tiny_target.pth"),
        load_timer_xl(reference_dir / "tiny_draft.pth"),
    )


def counts_up(last: Tensor) -> Tensor:
    return last + 1.0


def errs_after_two(last: Tensor) -> Tensor:
    """Counts up, but is a unit too high after a 2."""
    return last + 1.0 + (last == 2.0)


class TestByHand:
    """The target counts up from the last value; the draft's errors are always rejected."""

    def test_every_decision_of_three_windows(self) -> None:
        context = torch.tensor([[[0.0]], [[2.0]], [[-10.0]]])
        target, draft = Counting(Stub(1, counts_up)), Counting(Stub(1, errs_after_two))

        decoded = decode(target, draft, "point", SURE, context, horizon=6)

        # The target's means throughout: wrong proposals were replaced.
        assert decoded.forecast.squeeze(2).tolist() == [
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            [3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            [-9.0, -8.0, -7.0, -6.0, -5.0, -4.0],
        ]
        # Window 0: proposes 1 2 [4], the third rejected and replaced by 3;
        #           proposes 4 5 6, all accepted, none lacking: no bonus.
        # Window 1: proposes [4] 5 6, the first rejected; 4 5 6 accepted, bonus 7; proposes 8.
        # Window 2: proposes three, bonus; then two are lacking: proposes two.
        counters = decoded.counters
        assert counters.accepted.tolist() == [[2, 2, 1], [2, 1, 1], [2, 2, 1]]
        assert counters.tested.tolist() == [[2, 2, 2], [3, 1, 1], [2, 2, 1]]
        assert counters.proposed.tolist() == [6, 7, 5]
        assert counters.rounds.tolist() == [2, 3, 2]
        assert counters.bonus.tolist() == [0, 1, 1]
        assert counters.thinning_exhausted.tolist() == [0, 0, 0]
        assert decoded.draft_evaluations == len(draft.contexts) == 18
        assert decoded.target_evaluations == len(target.contexts) == 18 + 2

    def test_a_rejection_hides_what_follows(self) -> None:
        """Proposals after a rejection are neither tested nor emitted, even if they are right."""
        context = torch.tensor([[[2.0]]])

        decoded = decode(
            Stub(1, counts_up), Stub(1, errs_after_two), "point", SURE, context, horizon=3
        )

        assert decoded.forecast.flatten().tolist() == [3.0, 4.0, 5.0]
        assert decoded.counters.tested.tolist() == [[2, 1, 0]]
        assert decoded.counters.accepted.tolist() == [[1, 1, 0]]
        assert decoded.counters.proposed.tolist() == [3 + 2]

    def test_chance_decides_where_the_rule_leaves_it_to_chance(self) -> None:
        """Rule `point`, a constant gap: accepted exactly where the uniform is at most alpha."""
        target, draft = Constant(torch.zeros(1, 1)), Constant(torch.full((1, 1), 0.5))
        setting = Setting(sigma=0.5, bias=1.2, k=1)
        alpha = 1.2 * torch.exp(torch.tensor(-0.5))
        windows = torch.arange(200)
        draws = Draws(5, windows, torch.zeros_like(windows))
        expected = draws.uniform(Purpose.ACCEPTANCE) <= alpha

        decoded = decode(target, draft, "point", setting, torch.zeros(200, 1, 1), 1, windows)

        assert torch.equal(decoded.counters.accepted.squeeze(1).bool(), expected)
        assert torch.equal(decoded.forecast.flatten(), torch.where(expected, 0.5, 0.0))
        assert 100 < int(expected.sum()) < 190

    @pytest.mark.parametrize("rule", ["stride", "exact"])
    def test_samples_are_those_of_window_and_position(self, rule: str) -> None:
        """Draft and target equal, so all is accepted: proposals at 0, 1, 3, 4, a bonus at 2."""
        model = Constant(torch.zeros(2, 1), torch.full((2, 1), 0.25))
        windows = torch.tensor([4, 8, 15])
        setting = Setting(sigma=0.5, bias=2.0, k=2)

        decoded = decode(model, model, rule, setting, torch.zeros(3, 2, 1), 10, windows)

        assert decoded.counters.bonus.tolist() == [1, 1, 1]
        for position in range(5):
            purpose = Purpose.TARGET_PATCH if position == 2 else Purpose.PROPOSAL
            draws = Draws(5, windows, torch.full_like(windows, position))
            torch.testing.assert_close(
                decoded.forecast[:, 2 * position : 2 * position + 2],
                0.5 * draws.normal(purpose, (2, 1)),
            )


class TestHorizon:
    @pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
    @pytest.mark.parametrize("horizon", [1, 4, 5, 14, 16])
    def test_nothing_is_proposed_past_it(self, k: int, horizon: int) -> None:
        """A draft that is always right: rounds of k proposals and a bonus, cut at the horizon."""
        patches = patches_to_cover(horizon, 4)
        model = Counting(Stub(4, counts_up))
        draft = Counting(Stub(4, counts_up))
        context = torch.zeros(2, 4, 1)

        decoded = decode(model, draft, "point", Setting(sigma=1.0, bias=1.0, k=k), context, horizon)

        rounds, lacking = 0, patches
        while lacking > 0:
            rounds, lacking = rounds + 1, lacking - k - 1
        assert decoded.forecast.shape == (2, horizon, 1)
        assert decoded.counters.rounds.tolist() == [rounds] * 2
        assert decoded.counters.bonus.tolist() == [patches // (k + 1)] * 2
        assert decoded.counters.proposed.tolist() == [patches - patches // (k + 1)] * 2
        assert len(draft.contexts) == 2 * (patches - patches // (k + 1))
        assert len(model.contexts) == 2 * patches

    def test_finished_windows_are_not_worked_on(self) -> None:
        """One window needs a single round, the other one round per patch."""
        context = torch.tensor([[[0.0]], [[100.0]]])
        draft = Counting(Stub(1, lambda last: last + 1.0 + (last > 50.0)))
        target = Counting(Stub(1, counts_up))

        decoded = decode(target, draft, "point", SURE, context, horizon=4)

        assert decoded.counters.rounds.tolist() == [1, 4]
        assert decoded.counters.proposed.tolist() == [3, 3 + 3 + 2 + 1]
        assert len(draft.contexts) == 3 + 9
        assert len(target.contexts) == 3 + 1 + 9


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
def test_a_draft_without_variance(rule: str) -> None:
    target, draft = Stub(2, counts_up), Stub(2, lambda last: last + 0.9)
    context = torch.zeros(500, 2, 1)

    decoded = decode(target, draft, rule, Setting(sigma=0.3, bias=1.0, k=2), context, 8)

    rate = decoded.counters.accepted.sum() / decoded.counters.tested.sum()
    assert 0.2 < float(rate) < 1.0
    assert bool(torch.isfinite(decoded.forecast).all())


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_and_order_change_nothing(
    tiny: tuple[Forecaster, Forecaster], rule: str, batch: int
) -> None:
    target = tiny[0]
    draft = Near(target, 0.08, 0.25)
    windows = random_windows(64, 96, 130, 2, seed=3)
    setting = Setting(sigma=0.5 if rule != "point" else 0.05, bias=1.0, k=3)
    together = decode(target, draft, rule, setting, windows.contexts(), 130, windows.starts)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))

    parts = [
        decode(target, draft, rule, setting, windows.contexts(rows), 130, windows.starts[rows])
        for rows in (order[first : first + batch] for first in range(0, 64, batch))
    ]
    counters = Counters.concatenate([part.counters for part in parts])

    rate = float(together.counters.accepted.sum() / together.counters.tested.sum())
    assert 0.1 < rate < 0.9
    for field in fields(Counters):
        name = field.name
        assert torch.equal(vars(counters)[name], vars(together.counters)[name][order]), name
    forecast = torch.cat([part.forecast for part in parts])
    torch.testing.assert_close(forecast, together.forecast[order], rtol=0, atol=1e-5)


@dataclass(frozen=True)
class Case:
    rule: str
    setting: Setting
    horizon: int
    gap: float
    variance: float | None


cases = st.builds(
    Case,
    rule=st.sampled_from(["stride", "exact", "point"]),
    setting=st.builds(
        Setting,
        sigma=st.floats(0.05, 2.0),
        bias=st.floats(1.0, 10.0),
        k=st.integers(1, 7),
    ),
    horizon=st.integers(1, 25),
    gap=st.floats(0.0, 1.5),
    variance=st.none() | st.floats(0.01, 4.0),
)


@settings(max_examples=150)
@given(case=cases)
def test_counters_add_up(case: Case) -> None:
    batch, k = 12, case.setting.k
    target = Stub(3, lambda last: 0.5 * last)
    variance = case.variance
    draft = Stub(
        3,
        lambda last: 0.4 * last + case.gap,
        None if variance is None else lambda last: torch.full_like(last, variance),
    )
    context = random_windows(batch, 3, 1, 2).contexts()

    decoded = decode(target, draft, case.rule, case.setting, context, case.horizon)

    counters = decoded.counters
    patches = patches_to_cover(case.horizon, 3)
    accepted, tested = counters.accepted.sum(dim=1), counters.tested.sum(dim=1)
    replacements = tested - accepted
    assert decoded.forecast.shape == (batch, case.horizon, 2)
    assert counters.accepted.shape == counters.tested.shape == (batch, k)
    assert bool((counters.accepted <= counters.tested).all())
    assert bool((tested <= counters.proposed).all())
    # Every patch is an accepted proposal, a replacement or a bonus.
    assert bool((accepted + replacements + counters.bonus == patches).all())
    # A round ends by a replacement, a bonus, or the horizon, which ends only the last one.
    ended = replacements + counters.bonus
    assert bool(((counters.rounds == ended) | (counters.rounds == ended + 1)).all())
    # Position i + 1 of a round is reached by acceptance at i only.
    assert bool((counters.tested[:, 1:] <= counters.accepted[:, :-1]).all())
    assert torch.equal(counters.tested[:, 0], counters.rounds)
    assert bool((counters.proposed <= counters.rounds * k).all())
    assert bool((counters.rounds >= -(-patches // (k + 1))).all())
    assert bool((counters.rounds <= patches).all())
    assert decoded.draft_evaluations == int(counters.proposed.sum())
    assert decoded.target_evaluations == int(counters.proposed.sum() + counters.bonus.sum())


def test_all_rejected_is_the_target_alone(tiny: tuple[Forecaster, Forecaster]) -> None:
    """Where nothing is accepted, `stride` emits what target-only sampling does."""
    windows = random_windows(6, 96, 100, 3)
    setting = Setting(sigma=0.1, bias=1.0, k=3)
    alone = decode_alone(tiny[0], windows, 0.1, seed=5)

    decoded = decode(*tiny, "stride", setting, windows.contexts(), 100, windows.starts)

    assert int(decoded.counters.accepted.sum()) == 0
    torch.testing.assert_close(decoded.forecast, alone, rtol=0, atol=1e-5)


def test_a_seed_fixes_the_forecast() -> None:
    target, draft = Stub(2, counts_up), Stub(2, counts_up)
    setting, context = Setting(sigma=0.3, bias=1.0, k=2), torch.zeros(8, 2, 1)

    first, again, other = (
        decode(target, draft, "stride", setting, context, 6, seed=seed) for seed in (1, 1, 2)
    )

    assert torch.equal(first.forecast, again.forecast)
    assert not bool(torch.isclose(first.forecast, other.forecast).any())


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
@pytest.mark.parametrize("broken", ["target", "draft"])
def test_what_is_not_finite_stops_decoding(rule: str, broken: str) -> None:
    class Broken:
        patch = 2
        fingerprint = "broken"

        def predict(self, context: Tensor) -> Gaussian:
            return Gaussian(torch.full_like(context[:, -2:], torch.nan), None)

    sound = Stub(2, counts_up)
    target, draft = (Broken(), sound) if broken == "target" else (sound, Broken())

    with pytest.raises(DecodingError, match="not finite"):
        decode(target, draft, rule, SURE, torch.zeros(3, 2, 1), 6)
