"""Standard errors: the formula by brute force, and whether they cover by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spec_opt.measure.uncertainty import Floats, Overlap

Starts = NDArray[np.int64]


def standard_error(overlap: Overlap, values: Floats) -> float:
    result = overlap.of_mean(values)
    assert result is not None
    return result


def by_brute_force(starts: Starts, horizon: int, values: Floats) -> float:
    """Matrices of weights and correlations, written down in full."""
    distance = np.abs(starts[:, None] - starts[None, :])
    weights = np.clip(1.0 - distance / (2 * horizon), 0.0, None)
    correlations = np.clip(1.0 - distance / horizon, 0.0, None)
    count = len(starts)
    centring = np.eye(count) - 1.0 / count
    expected = np.trace(weights @ centring @ correlations @ centring)
    true = correlations.sum() / count**2
    residuals = values - values.mean()
    return float(np.sqrt(residuals @ weights @ residuals * true / expected))


@settings(max_examples=60)
@given(
    rows=st.lists(st.integers(0, 300), min_size=2, max_size=40, unique=True),
    horizon=st.integers(1, 60),
    seed=st.integers(0, 100),
)
def test_it_is_the_double_sum(rows: list[int], horizon: int, seed: int) -> None:
    starts = np.array(sorted(rows), dtype=np.int64) + 1_000
    values = np.random.default_rng(seed).normal(3.0, 2.0, len(rows))

    result = standard_error(Overlap(starts, horizon), values)

    assert result == pytest.approx(by_brute_force(starts, horizon, values), rel=1e-6)


def moving_averages(
    starts: Starts, horizon: int, samples: int, memory: float = 0.0, seed: int = 0
) -> Floats:
    """Means over the horizon of each window of noise, which has a memory: [samples, W]."""
    generator = np.random.default_rng(seed)
    rows = int(starts.max()) + horizon
    noise = generator.normal(size=(samples, rows))
    for row in range(1, rows) if memory else ():
        noise[:, row] += memory * noise[:, row - 1]
    running = np.concatenate([np.zeros((samples, 1)), np.cumsum(noise, axis=1)], axis=1)
    means: Floats = (running[:, starts + horizon] - running[:, starts]) / horizon
    return means


SETS = [
    # starts, horizon: dense, sparse, a gap, unevenly spaced, few
    (np.arange(0, 1200), 96),
    (np.arange(0, 2550, 10), 336),
    (np.concatenate([np.arange(0, 400, 5), np.arange(900, 1300, 5)]), 60),
    (np.arange(60) ** 2, 48),
    (np.arange(0, 400, 100), 50),
]


@pytest.mark.parametrize(("starts", "horizon"), SETS)
@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_it_covers_the_spread_of_means_of_overlapping_windows(
    starts: Starts, horizon: int, memory: float
) -> None:
    sample = moving_averages(starts, horizon, 400, memory)
    true = float(sample.mean(axis=1).std())
    overlap = Overlap(starts, horizon)

    estimates = [standard_error(overlap, values) for values in sample]

    assert math.sqrt(float(np.mean(np.square(estimates)))) == pytest.approx(true, rel=0.15)


def test_a_formula_blind_to_overlap_would_fail() -> None:
    starts, horizon = SETS[1]
    sample = moving_averages(starts, horizon, 400)
    true = float(sample.mean(axis=1).std())

    blind = math.sqrt(float((sample.var(axis=1, ddof=1) / len(starts)).mean()))

    assert blind < 0.4 * true


def test_far_windows_have_the_classical_standard_error() -> None:
    starts = np.arange(30, dtype=np.int64) * 1_000
    values = np.random.default_rng(0).normal(size=30)

    result = standard_error(Overlap(starts, 100), values)

    assert result == pytest.approx(float(values.std(ddof=1)) / math.sqrt(30), rel=1e-9)


def test_a_single_window_has_none() -> None:
    overlap = Overlap(np.array([17]), 96)

    assert overlap.of_mean(np.array([0.4])) is None
    assert overlap.of_ratio(np.array([1.0]), np.array([2.0])) is None


def test_equal_values_have_none_to_speak_of() -> None:
    overlap = Overlap(np.arange(50), 20)

    assert standard_error(overlap, np.full(50, 0.7)) == pytest.approx(0.0, abs=1e-12)


def test_it_scales_with_the_values_and_not_with_their_mean() -> None:
    overlap = Overlap(np.arange(0, 500, 7), 96)
    values = np.random.default_rng(1).normal(size=len(overlap.starts))

    plain = standard_error(overlap, values)

    assert standard_error(overlap, 3.0 * values + 100.0) == pytest.approx(3.0 * plain, rel=1e-6)


def test_neighbours_that_err_together_are_worth_little() -> None:
    """Twice as many windows on the same rows: hardly more is known."""
    sparse, dense = np.arange(0, 2000, 100), np.arange(0, 2000, 10)
    errors = []
    for starts in (sparse, dense):
        sample = moving_averages(starts, 400, 200, seed=3)
        overlap = Overlap(starts, 400)
        errors.append(float(np.mean([standard_error(overlap, values) for values in sample])))

    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_of_a_ratio_by_simulation() -> None:
    """Accepted among tested, of windows that differ in how many they test."""
    starts = np.arange(200, dtype=np.int64) * 50
    overlap = Overlap(starts, 10)
    generator = np.random.default_rng(2)
    ratios, estimates = [], []
    for _ in range(400):
        tested = generator.integers(1, 6, 200)
        accepted = generator.binomial(tested, 0.3)
        ratios.append(accepted.sum() / tested.sum())
        estimate = overlap.of_ratio(accepted.astype(np.float64), tested.astype(np.float64))
        assert estimate is not None
        estimates.append(estimate)

    assert float(np.mean(estimates)) == pytest.approx(float(np.std(ratios)), rel=0.1)


def test_of_a_ratio_to_one_is_of_the_mean() -> None:
    overlap = Overlap(np.arange(0, 300, 3), 24)
    values = np.random.default_rng(4).random(100)

    assert overlap.of_ratio(values, np.ones(100)) == pytest.approx(overlap.of_mean(values))


def test_a_long_series_is_no_burden() -> None:
    starts = np.arange(200_000, dtype=np.int64)
    values = np.random.default_rng(5).normal(size=len(starts))

    # White noise in spite of the overlap: its standard error is known.
    result = standard_error(Overlap(starts, 720), values)

    assert 0.5 / math.sqrt(len(starts)) < result < 1.5 / math.sqrt(len(starts))


def test_many_means_at_once_are_those_of_one_by_one() -> None:
    overlap = Overlap(np.arange(0, 320, 10), 48)
    values = np.random.default_rng(6).normal(size=(5, 32))

    assert overlap.of_means(values) == pytest.approx([standard_error(overlap, v) for v in values])


@pytest.mark.parametrize(("starts", "horizon"), SETS)
def test_blocks_tell_what_windows_tell(starts: Starts, horizon: int) -> None:
    sample = moving_averages(starts, horizon, 300, seed=7)
    true = float(sample.mean(axis=1).std())
    ones = np.ones(len(starts))

    blocks = [Overlap(starts, horizon).blocks(errors, ones, ones) for errors in sample]
    estimates = Overlap.of_blocks(blocks[0]).of_means(np.array([b.mse for b in blocks]))

    assert [np.mean(b.mse) for b in blocks] == pytest.approx(sample.mean(axis=1).tolist())
    assert math.sqrt(float(np.mean(np.square(estimates)))) == pytest.approx(true, rel=0.15)


def test_blocks_lie_apart_whatever_the_order_of_windows() -> None:
    starts = np.random.default_rng(8).permutation(97)
    ones = np.ones(len(starts))

    blocks = Overlap(starts, 24).blocks(starts.astype(np.float64), ones, 2 * ones)

    assert len(set(blocks.rows)) == 32
    assert blocks.rows == tuple(sorted(blocks.rows))
    assert (sum(blocks.accepted), sum(blocks.tested)) == (97, 194)
