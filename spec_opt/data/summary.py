"""What was read, in one line: the file, its rows, step and channels, the splits, the windows."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from spec_opt.config.study_file import DataConfig
from spec_opt.config.values import Split
from spec_opt.data.reader import LeftOut
from spec_opt.data.table_file import listed, shown
from spec_opt.data.windows import Dataset

_PLAIN_TIMES: Final = frozenset({"date", "datetime", "time", "timestamp"})
"""Columns whose names say that they are the time; others are named as such in the line."""
_MOST_NAMES: Final = 50
"""How many names of channels, and of columns left out, are kept with a study."""


@dataclass(frozen=True)
class SeriesSummary:
    """A series as it was read, split and windowed for a study; small enough to keep with it."""

    name: str
    """The file's name, or "synthetic"."""
    rows: int
    channels: int
    channel_names: tuple[str, ...]
    """The first of them."""
    step: str | None
    """ "hourly", "15-minute", "monthly", …; "even" by a counter; None without a time."""
    time_columns: tuple[str, ...]
    first: str | None
    last: str | None
    left_out: tuple[LeftOut, ...]
    """The first columns that are neither channels nor the time."""
    filled: int
    notes: tuple[str, ...]
    train: int
    """Rows of each split."""
    validation: int
    test: int
    split: Split
    windows: int
    """Of `split`, that the study uses."""
    all_windows: int
    """That `split` has."""

    def __str__(self) -> str:
        """The line that says what was read."""
        text = (
            f"{shown(self.name)}: {self.rows:,} rows{self._in_time()}, {self.channels:,} "
            f"channel{'s' if self.channels > 1 else ''} ({self._names()}); "
            f"train {self.train:,}, validation {self.validation:,}, test {self.test:,} rows; "
            f"{self.windows:,} window{'s' if self.windows > 1 else ''}"
        )
        if self.filled:
            text += f"; {self.filled:,} missing rows and cells filled in"
        return text + (f"; left out: {listed(map(str, self.left_out))}" if self.left_out else "")

    def _names(self) -> str:
        return listed(self.channel_names, self.channels)

    def _in_time(self) -> str:
        if self.step is None:
            return ""
        is_plain = [name.lower() in _PLAIN_TIMES for name in self.time_columns][:1] == [True]
        by = "" if is_plain else f" by {listed(self.time_columns)}"
        return (
            f", evenly spaced{by}"
            if self.step == "even"
            else f", {self.step} from {self.first}{by}"
        )

    def as_document(self) -> dict[str, Any]:
        """For JSON, the line included."""
        return {"summary": str(self), **asdict(self)}


def summarise(dataset: Dataset, config: DataConfig) -> SeriesSummary:
    """What was read for a study.

    Raises:
        DataError: not one window fits.
    """
    series, time, borders = dataset.series, dataset.series.time, dataset.borders
    windows = dataset.windows(
        config.split, config.context, config.horizon, config.window_stride, config.max_windows
    )
    return SeriesSummary(
        name=series.label,
        rows=len(series.values),
        channels=len(series.columns),
        channel_names=series.columns[:_MOST_NAMES],
        step=time.step if time else None,
        time_columns=time.columns if time else (),
        first=time.first if time else None,
        last=time.last if time else None,
        left_out=series.left_out[:_MOST_NAMES],
        filled=series.filled,
        notes=series.notes,
        train=len(borders.train),
        validation=len(borders.validation),
        test=len(borders.test),
        split=config.split,
        windows=len(windows),
        all_windows=len(dataset.windows(config.split, config.context, config.horizon)),
    )
