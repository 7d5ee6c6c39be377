"""Growing contexts: both decoders agree, and rule `exact` stays lossless."""

from dataclasses import fields

import pytest
import torch

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import CONTEXTS, GROWING, ROLLING, EmittedBuffer, pairs
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.prefix_cache import PrefixCache
from spec_opt.decoding.speculative import Counters
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

from .stubs import (
    CRITICAL,
    Stub,
    decode,
    decode_alone,
    kolmogorov,
    normal_cdf,
    random_windows,
    windows_on,
    workload,
)

PATCH, CONTEXT, SEED = 4, 24, 7


def pair(
    layers: int = 2, patch: int = PATCH, gap: float = 0.05
) -> tuple[FrozenTimerXL, FrozenTimerXL]:
    """A target, and a draft whose weights are the target's with a little noise."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        target = TimerXL(TimerXLConfig(patch, 16, 2, 32, layers)).eval()
        draft = TimerXL(TimerXLConfig(patch, 16, 2, 32, layers, stochastic=True)).eval()
        draft.load_state_dict(target.state_dict(), strict=False)
        with torch.no_grad():
            for weight in draft.parameters():
                weight.add_(gap * torch.randn_like(weight))
    return FrozenTimerXL(target.double()), FrozenTimerXL(draft.double())


def test_pairs_go_slot_by_slot() -> None:
    member, slot = pairs(torch.tensor([2, 1, 3]))
    assert member.tolist() == [0, 1, 2, 0, 2, 2]
    assert slot.tolist() == [0, 0, 0, 1, 1, 2]


def test_the_buffer_gives_runs_that_reach_back_any_number_of_points() -> None:
    buffer = EmittedBuffer(torch.arange(6.0).view(1, 6, 1), patch=2, patches=2)
    row, zero = torch.tensor([0]), torch.tensor([0])
    buffer.write(row, zero, torch.tensor([[[6.0], [7.0]]]))

    for points in range(1, 7):
        expected = list(range(6 - points, 6))
        assert buffer.before(row, zero, points).flatten().tolist() == expected
    for points in range(1, 9):
        expected = list(range(8 - points, 8))
        assert buffer.before(row, zero + 1, points).flatten().tolist() == expected
    assert torch.equal(buffer.observed.flatten(), torch.arange(6.0))


def test_growing_forecasts_are_those_of_the_longer_series() -> None:
    """Each patch equals that of one full pass over all before it, with frozen statistics."""
    target, _ = pair(3)
    context = random_windows(5, CONTEXT, 1, 2).contexts().double()

    forecast = decode_alone(target, windows_on(context, 18), 0.0, SEED, GROWING)

    series = context
    for _ in range(5):
        series = torch.cat([series, GROWING.forecast(target, series, CONTEXT).mean], dim=1)
    torch.testing.assert_close(forecast, series[:, CONTEXT : CONTEXT + 18], rtol=0, atol=1e-9)


def test_the_first_patch_is_the_same_in_both_modes() -> None:
    target, draft = pair()
    context = random_windows(5, CONTEXT, 1, 2).contexts().double()
    for model in (target, draft):
        answers = [mode.forecast(model, context, CONTEXT) for mode in CONTEXTS.values()]
        torch.testing.assert_close(*answers, rtol=0, atol=1e-9)
    rolling, growing = (
        decode_alone(target, windows_on(context, 8), 0.0, SEED, mode)[:, PATCH:]
        for mode in (ROLLING, GROWING)
    )
    assert not torch.allclose(growing, rolling, atol=1e-3)


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("horizon", [4, 11, 28])
def test_both_decoders_agree(rule: str, k: int, horizon: int) -> None:
    target, draft = pair()
    windows = random_windows(24, CONTEXT, horizon, 2, seed=2)
    setting = Setting(sigma=0.05 if rule == "point" else 0.5, bias=1.0, k=k)

    work = workload(target, draft, rule, windows, SEED, GROWING)
    walk = PrefixCache(work, batch_size=7).walk(setting, forecast=True)
    parts = [work.speculatively(rows, setting) for rows in torch.split(torch.arange(24), 9)]

    plain = Counters.concatenate([part.counters for part in parts])
    for field in fields(Counters):
        assert torch.equal(vars(walk.counters)[field.name], vars(plain)[field.name]), field.name
    assert walk.forecast is not None
    forecast = torch.cat([part.forecast for part in parts])
    torch.testing.assert_close(walk.forecast, forecast, rtol=1e-5, atol=1e-5)


def test_rejections_and_acceptances_are_both_met() -> None:
    """By the settings above; otherwise they would show little."""
    target, draft = pair()
    windows = random_windows(24, CONTEXT, 28, 2, seed=2)
    for rule, sigma in (("stride", 0.5), ("exact", 0.5), ("point", 0.05)):
        cache = PrefixCache(workload(target, draft, rule, windows, SEED, GROWING))
        counters = cache.walk(Setting(sigma=sigma, bias=1.0, k=3)).counters
        rate = float(counters.accepted.sum() / counters.tested.sum())
        assert 0.02 < rate < 0.98, rule


def test_a_round_is_verified_in_one_pass() -> None:
    """The pass computes k + 1 patches, if the horizon has that many left."""
    target, draft = pair(gap=0.0)
    context = random_windows(3, CONTEXT, 1, 2).contexts().double()
    setting = Setting(sigma=10.0, bias=10.0, k=3)

    decoded = decode(
        workload(target, draft, "point", windows_on(context, 40), SEED, GROWING), setting
    )

    # Ten patches: 3 and a bonus, 3 and a bonus, 2. All are accepted.
    assert decoded.counters.rounds.tolist() == [3, 3, 3]
    assert decoded.counters.bonus.tolist() == [2, 2, 2]
    assert decoded.target_calls == 3
    assert decoded.target_evaluations == 3 * (4 + 4 + 2)
    assert decoded.draft_calls == 3 + 3 + 2


@pytest.mark.parametrize("bias", [1.0, 0.5])
@pytest.mark.parametrize("k", [1, 2])
def test_exact_is_lossless(bias: float, k: int) -> None:
    """Each emitted patch is the target's mean after the patches before it, plus its noise."""
    samples, sigma, patches = 4000, 0.5, 4
    target, draft = pair(layers=1, patch=2, gap=0.1)
    context = random_windows(1, 8, 1, 1).contexts().double().expand(samples, -1, -1)

    work = workload(target, draft, "exact", windows_on(context, 2 * patches), SEED, GROWING)
    decoded = decode(work, Setting(sigma=sigma, bias=bias, k=k))

    rate = float(decoded.counters.accepted.sum() / decoded.counters.tested.sum())
    assert 0.1 < rate < 0.95
    assert not decoded.counters.thinning_exhausted.any()
    series = context
    for patch in torch.split(decoded.forecast, 2, dim=1):
        mean = GROWING.forecast(target, series, 8).mean
        standardised = (patch - mean) / sigma
        for element in standardised.flatten(1).unbind(1):
            assert kolmogorov(normal_cdf(element)) < CRITICAL
        series = torch.cat([series, patch], dim=1)


def test_noise_is_that_of_the_window_and_position() -> None:
    target, _ = pair()
    context = random_windows(2, CONTEXT, 1, 2).contexts().double()
    windows = torch.tensor([5, 9])

    forecast = decode_alone(target, windows_on(context, 8, windows), 0.5, SEED, GROWING)

    mean = GROWING.forecast(target, torch.cat([context, forecast[:, :4]], dim=1), CONTEXT).mean
    draws = Draws(SEED, windows, torch.ones_like(windows))
    expected = mean + 0.5 * draws.normal(Purpose.TARGET_PATCH, (4, 2))
    torch.testing.assert_close(forecast[:, 4:], expected, rtol=0, atol=1e-6)


def test_a_model_without_a_memory_sees_the_last_points() -> None:
    model = Stub(2, lambda last: 0.5 * last + 0.1)
    windows = windows_on(torch.arange(8.0).view(2, 4, 1), 6)
    alone = [decode_alone(model, windows, 0.0, SEED, mode) for mode in (GROWING, ROLLING)]
    assert torch.equal(*alone)
