"""The synthetic series: repeatable, made of what its docstring says, and learnable."""

import numpy as np
import pytest

from spec_opt.config.study_file import SyntheticConfig
from spec_opt.data.synthetic import (
    NOISE_DEVIATION,
    NOISE_MEMORY,
    SHARED_NOISE,
    SHIFTS_PER_HOUR,
    _correlated_noise,
    _level_shifts,
    generate,
)


def make(rows: int = 2000, channels: int = 3, seed: int = 0) -> np.ndarray:
    return generate(SyntheticConfig(rows=rows, channels=channels, seed=seed))


def test_shape_and_type() -> None:
    values = make(rows=500, channels=5)
    assert values.shape == (500, 5)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()


def test_same_seed_same_numbers_other_seed_others() -> None:
    assert np.array_equal(make(seed=3), make(seed=3))
    assert not np.array_equal(make(seed=3), make(seed=4))


def test_numbers_are_those_of_the_first_release() -> None:
    # The quickstart's cached models and stored trials hang on them.
    values = make(rows=100, channels=2)
    assert values[[0, 50, 99]] == pytest.approx(
        np.array(
            [
                [14.85295677817016, 6.670387098006933],
                [15.898278306281565, 7.3813556252897605],
                [14.830958492466367, 8.24948794510945],
            ]
        ),
        rel=1e-9,
    )


def test_longer_series_begins_with_the_shorter() -> None:
    assert np.array_equal(make(rows=3000)[:1000], make(rows=1000))


def test_noise_is_stationary_autocorrelated_and_shared() -> None:
    noise = _correlated_noise(np.random.default_rng(0), 100_000, 3)
    assert noise.std(axis=0) == pytest.approx(NOISE_DEVIATION, rel=0.03)
    memory = [np.corrcoef(channel[1:], channel[:-1])[0, 1] for channel in noise.T]
    assert memory == pytest.approx([NOISE_MEMORY] * 3, abs=0.02)
    assert np.atleast_2d(np.corrcoef(noise.T))[0, 1:] == pytest.approx(SHARED_NOISE, abs=0.03)
    first = [_correlated_noise(np.random.default_rng(s), 1, 1)[0, 0] for s in range(2000)]
    assert np.std(first) == pytest.approx(NOISE_DEVIATION, rel=0.06)


def test_level_shifts_are_rare_and_lasting() -> None:
    rows = 100_000
    shifts = _level_shifts(np.random.default_rng(0), np.random.default_rng(1), rows, 2)
    moves = np.diff(shifts, axis=0)
    moved = (moves != 0).all(axis=1)
    assert np.array_equal(moved, (moves != 0).any(axis=1))  # all channels at the same hour
    expected = rows * SHIFTS_PER_HOUR
    assert abs(moved.sum() - expected) < 4 * expected**0.5


@pytest.mark.parametrize("seed", range(5))
def test_daily_and_weekly_cycles_dominate(seed: int) -> None:
    """A least-squares fit of the cycles explains most of the spread within any four weeks."""
    values = make(rows=8000, channels=4, seed=seed)
    hour = np.arange(672)
    waves = [np.ones(672)]
    for period in (24, 12, 168):
        waves += [np.sin(2 * np.pi * hour / period), np.cos(2 * np.pi * hour / period)]
    design = np.stack(waves, axis=1)
    for start in range(0, 8000 - 672, 672):
        part = values[start : start + 672]
        fit = design @ np.linalg.lstsq(design, part, rcond=None)[0]
        assert ((part - fit).var(axis=0) < 0.45 * part.var(axis=0)).all()


def test_repeating_last_week_beats_the_mean_by_far() -> None:
    values = make(rows=8000)
    day = np.arange(24)
    starts = np.arange(400, 7900)
    truth = values[starts[:, None] + day]
    last_week = values[starts[:, None] + day - 168]
    mean = np.stack([values[s - 168 : s].mean(axis=0) for s in starts])[:, None]
    assert ((truth - last_week) ** 2).mean() < 0.25 * ((truth - mean) ** 2).mean()
