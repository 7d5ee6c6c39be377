"""Intervals: known answers, coverage by simulation, judgements of differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.coverage import Scenario, coverage
from spec_opt.measure.measurement import Baseline, Blocks
from spec_opt.measure.uncertainty import (
    ACCEPTANCE,
    MSE,
    STUDENT,
    Comparison,
    Cosines,
    Floats,
    Interval,
    compare,
    difference,
    difference_to_target,
    draft_against_target,
    interval,
    logarithmic,
    split,
    wilson,
)

Starts = NDArray[np.int64]


def mse_blocks(starts: Starts, horizon: int, mse: Floats) -> Blocks:
    return split(starts, context=2 * horizon, horizon=horizon, mse=mse)


def found(result: Interval | None) -> Interval:
    assert result is not None
    return result


def moving_averages(starts: Starts, rows: int, samples: int, seed: int = 0) -> Floats:
    """Means of white noise over `rows` rows from each start: [samples, W]."""
    noise = np.random.default_rng(seed).normal(size=(samples, int(starts.max()) + rows))
    running = np.concatenate([np.zeros((samples, 1)), np.cumsum(noise, axis=1)], axis=1)
    means: Floats = (running[:, starts + rows] - running[:, starts]) / rows
    return means


def root_mean_square(intervals: list[Interval]) -> float:
    return math.sqrt(float(np.mean([one.standard_error**2 for one in intervals])))


SETS = [
    # starts, horizon: dense, sparse, a gap, unevenly spaced, few
    (np.arange(0, 1200), 96),
    (np.arange(0, 2550, 10), 336),
    (np.concatenate([np.arange(0, 400, 5), np.arange(900, 1300, 5)]), 60),
    (np.arange(60) ** 2, 48),
    (np.arange(0, 400, 50), 50),
]


@settings(max_examples=60)
@given(
    places=st.lists(st.integers(0, 3000), min_size=4, max_size=20, unique=True),
    span=st.integers(1, 1000),
    correction=st.sampled_from([0.5, 1.0]),
)
def test_the_variance_is_right_on_average_for_blocks_that_overlap(
    places: list[int], span: int, correction: float
) -> None:
    """By brute force: covariances of the blocks' common share, and what the estimator expects."""
    rows = np.array(sorted(places))
    covariance = np.clip(1.0 - np.abs(rows[:, None] - rows) / span, 0.0, None)
    cosines = Cosines.of(rows, np.full(len(rows), span), correction)

    overlapping = float(np.trace(cosines.waves @ covariance @ cosines.waves.T))
    independent = float(np.square(cosines.waves).sum())

    # Each against the variance of the sum. What is corrected in part lies between the two.
    ratios = overlapping / float(covariance.sum()), independent / len(rows)
    assert ratios[0] ** correction * ratios[1] ** (1.0 - correction) == pytest.approx(1.0)
    assert ratios[0] < 1.0 + 1e-9 < ratios[1] + 1e-6


def test_critical_values_are_those_of_student() -> None:
    assert pytest.approx(scipy.special.stdtrit(np.arange(1, 20), 0.975), abs=5e-4) == STUDENT


def test_a_rate_reaches_to_the_farther_end_of_wilsons_interval() -> None:
    """100 independent proposals: a known answer (Agresti and Coull 1998, z = 1.96)."""
    z, n = 1.96, 100

    for rate in (0.5, 0.2, 0.98):
        low, high = np.roots([1 + z * z / n, -(2 * rate + z * z / n), rate * rate])[::-1]
        half_width = z * math.sqrt(rate * (1 - rate) / n)
        assert wilson(rate, half_width) == pytest.approx(max(rate - low, high - rate))
    assert wilson(1.0, 0.0) == 0.0


def test_an_mse_reaches_to_the_farther_end_on_a_logarithmic_scale() -> None:
    assert logarithmic(0.5, 0.05) == pytest.approx(0.5 * math.expm1(0.1), rel=0.002)
    assert logarithmic(0.5, 1e-6) == pytest.approx(1e-6, rel=1e-5)
    assert logarithmic(0.0, 0.0) == 0.0


def test_there_are_as_many_cosines_as_the_overlap_allows() -> None:
    """All of them where blocks are far apart, few where a split is a few spans long."""
    rows = np.arange(0, 2800, 140)

    kept = [len(Cosines.of(rows, np.full(20, s), 1.0).waves) for s in (140, 300, 500, 800, 2000)]

    assert kept[0] == 19
    assert kept == sorted(kept, reverse=True)
    assert kept[-2:] == [3, 2]


@pytest.mark.parametrize(("starts", "horizon"), SETS)
def test_standard_errors_are_the_spread_of_means_of_overlapping_windows(
    starts: Starts, horizon: int
) -> None:
    sample = moving_averages(starts, horizon, 400)
    intervals = [found(interval(MSE, mse_blocks(starts, horizon, mse))) for mse in sample]

    means = sample.mean(axis=1)
    assert [one.estimate for one in intervals] == pytest.approx(means.tolist())
    assert root_mean_square(intervals) == pytest.approx(float(means.std()), rel=0.15)


