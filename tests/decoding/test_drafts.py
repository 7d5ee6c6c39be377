"""Both decoders agree for every kind of draft; rule `exact` stays lossless with a linear one."""

from dataclasses import fields

import pytest
import torch

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import CONTEXTS
from spec_opt.decoding.prefix_cache import PrefixCache
from spec_opt.decoding.speculative import Counters
from spec_opt.models.adapted import adapted
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.linear import LinearForecaster
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

from .stubs import CRITICAL, decode, kolmogorov, normal_cdf, random_windows, windows_on, workload

PATCH, CONTEXT, CHANNELS, SEED = 4, 24, 2, 7


def network(patch: int, *, stochastic: bool = False) -> FrozenTimerXL:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = TimerXLConfig(patch, 16, 2, 32, 1, stochastic=stochastic)
        return FrozenTimerXL(TimerXL(config).double())


def linear(target: FrozenTimerXL, channels: int, context: int) -> LinearForecaster:
    """Least squares on noise: near enough to be accepted sometimes."""
    series = random_windows(400, context, 1, channels, seed=5).contexts().double()
    answers = target.predict(series).mean
    rows = series.transpose(1, 2).flatten(0, 1)
    matrix = torch.linalg.lstsq(rows, answers.transpose(1, 2).flatten(0, 1)).solution.T
    model = LinearForecaster(matrix.contiguous(), torch.ones(target.patch, channels).double())
    variance = (model.predict(series).mean - answers).square().mean(dim=0)
    return LinearForecaster(model.matrix, variance)


TARGET = network(PATCH)
DRAFTS: dict[str, MovableForecaster] = {
    "linear": linear(TARGET, CHANNELS, CONTEXT),
    "seasonal": LinearForecaster(torch.eye(PATCH).double(), torch.ones(PATCH, CHANNELS).double()),
    "shorter": adapted(network(PATCH, stochastic=True), TARGET, CONTEXT, 12),
    "two steps": adapted(network(2, stochastic=True), TARGET, CONTEXT, CONTEXT),
    "two steps and shorter": adapted(network(2, stochastic=True), TARGET, CONTEXT, 10),
    "no whole part": adapted(linear(network(3), CHANNELS, 15), TARGET, CONTEXT, 15),
}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
@pytest.mark.parametrize("mode", CONTEXTS)
def test_both_decoders_agree(draft: str, rule: str, mode: str) -> None:
    windows = random_windows(12, CONTEXT, 27, CHANNELS, seed=2)
    work = workload(TARGET, DRAFTS[draft], rule, windows, SEED, CONTEXTS[mode])
    cache = PrefixCache(work, batch_size=7)
    for k in (1, 3):
        setting = Setting(sigma=0.4 if rule == "point" else 0.5, bias=1.5, k=k)
        walk = cache.walk(setting, forecast=True)
        parts = [work.speculatively(rows, setting) for rows in torch.split(torch.arange(12), 5)]
        plain = Counters.concatenate([part.counters for part in parts])
        for field in fields(Counters):
            assert torch.equal(vars(walk.counters)[field.name], vars(plain)[field.name])
        assert walk.forecast is not None
        forecast = torch.cat([part.forecast for part in parts])
        torch.testing.assert_close(walk.forecast, forecast, rtol=1e-5, atol=1e-5)


def test_the_linear_draft_is_accepted_sometimes() -> None:
    windows = random_windows(24, CONTEXT, 28, CHANNELS, seed=2)
    for rule, sigma in (("stride", 0.5), ("exact", 0.5), ("point", 0.4)):
        cache = PrefixCache(workload(TARGET, DRAFTS["linear"], rule, windows, SEED))
        counters = cache.walk(Setting(sigma=sigma, bias=1.0, k=3)).counters
        assert 0.02 < float(counters.accepted.sum() / counters.tested.sum()) < 0.98, rule


@pytest.mark.parametrize("mode", CONTEXTS)
@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_exact_is_lossless(mode: str, bias: float) -> None:
    """Each emitted patch is the target's mean after the patches before it, plus its noise."""
    samples, sigma, patches = 4000, 0.5, 4
    target = network(2)
    context = random_windows(1, 8, 1, 1).contexts().double().expand(samples, -1, -1)
    contexts = CONTEXTS[mode]

    windows = windows_on(context, 2 * patches)
    work = workload(target, linear(target, 1, 8), "exact", windows, SEED, contexts)
    decoded = decode(work, Setting(sigma=sigma, bias=bias, k=2))

    rate = float(decoded.counters.accepted.sum() / decoded.counters.tested.sum())
    assert 0.1 < rate < 0.95
    assert not decoded.counters.thinning_exhausted.any()
    series = context
    for patch in torch.split(decoded.forecast, 2, dim=1):
        mean = contexts.forecast(target, series, 8).mean
        for element in ((patch - mean) / sigma).flatten(1).unbind(1):
            assert kolmogorov(normal_cdf(element)) < CRITICAL
        series = torch.cat([series, patch], dim=1)
