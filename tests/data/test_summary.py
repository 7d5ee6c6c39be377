"""The line that says what was read."""

from pathlib import Path

import pandas as pd
import pytest

from spec_opt.config.study_file import DataConfig
from spec_opt.data.summary import SeriesSummary, summarise
from spec_opt.data.windows import load_dataset
from spec_opt.errors import DataError
from tests.data.tables import HOURS, LOAD, ROWS, table


def summary(folder: Path, frame: pd.DataFrame, **settings: object) -> SeriesSummary:
    path = folder / "plant.csv"
    frame.to_csv(path, index=False)
    config = DataConfig.model_validate(
        {"source": str(path), "context": 4, "horizon": 2, **settings}
    )
    return summarise(load_dataset(config), config)


def test_the_line(tmp_path: Path) -> None:
    read_ = summary(tmp_path, table(date=HOURS))
    assert str(read_) == (
        "plant.csv: 60 rows, hourly from 2016-07-01, 2 channels (load, heat); "
        "train 42, validation 6, test 12 rows; 5 windows"
    )
    document = read_.as_document()
    assert document["summary"] == str(read_)
    assert (document["rows"], document["step"], document["train"]) == (60, "hourly", 42)
    few = summary(tmp_path, table(date=HOURS), max_windows=1)
    assert (few.windows, few.all_windows, read_.all_windows) == (1, 5, 5)


@pytest.mark.parametrize(
    ("frame", "settings", "words"),
    [
        (table(), {}, "60 rows, 2 channels (load, heat);"),
        (table(n=range(ROWS)), {}, "60 rows, evenly spaced by n, 2 channels"),
        (table(taken=HOURS), {}, "hourly from 2016-07-01 by taken, 2 channels"),
        (table(date=HOURS, n=range(ROWS)), {}, "5 windows; left out: n (a row counter)"),
        (table(date=HOURS), {"channels": ("heat",)}, "1 channel (heat);"),
        (table(date=HOURS), {"channels": ("heat",)}, "; left out: load"),
        (table(date=HOURS).drop(index=[7, 8]), {"gaps": "interpolate"}, "60 rows, hourly"),
        (table(date=HOURS).drop(index=[7, 8]), {"gaps": "interpolate"}, "; 2 missing rows and"),
        (table(date=HOURS), {"max_windows": 1}, "; 1 window"),
        (table(date=HOURS), {"splits": (0.5, 0.25, 0.25)}, "train 30, validation 15, test 15"),
    ],
)
def test_what_the_line_says(
    tmp_path: Path, frame: pd.DataFrame, settings: dict[str, object], words: str
) -> None:
    assert words in str(summary(tmp_path, frame, **settings))


def test_many_channels_are_cut(tmp_path: Path) -> None:
    wide = pd.DataFrame({f"sensor {i}": LOAD for i in range(321)})
    made = summary(tmp_path, wide)
    assert (
        "321 channels (sensor 0, sensor 1, sensor 2, sensor 3, sensor 4, sensor 5, … 315 more)"
        in str(made)
    )
    assert len(made.channel_names) == 50
    assert made.channels == 321


def test_no_window_fits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.context = 100"):
        summary(tmp_path, table(date=HOURS), context=100)


def test_synthetic() -> None:
    config = DataConfig(source="synthetic", context=96, horizon=48)
    assert str(summarise(load_dataset(config), config)).startswith(
        "synthetic: 8,000 rows, 3 channels (channel_0, channel_1, channel_2); train 5,600,"
    )
