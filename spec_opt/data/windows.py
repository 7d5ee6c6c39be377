"""A series becomes a dataset: split in time, standardised on its training rows, and windowed."""

import hashlib
import itertools
import logging
import math
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spec_opt.config.study_file import DataConfig
from spec_opt.config.values import Split, Splits, utc
from spec_opt.data.reader import Series
from spec_opt.data.series import known_series, load_series
from spec_opt.errors import DataError

logger = logging.getLogger(__name__)

HOURS_PER_MONTH = 30 * 24
"""The ETT collection's splits are counted in months of 30 days."""
DEFAULT_SHARES: Final = (0.7, 0.1, 0.2)
LARGEST_STANDARDISED = 1e18
"""Beyond it, float32 would overflow as soon as a value is squared (and the data are nonsense)."""


@dataclass(frozen=True)
class Borders:
    """The rows of each split, one after the other in time; rows past `test.stop` are not used.

    A split holds the *horizons* of its windows. Their contexts are the rows before, which for the
    first windows of validation and test belong to the split before.
    """

    train: range
    validation: range
    test: range

    def rows(self, split: Split) -> range:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def borders_of(series: Series, splits: Splits | None = None) -> Borders:
    """The borders that a study file asks for, or a known series has, or 0.7, 0.1 and 0.2 give.

    A known series is known by its name, or by what all of the ETT collection have in common: a
    renamed copy is still split as in the literature. One with fewer rows than its borders need is
    split by shares, with a warning.

    Raises:
        DataError: a split would have no rows, or dates are given for a series without times.
    """
    rows = len(series.values)
    if splits is not None and isinstance(splits[0], datetime):
        return _borders_at(series, splits)
    if splits is not None:
        return _shares(series.label, rows, splits)
    if (known := known_series(series)) is not None:
        month = HOURS_PER_MONTH * known.rows_per_hour
        if rows >= 20 * month:
            return _consecutive(12 * month, 16 * month, 20 * month)
        logger.warning(
            "%s has %d rows, fewer than its standard borders need (%d): split 0.7 / 0.1 / 0.2",
            series.label,
            rows,
            20 * month,
        )
    return _shares(series.label, rows, DEFAULT_SHARES)


def _shares(name: str, rows: int, shares: tuple[float, float, float]) -> Borders:
    # By the decimals that were written, because 0.7 * 90 is less than 63.
    train, test = (int(Fraction(repr(share)) * rows) for share in (shares[0], shares[2]))
    if not 0 < train < rows - test < rows:
        raise DataError(f"{name}: {rows} rows are too few for a train, validation and test split")
    return _consecutive(train, rows - test, rows)


def _borders_at(series: Series, dates: tuple[datetime, ...]) -> Borders:
    """Validation and test from the first rows that are not before these dates."""
    if series.time is None or series.time.times is None:
        raise DataError(f"{series.label}: data.splits gives dates, but the series has no times")
    rows = len(series.values)
    found = np.searchsorted(series.time.times, np.array([utc(date) for date in dates], "M8[ns]"))
    borders = [0, *(int(row) for row in found), *([rows] if len(dates) == 2 else [])]
    for (start, stop), split in zip(itertools.pairwise(borders), get_args(Split), strict=True):
        if start >= stop:
            raise DataError(
                f"{series.label}: data.splits leaves no rows for {split}: "
                f"the series is from {series.time.first} to {series.time.last}"
            )
    return _consecutive(*borders[1:])


def _consecutive(train: int, validation: int, test: int) -> Borders:
    return Borders(range(train), range(train, validation), range(validation, test))


