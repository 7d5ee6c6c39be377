"""A study file to begin with: from a series, the sizes that fit it and a small pair of models."""

import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec_opt.config.study_file import DataConfig
from spec_opt.config.toml import toml_value
from spec_opt.config.values import GapFilling
from spec_opt.data.roles import Role, role_of
from spec_opt.data.series import find_series, known_series, load_series
from spec_opt.data.table_file import listed, read_table
from spec_opt.data.windows import DEFAULT_SHARES, Dataset, make_dataset
from spec_opt.errors import ConfigError, DataError
from spec_opt.models.linear import period_of

PATCHES_SEEN: Final = 7
PATCHES_AHEAD: Final = 4
LARGEST_PATCH: Final = 96
PATCH_WITHOUT_SEASON: Final = 24
SHORT_SEASON: Final = 12
"""Shorter seasons are put together in a patch of about this length."""
LEAST_CORRELATION: Final = 0.2
"""With the values a season before, averaged over channels: noise has peaks too."""
FEWEST_ROWS: Final = 200


@dataclass(frozen=True)
class Sizes:
    """What fits a series, in points."""

    season: int | None
    """The lag at which it repeats itself most; None if it does not."""
    patch: int

    @property
    def context(self) -> int:
        return PATCHES_SEEN * self.patch

    @property
    def horizon(self) -> int:
        return PATCHES_AHEAD * self.patch


def sizes_for(dataset: Dataset) -> Sizes:
    """Patches of a season, or a part or some of it, of which contexts and horizons fit the splits.

    Raises:
        DataError: the series is too short.
    """
    borders, label = dataset.borders, dataset.series.label
    # Contexts are at most 0.7 of the training rows, horizons half of the other splits' rows.
    shortest = min(len(borders.validation), len(borders.test))
    largest = min(len(borders.train) // 10, shortest // (2 * PATCHES_AHEAD), LARGEST_PATCH)
    if largest < 2:
        raise DataError(
            f"{label}: {borders.test.stop} rows are too few for a study; give {FEWEST_ROWS} or more"
        )
    season = _season(dataset)
    if season is None:
        return Sizes(None, min(largest, PATCH_WITHOUT_SEASON))
    if season <= largest:
        return Sizes(season, season * max(1, min(largest, SHORT_SEASON) // season))
    parts = (part for part in range(largest, 1, -1) if season % part == 0)
    return Sizes(season, next(parts, largest))


def _season(dataset: Dataset) -> int | None:
    values = dataset.values[: dataset.borders.train.stop]
    try:
        season = period_of(values, len(values) // 4)
    except ConfigError:
        return None
    # The values are standardised: this is their autocorrelation.
    return season if (values[season:] * values[:-season]).mean() > LEAST_CORRELATION else None


def study_file_for(source: str, name: str) -> str:
    """A commented study file for a series, which runs as it is.

    Args:
        source: The series' file, or a known name.
        name: The study's.

    Raises:
        DataError: the series cannot be read, or is too short.
    """
    dataset, gaps = _read(source)
    sizes, series = sizes_for(dataset), dataset.series
    time = f", {series.time.step} from {series.time.first}" if series.time else ""
    filled = f"{series.filled} missing rows and cells are filled in"
    left = f"left out: {listed(map(str, series.left_out))}" if series.left_out else "all columns"
    splits = _line(
        f"splits = {toml_value(DEFAULT_SHARES)}", "train, validation, test, in that order"
    )
    if known_series(series) is not None:
        splits = "# splits: the standard ones of this series"
    return _TEMPLATE.format(
        name=name,
        about=f"{series.label}: {len(series.values):,} rows{time}.",
        source=_line(f"source = {toml_value(source)}"),
        channels=f"# {left}\nchannels = {toml_value(series.columns)}",
        gaps="" if gaps is None else "\n" + _line(f"gaps = {toml_value(gaps)}", filled),
        splits=splits,
        context=_line(f"context = {sizes.context}", f"{PATCHES_SEEN} patches of the past"),
        horizon=_line(f"horizon = {sizes.horizon}", f"{PATCHES_AHEAD} patches to forecast"),
        patch=_line(f"patch = {sizes.patch}", _why(sizes)),
        # Training takes a minute or two on a CPU, however many channels there are.
        windows=max(64, min(2000, 60_000 // (len(series.columns) * PATCHES_SEEN))),
    )


def _read(source: str) -> tuple[Dataset, GapFilling | None]:
    """The series: without its columns of text, and its gaps filled, only if need be."""
    numeric = _numeric_columns(find_series(source))
    first: DataError | None = None
    for gaps, channels in itertools.product(_GAPS, (None, numeric)):
        config = DataConfig(source=source, context=1, horizon=1, gaps=gaps, channels=channels)
        try:
            return make_dataset(load_series(config)), gaps
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


_GAPS: Final[tuple[GapFilling | None, ...]] = (None, "interpolate")


def _numeric_columns(path: Path) -> tuple[str, ...] | None:
    """The columns of numbers that can be channels; None if there are none."""
    table = read_table(path)
    found = (n for n in table.names if table.is_numeric(n) and role_of(table, n) is Role.CHANNEL)
    return tuple(found) or None


def _why(sizes: Sizes) -> str:
    if sizes.season is None:
        return "points; the series has no season"
    if sizes.patch == sizes.season:
        return "the season, in points"
    return f"the season is {sizes.season} points"


def _line(setting: str, remark: str = "") -> str:
    return f"{setting:<32}# {remark}" if remark else setting


_TEMPLATE: Final = textwrap.dedent(
    """\
    # {about}
    #   spec-opt run {name}.toml
    # trains a small target on it, fits a draft to that, and measures 64 settings of speculative
    # decoding. Every key and its default: spec-opt show {name}.toml
    name = "{name}"

    [search]
    sampler = "grid"                # every setting once
    sigma = [0.05, 0.1, 0.2, 0.5]   # how far a proposal may lie from the target's forecast
    bias = [1.0, 2.0, 5.0, 10.0]    # factor on the chance of accepting it
    k = [1, 2, 3, 4]                # patches that the draft proposes at a time

    [data]
    {source}
    {channels}{gaps}
    {splits}
    split = "validation"            # tuned on validation; `spec-opt confirm` measures on test
    {context}
    {horizon}
    max_windows = 256               # evenly spaced over the split

    [target]                        # or a model of yours: checkpoint = "…", or factory = "…"
    {patch}
    d_model = 64
    heads = 4
    feedforward = 128
    layers = 2

    [target.training]
    epochs = 5
    batch_size = 32
    learning_rate = 1e-3
    max_windows = {windows}

    [draft]
    kind = "linear"                 # fitted in a second; "timer-xl" distils a small network

    [decoding]
    rule = "point"                  # for point forecasts; "stride" adds noise, "exact" is lossless
    """
)
