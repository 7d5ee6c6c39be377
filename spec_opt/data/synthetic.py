"""A generated hourly series for offline use; it is always called "synthetic".

Channel c at hour t is

    level + slope·t + daily cycle (24 h and its second harmonic) + weekly cycle (168 h)
          + level shifts so far + AR(1) noise correlated across the channels,

where each channel has its own amplitudes, phases and slope. The cycles carry most of the variance,
so that a small forecaster clearly beats a mean forecast; the shifts reward instance normalisation,
and the noise sets a lower bound on the error.
"""

import numpy as np
from numpy.typing import NDArray

from spec_opt.config.study_file import SyntheticConfig

DAY, WEEK = 24.0, 168.0
"""Periods in hours, one row per hour."""
NOISE_MEMORY = 0.7
"""Lag-one autocorrelation of the noise."""
NOISE_DEVIATION = 0.25
"""Standard deviation of the noise; a daily cycle's amplitude is 0.8 to 1.6."""
SHARED_NOISE = 0.5
"""Correlation of the noise between any two channels."""
SHIFTS_PER_HOUR = 1 / 1500
SHIFT_DEVIATION = 0.4


def generate(config: SyntheticConfig) -> NDArray[np.float64]:
    """The series, `[rows, channels]`, float64.

    The same configuration gives the same numbers. A longer series begins with the shorter one of
    the same seed and channels, because each part draws from its own random stream.
    """
    shapes, noise, times, sizes = np.random.default_rng(config.seed).spawn(4)
    return (
        _cycles_and_trend(shapes, config.rows, config.channels)
        + _correlated_noise(noise, config.rows, config.channels)
        + _level_shifts(times, sizes, config.rows, config.channels)
    )


def _cycles_and_trend(rng: np.random.Generator, rows: int, channels: int) -> NDArray[np.float64]:
    hour = np.arange(rows, dtype=np.float64)[:, None]  # [T, 1], against [C]
    level = rng.uniform(5.0, 15.0, channels)
    slope = rng.uniform(-1.0, 1.0, channels) * 1e-4

    def cycle(period: float, low: float, high: float) -> NDArray[np.float64]:
        amplitude = rng.uniform(low, high, channels)
        phase = rng.uniform(0.0, 2.0 * np.pi, channels)
        return amplitude * np.sin(2.0 * np.pi * hour / period + phase)

    daily = cycle(DAY, 0.8, 1.6) + cycle(DAY / 2.0, 0.2, 0.5)
    return level + slope * hour + daily + cycle(WEEK, 0.3, 0.7)


def _correlated_noise(rng: np.random.Generator, rows: int, channels: int) -> NDArray[np.float64]:
    """Stationary AR(1) per channel; the innovations share a part across the channels."""
    draws = rng.standard_normal((rows, channels + 1))
    shared, own = draws[:, :1], draws[:, 1:]
    noise: NDArray[np.float64]
    noise = np.sqrt(SHARED_NOISE) * shared + np.sqrt(1.0 - SHARED_NOISE) * own
    # The first row has the stationary distribution, so that the series needs no warm-up.
    noise[1:] *= np.sqrt(1.0 - NOISE_MEMORY**2)
    for t in range(1, rows):
        noise[t] += NOISE_MEMORY * noise[t - 1]
    return NOISE_DEVIATION * noise


def _level_shifts(
    times: np.random.Generator, sizes: np.random.Generator, rows: int, channels: int
) -> NDArray[np.float64]:
    """Sudden, lasting shifts: at random hours, each channel by its own amount."""
    happens = times.random((rows, 1)) < SHIFTS_PER_HOUR
    size = SHIFT_DEVIATION * sizes.standard_normal((rows, channels))
    moves: NDArray[np.float64] = np.cumsum(happens * size, axis=0)
    return moves