@dataclass(frozen=True, eq=False)
class Scaler:
    """Per channel: standardised = (value - mean) / std."""

    mean: NDArray[np.float64]
    """`[C]`."""
    std: NDArray[np.float64]
    """`[C]`, the population standard deviation; 1 for a channel that is constant."""

    @classmethod
    def fit(cls, values: NDArray[np.float64], columns: tuple[str, ...]) -> "Scaler":
        """Fit on the training rows `[T, C]`.

        A channel that is constant there cannot be scaled: it is only centred, with a warning.
        """
        # Correctly rounded sums, so that the same file gives the same bits on every platform,
        # and fingerprints agree between workers.
        mean = np.array([math.fsum(channel) / len(values) for channel in values.T.tolist()])
        squares = (values - mean) ** 2
        std = np.sqrt([math.fsum(channel) / len(values) for channel in squares.T.tolist()])
        # Not by std == 0: the rounding of the mean can leave a trace of spread.
        constant = values.min(axis=0) == values.max(axis=0)
        for name in np.array(columns)[constant]:
            logger.warning("column '%s' is constant on the training rows: it is not scaled", name)
        return cls(mean, np.where(constant, 1.0, std))

    def standardise(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[T, C]` in the series' units -> `[T, C]` in standardised units."""
        return (values - self.mean) / self.std

    def restore(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """`[T, C]` in standardised units -> `[T, C]` in the series' units."""
        return values * self.std + self.mean


@dataclass(frozen=True, eq=False)
class Windows:
    """Some windows of a series. Their values are gathered when they are asked for."""

    values: Tensor
    """`[T, C]` float32, standardised, on the CPU."""
    starts: Tensor
    """`[W]` int64, ascending: the row where each window's context starts. It identifies a window,
    and keys its random numbers."""
    context: int
    horizon: int
    columns: tuple[str, ...] = ()
    """C names, which the fingerprint includes."""

    def __len__(self) -> int:
        return len(self.starts)

    def contexts(self, index: Tensor | slice | None = None) -> Tensor:
        """`[B, context, C]`: what a model sees; of all windows, or those at `index` in `starts`."""
        return self._gather(self.context, 0, index)

    def futures(self, index: Tensor | slice | None = None) -> Tensor:
        """`[B, horizon, C]`: the truth that its forecast is compared with."""
        return self._gather(self.horizon, self.context, index)

    def _gather(self, length: int, offset: int, index: Tensor | slice | None) -> Tensor:
        starts = self.starts if index is None else self.starts[index]
        every = self.values.unfold(0, length, 1).transpose(1, 2)  # a view: [·, length, C]
        return every[starts + offset]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a SHA-256 over all data that these windows contain."""
        first, last = int(self.starts[0]), int(self.starts[-1])
        used = self.values[first : last + self.context + self.horizon]
        digest = hashlib.sha256(repr((self.columns, self.context, self.horizon)).encode())
        digest.update(self.starts.numpy().astype("<i8").tobytes())
        digest.update(used.numpy().astype("<f4").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A series, split and standardised."""

    series: Series
    borders: Borders
    scaler: Scaler
    values: Tensor
    """`[borders.test.stop, C]` float32, standardised, on the CPU."""

    def windows(
        self,
        split: Split,
        context: int,
        horizon: int,
        stride: int = 1,
        max_windows: int | None = None,
    ) -> Windows:
        """The windows whose horizons lie within a split.

        Args:
            context, horizon: lengths in rows.
            stride: every n-th window, from the first.
            max_windows: evenly spaced among those, from the first to the last; all if absent.

        Raises:
            DataError: not one window fits, or an argument is not positive.
        """
        for name, value in (
            ("context", context),
            ("horizon", horizon),
            ("window_stride", stride),
            ("max_windows", 1 if max_windows is None else max_windows),
        ):
            if value < 1:
                raise DataError(f"data.{name} = {value} must be at least 1")
        rows = self.borders.rows(split)
        # The first horizon starts at the split's border, or later where the past is too short.
        first, last = max(0, rows.start - context), rows.stop - context - horizon
        if last < first:
            raise DataError(
                f"data.context = {context} and data.horizon = {horizon} need "
                f"{context + horizon} rows, but split '{split}' of {self.series.label} has "
                f"{rows.stop - first} ({len(rows)} of its own, {rows.start - first} before it): "
                "lower them or give a longer series"
            )
        starts = np.arange(first, last + 1, stride, dtype=np.int64)
        if max_windows is not None and max_windows < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, max_windows).round().astype(np.int64)]
        return Windows(self.values, torch.from_numpy(starts), context, horizon, self.series.columns)


def make_dataset(series: Series, splits: Splits | None = None) -> Dataset:
    """Split a series and standardise it by its training rows.

    Raises:
        DataError: see `borders_of`; or a value beyond all proportion to the training rows.
    """
    borders = borders_of(series, splits)
    scaler = Scaler.fit(series.values[: borders.train.stop], series.columns)
    values = standardised(series, scaler, borders.test.stop)
    return Dataset(series, borders, scaler, values)


def standardised(series: Series, scaler: Scaler, rows: int | None = None) -> Tensor:
    """The first rows of a series, or all: `[rows, C]` float32, standardised, on the CPU.

    Raises:
        DataError: a value is beyond all proportion to the rows that the scaler was fitted to.
    """
    values = scaler.standardise(series.values[:rows])
    wild = ~(np.abs(values) <= LARGEST_STANDARDISED)
    if wild.any():
        row, channel = (int(i) for i in np.argwhere(wild)[0])
        raise DataError(
            f"{series.label}: column '{series.columns[channel]}', row {row} of the data = "
            f"{series.values[row, channel]:g} is out of all proportion to the training rows"
        )
    return torch.from_numpy(values.astype(np.float32))


def load_dataset(config: DataConfig) -> Dataset:
    """Find, read, split and standardise the series of a study.

    Raises:
        DataError: see `load_series` and `make_dataset`.
    """
    return make_dataset(load_series(config), config.splits)