def test_an_estimate_blind_to_overlap_would_fail() -> None:
    starts, horizon = SETS[1]
    sample = moving_averages(starts, horizon, 400)

    blind = math.sqrt(float((sample.var(axis=1, ddof=1) / len(starts)).mean()))

    assert blind < 0.4 * float(sample.mean(axis=1).std())


def test_acceptance_errs_with_the_context_that_windows_share() -> None:
    """Windows whose horizons do not overlap but whose contexts do, as at a short horizon."""
    starts, context, horizon = np.arange(0, 2700, 10), 672, 96
    rng = np.random.default_rng(3)
    means = moving_averages(starts, context, 300) * math.sqrt(context)
    tested = np.full_like(means, 4.0)
    accepted = rng.binomial(4, 1.0 / (1.0 + np.exp(-2.0 * means)))
    counts = np.stack([accepted, tested], axis=-1)

    intervals = [
        found(interval(ACCEPTANCE, split(starts, context, horizon, np.zeros(len(starts)), one)))
        for one in counts
    ]

    rates = [one.estimate for one in intervals]
    assert root_mean_square(intervals) == pytest.approx(float(np.std(rates)), rel=0.15)


def test_of_a_ratio_whose_denominators_differ() -> None:
    starts, rng = np.arange(200) * 50, np.random.default_rng(2)
    tested = rng.integers(1, 6, (400, 200))
    counts = np.stack([rng.binomial(tested, 0.3), tested], axis=-1).astype(np.float64)
    zeros = np.zeros(200)

    intervals = [found(interval(ACCEPTANCE, split(starts, 10, 10, zeros, one))) for one in counts]

    rates = [one.estimate for one in intervals]
    assert rates == pytest.approx((counts[..., 0].sum(1) / counts[..., 1].sum(1)).tolist())
    assert root_mean_square(intervals) == pytest.approx(float(np.std(rates)), rel=0.15)


def test_far_windows_have_the_classical_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=20)
    blocks = mse_blocks(np.arange(20) * 1_000, 100, values)

    result = found(interval(MSE, blocks))

    assert result.standard_error == pytest.approx(float(values.std(ddof=1)) / math.sqrt(20))
    student = 2.093  # 97.5 % of Student's t with 19 degrees of freedom
    assert MSE.cosines(blocks).critical == pytest.approx(student)


def test_blocks_of_unequal_size_add_no_noise() -> None:
    """With 30 windows in 20 blocks a large mean must not count as a difference of blocks."""
    blocks = mse_blocks(np.arange(0, 300, 10), 40, np.full(30, 1e3))

    assert sorted(set(blocks.windows)) == [1, 2]
    assert found(interval(MSE, blocks)).standard_error == pytest.approx(0.0, abs=1e-9)


def test_it_scales_with_the_values_and_not_with_their_mean() -> None:
    starts = np.arange(0, 500, 7)
    values = np.random.default_rng(1).normal(size=len(starts))
    plain, moved = (
        found(interval(MSE, mse_blocks(starts, 96, mse))) for mse in (values, 3.0 * values + 100.0)
    )

    assert moved.standard_error == pytest.approx(3.0 * plain.standard_error, rel=1e-6)


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_too_few_windows_have_no_interval(windows: int) -> None:
    blocks = mse_blocks(np.arange(windows) * 500, 96, np.linspace(0.3, 0.4, windows))

    assert interval(MSE, blocks) is None
    assert difference(MSE, blocks, blocks) is None


def test_blocks_hold_consecutive_windows_whatever_their_order() -> None:
    starts = np.random.default_rng(8).permutation(97)
    counts = np.stack([np.ones(97), np.full(97, 2)], axis=1)

    blocks = split(starts, context=48, horizon=24, mse=starts / 97, counts=counts)

    assert len(blocks.rows) == 20
    assert blocks.rows == tuple(sorted(blocks.rows))
    assert (sum(blocks.windows), sum(blocks.accepted), sum(blocks.tested)) == (97, 97, 194)
    assert blocks.mse == tuple(sorted(blocks.mse))


def test_what_two_settings_share_is_no_noise_between_them() -> None:
    starts, rng = np.arange(0, 2550, 10), np.random.default_rng(0)
    shared = moving_averages(starts, 96, 1)[0]
    one, other = (
        mse_blocks(starts, 96, 0.5 + shared + 1e-3 * rng.normal(size=len(starts))) for _ in range(2)
    )

    alone, paired = found(interval(MSE, one)), found(difference(MSE, one, other))

    assert paired.estimate == pytest.approx(alone.estimate - found(interval(MSE, other)).estimate)
    assert paired.half_width < 0.05 * alone.half_width


def test_settings_on_other_windows_have_no_paired_difference() -> None:
    starts, values = np.arange(0, 400, 4), np.linspace(0.0, 1.0, 100)
    blocks = mse_blocks(starts, 24, values)

    assert difference(MSE, blocks, mse_blocks(starts + 1, 24, values)) is None
    assert difference(MSE, blocks, mse_blocks(starts, 25, values)) is None


