"""Rule `exact` with a bias of at most 1 gives the target's own distribution, whatever the draft.

Every test here looks at samples of a fixed seed, with critical values of a level of 0.001 or less
per statistic, and the same statistics are shown to find a decoder that is not lossless.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.philox import Draws
from spec_opt.decoding.prefix_cache import PrefixCache
from spec_opt.decoding.rules import RULES, AcceptanceRule, ExactRule, StrideRule
from spec_opt.decoding.speculative import Counters
from spec_opt.models.forecaster import Forecaster, Gaussian

from . import stubs
from .stubs import (
    CRITICAL,
    Constant,
    Stub,
    decode_alone,
    kolmogorov,
    normal_cdf,
    random_windows,
    two_sample_kolmogorov,
    workload,
)

SIGMA = 0.5
SAMPLES = 20_000
SEED = 11

Decoder = Callable[
    [Forecaster, Forecaster, AcceptanceRule, Setting, int, int], tuple[Tensor, Counters]
]


def decode_plainly(
    target: Forecaster,
    draft: Forecaster,
    rule: AcceptanceRule,
    setting: Setting,
    horizon: int,
    channels: int,
) -> tuple[Tensor, Counters]:
    windows = random_windows(SAMPLES, target.patch, horizon, channels)
    decoded = stubs.decode(workload(target, draft, rule, windows, SEED), setting)
    return decoded.forecast, decoded.counters


def decode_with_cache(
    target: Forecaster,
    draft: Forecaster,
    rule: AcceptanceRule,
    setting: Setting,
    horizon: int,
    channels: int,
) -> tuple[Tensor, Counters]:
    windows = random_windows(SAMPLES, target.patch, horizon, channels)
    cache = PrefixCache(workload(target, draft, rule, windows, SEED), batch_size=SAMPLES)
    # What earlier settings left in the tree must not show.
    cache.walk(Setting(sigma=setting.sigma, bias=1.0, k=1))
    cache.walk(Setting(sigma=setting.sigma, bias=0.5, k=2))
    walk = cache.walk(setting, forecast=True)
    assert walk.forecast is not None
    return walk.forecast, walk.counters


decoders = pytest.mark.parametrize("decode", [decode_plainly, decode_with_cache])


class WrongResidual(ExactRule):
    """Exact acceptance, but a rejected proposal is replaced by a plain draw from the target."""

    def replace(
        self, draft: Gaussian, target_mean: Tensor, setting: Setting, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        return StrideRule().replace(draft, target_mean, setting, draws)


def chi_square_cdf(values: Tensor, degrees: int) -> Tensor:
    """For an even number of degrees of freedom."""
    half = values.double() / 2
    terms = [half**i / math.factorial(i) for i in range(degrees // 2)]
    return 1.0 - torch.exp(-half) * torch.stack(terms).sum(dim=0)


def deviation(standardised: Tensor, direction: Tensor) -> float:
    """The largest statistic of samples `[W, n]` that should be standard normal.

    Looked at: the projection on the direction from target to draft, on which acceptance depends;
    the projection on a direction at right angles to it; each element; and the squared length.
    """
    _, size = standardised.shape
    statistics = [kolmogorov(normal_cdf(standardised[:, i])) for i in range(size)]
    if size > 1:
        along = direction / direction.norm()
        across = torch.zeros(size)
        across[0], across[1] = -along[1], along[0]
        across /= across.norm()
        statistics += [kolmogorov(normal_cdf(standardised @ unit)) for unit in (along, across)]
        squared = standardised.double().square().sum(dim=1)
        statistics.append(kolmogorov(chi_square_cdf(squared, size)))
    else:
        statistics.append(kolmogorov(2 * normal_cdf(standardised.abs()) - 1))
    return max(statistics)


def one_dimension(gap: float, variance: float) -> tuple[Constant, Constant]:
    """A target around 1, and a draft `gap` sigmas away with `variance` times sigma squared."""
    return (
        Constant(torch.full((1, 1), 1.0)),
        Constant(torch.full((1, 1), 1.0 + gap * SIGMA), torch.full((1, 1), variance * SIGMA**2)),
    )


def many_dimensions(gap: float, smallest: float, largest: float) -> tuple[Constant, Constant]:
    """Patches of 2 x 3; the draft's variances run from `smallest` to `largest` sigma squared."""
    generator = torch.Generator().manual_seed(1)
    mean, direction = torch.randn(2, 2, 3, generator=generator)
    variance = torch.linspace(smallest, largest, 6).view(3, 2).T * SIGMA**2
    return (
        Constant(mean),
        Constant(mean + gap * SIGMA * direction / direction.norm(), variance.contiguous()),
    )


ONE = [
    # gap, variance of the draft: smaller than the target's, equal, larger
    (0.0, 0.25),
    (1.0, 0.25),
    (0.3, 1.0),
    (1.0, 1.0),
    (2.5, 1.0),
    (0.0, 4.0),
    (1.0, 4.0),
]
MANY = [(0.7, 0.5, 0.9), (1.0, 1.0, 1.0), (0.0, 0.4, 2.0), (1.5, 0.4, 2.0), (0.7, 1.1, 1.8)]


@decoders
@pytest.mark.parametrize("bias", [1.0, 0.4])
@pytest.mark.parametrize(("gap", "variance"), ONE)
def test_one_dimension(decode: Decoder, gap: float, variance: float, bias: float) -> None:
    target, draft = one_dimension(gap, variance)
    setting = Setting(sigma=SIGMA, bias=bias, k=1)

    forecast, counters = decode(target, draft, RULES["exact"], setting, 1, 1)

    standardised = (forecast.flatten(1) - target.mean.flatten()) / SIGMA
    assert deviation(standardised, torch.ones(1)) < CRITICAL
    assert 0.05 < float(counters.accepted.double().mean()) < 0.95
    assert not counters.thinning_exhausted.any()


@decoders
@pytest.mark.parametrize("bias", [1.0, 0.4])
@pytest.mark.parametrize(("gap", "smallest", "largest"), MANY)
def test_many_dimensions(
    decode: Decoder, gap: float, smallest: float, largest: float, bias: float
) -> None:
    target, draft = many_dimensions(gap, smallest, largest)
    setting = Setting(sigma=SIGMA, bias=bias, k=1)

    forecast, counters = decode(target, draft, RULES["exact"], setting, 2, 3)

    standardised = (forecast.flatten(1) - target.mean.flatten()) / SIGMA
    assert deviation(standardised, (draft.mean - target.mean).flatten() + 1e-6) < CRITICAL
    assert 0.05 < float(counters.accepted.double().mean()) < 0.95
    assert not counters.thinning_exhausted.any()


def test_a_draft_without_variance() -> None:
    target, draft = one_dimension(1.0, 1.0)
    setting = Setting(sigma=SIGMA, bias=1.0, k=1)

    forecast, _ = decode_plainly(target, Constant(draft.mean), RULES["exact"], setting, 1, 1)

    assert deviation((forecast.flatten(1) - 1.0) / SIGMA, torch.ones(1)) < CRITICAL


# Left out: gap 0.3, too small to see in so many samples; and with a bias of 0.4 the wide drafts,
# whose density is above 0.4 of the target's everywhere, so that all they are accepted with is a
# share of the target itself.
@decoders
@pytest.mark.parametrize(
    ("gap", "variance", "bias"),
    [
        (gap, variance, bias)
        for gap, variance in ONE
        for bias in (1.0, 0.4)
        if gap != 0.3 and not (variance > 1.0 and bias < 1.0)
    ],
)
def test_a_wrong_residual_is_found_in_one_dimension(
    decode: Decoder, gap: float, variance: float, bias: float
) -> None:
    target, draft = one_dimension(gap, variance)
    setting = Setting(sigma=SIGMA, bias=bias, k=1)

    forecast, _ = decode(target, draft, WrongResidual(), setting, 1, 1)

    standardised = (forecast.flatten(1) - target.mean.flatten()) / SIGMA
    assert deviation(standardised, torch.ones(1)) > 1.5 * CRITICAL


@pytest.mark.parametrize(("gap", "smallest", "largest"), MANY)
def test_a_wrong_residual_is_found_in_many_dimensions(
    gap: float, smallest: float, largest: float
) -> None:
    target, draft = many_dimensions(gap, smallest, largest)
    setting = Setting(sigma=SIGMA, bias=1.0, k=1)

    forecast, _ = decode_plainly(target, draft, WrongResidual(), setting, 2, 3)

    standardised = (forecast.flatten(1) - target.mean.flatten()) / SIGMA
    direction = (draft.mean - target.mean).flatten() + 1e-6
    assert deviation(standardised, direction) > 1.5 * CRITICAL


def test_variances_taken_for_their_mean_are_found() -> None:
    class MeanVariance(ExactRule):
        def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
            assert draft.variance is not None
            mean = draft.variance.mean(dim=(1, 2), keepdim=True).expand_as(draft.variance)
            return super().draft_term(proposal, Gaussian(draft.mean, mean), sigma)

    target, draft = many_dimensions(0.0, 0.4, 2.0)
    setting = Setting(sigma=SIGMA, bias=1.0, k=1)

    forecast, _ = decode_plainly(target, draft, MeanVariance(), setting, 2, 3)

    standardised = (forecast.flatten(1) - target.mean.flatten()) / SIGMA
    assert deviation(standardised, torch.ones(6)) > 1.5 * CRITICAL