def test_rounding_is_no_difference() -> None:
    starts, values = np.arange(0, 400, 4), np.linspace(0.3, 1.0, 100)

    paired = found(
        difference(
            MSE, mse_blocks(starts, 24, values), mse_blocks(starts, 24, values * (1 - 1e-11))
        )
    )

    assert paired.low < 0.0 < paired.high
    assert compare(paired, 0.01) == "equivalent"


@pytest.mark.parametrize(
    ("low", "high", "judged"),
    [
        (-0.30, -0.10, "better"),
        (-0.30, 0.01, "equivalent"),
        (0.005, 0.019, "equivalent"),
        (-0.30, 0.03, "not distinguishable"),
        (-0.01, 0.30, "not distinguishable"),
        (0.01, 0.30, "worse"),
    ],
)
def test_equivalence_is_a_small_loss_at_most(low: float, high: float, judged: Comparison) -> None:
    half_width = (high - low) / 2

    assert compare(Interval((low + high) / 2, half_width / 3, half_width), 0.02) == judged


def test_what_is_not_known_is_not_distinguishable() -> None:
    assert compare(None, 0.02) == "not distinguishable"


def baseline(target: float, draft: float, standard_error: float | None) -> Baseline:
    half_width = None if standard_error is None else 2.6 * standard_error
    return Baseline(
        target_mse=target,
        target_mae=0.2,
        target_mse_se=0.02,
        draft_mse=draft,
        draft_mae=0.2,
        draft_mse_se=0.02,
        draft_minus_target_mse_se=standard_error,
        draft_minus_target_mse_ci95=half_width,
    )


@pytest.mark.parametrize(
    ("target", "draft", "standard_error", "judged"),
    [
        (0.10, 0.13, 0.016, "not distinguishable"),  # once called as accurate as the target
        (0.10, 0.13, 0.005, "worse"),
        (0.10, 0.101, 0.0003, "equivalent"),
        (0.10, 0.09, 0.001, "better"),
        (0.10, 0.10, None, "not distinguishable"),
    ],
)
def test_a_draft_against_its_target(
    target: float, draft: float, standard_error: float | None, judged: Comparison
) -> None:
    assert draft_against_target(baseline(target, draft, standard_error), 0.02) == judged


def test_a_setting_against_the_target() -> None:
    starts, rng = np.arange(0, 2550, 10), np.random.default_rng(0)
    target = 0.4 + moving_averages(starts, 96, 1)[0]
    setting = mse_blocks(starts, 96, target + 0.01 + 1e-3 * rng.normal(size=len(starts)))
    known = replace(baseline(0.4, 0.5, 0.1), target_blocks=mse_blocks(starts, 96, target).mse)

    paired = found(difference_to_target(setting, known))

    assert paired.low < 0.01 < paired.high
    assert compare(paired, 0.02 * 0.4) == "worse"
    assert difference_to_target(setting, baseline(0.4, 0.5, 0.1)) is None


@pytest.mark.parametrize("horizon", [96, 336, 720])
def test_intervals_cover_and_equal_settings_are_not_told_apart(horizon: int) -> None:
    """A small version of benchmarks/results/coverage.md, three binomial standard errors allowed."""
    replicates = 400
    mse, acceptance = coverage(Scenario(horizon, 256, memory=0.98), replicates)
    slack = 3 * math.sqrt(0.95 * 0.05 / replicates)

    for quantity, truth in ((mse, 1.0), (acceptance, float(np.mean(acceptance.estimates)))):
        assert 0.93 - slack < quantity.covered(truth) < 0.97 + slack
        assert quantity.share_clear < 0.07 + slack


@pytest.mark.parametrize("horizon", [96, 336, 720])
@pytest.mark.parametrize("deciding", [0, 96, 672])
def test_acceptance_is_covered_whatever_part_of_the_context_decides(
    horizon: int, deciding: int
) -> None:
    """Values of windows are means of noise over the last `deciding` rows; 0: of their own."""
    context, rng = 672, np.random.default_rng(0)
    starts = np.linspace(0, 2880 - horizon, 256).round().astype(np.int64)
    blocks = split(starts, context, horizon, np.zeros(256), np.ones((256, 2)))
    noise = np.arange(starts[-1] + context)
    ends = (starts + context)[:, None]
    shares = np.eye(256) if deciding == 0 else (noise >= ends - deciding) & (noise < ends)
    shares = np.array([part.mean(axis=0) for part in np.array_split(shares, 20)])

    values = rng.normal(size=(20_000, 20)) @ np.linalg.cholesky(shares @ shares.T).T
    errors = (values * blocks.windows).sum(axis=1) / 256
    cosines = ACCEPTANCE.cosines(blocks)
    residuals = (values - errors[:, None]) * blocks.windows / 256
    covered = np.abs(errors) < cosines.critical * cosines.standard_error(residuals)

    assert 0.93 < covered.mean() < 0.97