def test_a_bias_above_one_is_not_lossless() -> None:
    target, draft = one_dimension(1.0, 1.0)
    setting = Setting(sigma=SIGMA, bias=3.0, k=1)

    forecast, _ = decode_plainly(target, draft, RULES["exact"], setting, 1, 1)

    assert deviation((forecast.flatten(1) - 1.0) / SIGMA, torch.ones(1)) > 1.5 * CRITICAL


# A pair with feedback: each patch's distribution depends on the patch before, and so do the gap
# between draft and target and the draft's variance. 1 channel, patches of 1 point.


def following(last: Tensor) -> Tensor:
    return 0.8 * last + 0.3


def feedback_pair() -> tuple[Stub, Stub]:
    return (
        Stub(1, following),
        Stub(1, lambda last: 0.5 * last - 0.1, lambda last: SIGMA**2 * (0.4 + 0.2 * last * last)),
    )


def innovations(forecast: Tensor) -> Tensor:
    """What the target adds to its mean at each position, in sigmas: `[W, M]`."""
    context = random_windows(SAMPLES, 1, forecast.shape[1], 1).contexts()
    path = torch.cat([context, forecast], dim=1).squeeze(2)
    return (path[:, 1:] - following(path[:, :-1])) / SIGMA


@decoders
@pytest.mark.parametrize(("k", "bias"), [(1, 1.0), (2, 0.6), (3, 1.0), (5, 1.0)])
def test_several_patches_that_feed_back(decode: Decoder, k: int, bias: float) -> None:
    target, draft = feedback_pair()
    setting = Setting(sigma=SIGMA, bias=bias, k=k)

    forecast, counters = decode(target, draft, RULES["exact"], setting, 4, 1)
    noise = innovations(forecast)

    for position in range(4):
        assert kolmogorov(normal_cdf(noise[:, position])) < CRITICAL
    # Innovations are independent of each other and of all that came before.
    bound = 4 / math.sqrt(SAMPLES)
    correlations = torch.corrcoef(noise.double().T) - torch.eye(4, dtype=torch.float64)
    assert float(correlations.abs().max()) < bound
    squares = torch.corrcoef(noise.double().square().T) - torch.eye(4, dtype=torch.float64)
    assert float(squares.abs().max()) < bound
    assert 0.2 < float(counters.accepted.sum() / counters.tested.sum()) < 0.9
    if k < 4:
        assert int(counters.bonus.sum()) > 0


@decoders
def test_several_patches_against_target_only_sampling(decode: Decoder) -> None:
    target, draft = feedback_pair()
    setting = Setting(sigma=SIGMA, bias=1.0, k=2)
    windows = random_windows(SAMPLES, 1, 4, 1)
    alone = decode_alone(target, windows, SIGMA, seed=SEED + 1).squeeze(2)

    forecast = decode(target, draft, RULES["exact"], setting, 4, 1)[0].squeeze(2)
    wrong = decode(target, draft, WrongResidual(), setting, 4, 1)[0].squeeze(2)

    def furthest(sample: Tensor) -> float:
        # The last point; their sum; the last step.
        views = [
            (paths[:, 3], paths.sum(dim=1), paths[:, 3] - paths[:, 2]) for paths in (sample, alone)
        ]
        return max(two_sample_kolmogorov(a, b) for a, b in zip(*views, strict=True))

    assert furthest(forecast) < CRITICAL
    assert furthest(wrong) > 1.5 * CRITICAL


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 6)])
@pytest.mark.parametrize("distance", [0.1, 0.5, 1.0, 2.0, 3.5])
def test_the_acceptance_rate_of_equal_covariances(distance: float, shape: tuple[int, int]) -> None:
    """Two Gaussians at a standardised distance of delta: accepted with 2 Phi(-delta / 2)."""
    points, channels = shape
    direction = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    mean = torch.linspace(-1.0, 1.0, points * channels).view(shape)
    target = Constant(mean)
    draft = Constant(
        mean + distance * SIGMA * direction / direction.norm(), torch.full(shape, SIGMA**2)
    )
    setting = Setting(sigma=SIGMA, bias=1.0, k=1)
    windows = random_windows(SAMPLES, points, points, channels)

    decoded = stubs.decode(workload(target, draft, "exact", windows, SEED), setting)

    expected = math.erfc(distance / 2 / math.sqrt(2))
    standard_error = math.sqrt(expected * (1 - expected) / SAMPLES)
    rate = float(decoded.counters.accepted.double().mean())
    assert int(decoded.counters.tested.sum()) == SAMPLES
    assert abs(rate - expected) < 4 * standard_error
