"""Splits, scaling and windows."""

import logging
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spec_opt.config.study_file import DataConfig, SyntheticConfig
from spec_opt.config.values import Split, Splits
from spec_opt.data.reader import LeftOut, Series
from spec_opt.data.table_file import Table
from spec_opt.data.time_grid import place_on
from spec_opt.data.timestamps import Axis
from spec_opt.data.windows import Borders, Dataset, Windows, borders_of, load_dataset, make_dataset
from spec_opt.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def ramp(rows: int, channels: int = 2, name: str = "ramp") -> Dataset:
    """Every value tells its row and channel."""
    values = np.arange(rows)[:, None] + 0.25 * np.arange(channels)
    return make_dataset(Series(name, values, tuple(f"c{i}" for i in range(channels))))


def borders(name: str, rows: int, splits: Splits | None = None) -> Borders:
    return borders_of(Series(name, np.zeros((rows, 1)), ("a",)), splits)


# --- borders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "factor"), [("ETTh1", 1), ("ETTh2", 1), ("ETTm1", 4), ("ETTm2", 4)]
)
def test_standard_borders(name: str, factor: int) -> None:
    assert borders(name, 17420 * factor) == Borders(
        range(8640 * factor),
        range(8640 * factor, 11520 * factor),
        range(11520 * factor, 14400 * factor),
    )


def test_known_name_with_too_few_rows_is_split_by_shares(caplog: pytest.LogCaptureFixture) -> None:
    assert borders("ETTh1", 14400).test.stop == 14400
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING, logger="spec_opt"):
        assert borders("ETTh1", 14399) == borders("other", 14399)
    assert "14399 rows, fewer than its standard borders need (14400)" in caplog.text


@given(st.integers(5, 10**6))
def test_shares(rows: int) -> None:
    found = borders("other", rows)
    # In tenths, so that the test does not round as floats do.
    assert 10 * len(found.train) <= 7 * rows < 10 * (len(found.train) + 1)
    assert 10 * len(found.test) <= 2 * rows < 10 * (len(found.test) + 1)
    assert len(found.validation) >= 1
    assert found.train.start == 0
    assert found.train.stop == found.validation.start
    assert found.validation.stop == found.test.start
    assert found.test.stop == rows


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_too_few_rows_to_split(rows: int) -> None:
    with pytest.raises(DataError, match=f"{rows} rows are too few"):
        borders("other", rows)


def test_given_shares() -> None:
    assert borders("ETTh1", 17420, (0.6, 0.2, 0.2)) == Borders(
        range(10452), range(10452, 13936), range(13936, 17420)
    )
    assert borders("other", 90, (0.7, 0.1, 0.2)) == borders("other", 90)
    with pytest.raises(DataError, match="9 rows are too few"):
        borders("other", 9, (0.9, 0.05, 0.05))


def daily(rows: int) -> Series:
    times = pd.date_range("2016-07-01", periods=rows).astype("datetime64[ns]").astype(np.int64)
    table = Table(Path("plant.csv"), pd.DataFrame({"date": times}), first=2)
    time = place_on(table, Axis(("date",), times.to_numpy(), is_time=True))
    return Series("plant", np.zeros((rows, 1)), ("a",), time=time)


def test_given_dates() -> None:
    first, second, third = (datetime(2016, 7, day) for day in (11, 16, 21))
    assert borders_of(daily(30), (first, second)) == Borders(
        range(10), range(10, 15), range(15, 30)
    )
    assert borders_of(daily(30), (first, second, third)).test == range(15, 20)
    with pytest.raises(DataError, match="no rows for test: the series is from 2016-07-01 to"):
        borders_of(daily(15), (first, second))
    with pytest.raises(DataError, match="gives dates, but the series has no times"):
        borders("other", 100, (first, second))


@pytest.mark.parametrize(("rows", "train"), [(17420, 8640), (69680, 34560), (17421, 12194)])
def test_a_renamed_copy_of_a_known_series_has_its_borders(rows: int, train: int) -> None:
    columns = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    series = Series("mine", np.zeros((rows, 7)), columns)
    assert len(borders_of(series).train) == train
    # Some of its channels are not chosen.
    left = tuple(LeftOut(name, "not chosen") for name in columns[:-1])
    chosen = Series("mine", np.zeros((rows, 1)), ("OT",), left_out=left)
    assert borders_of(chosen) == borders_of(series)
    assert borders("mine", rows) == borders("other", rows)


# --- scaler ---------------------------------------------------------------------------------------


def test_scaler_is_fitted_on_train_with_the_population_deviation() -> None:
    values = np.random.default_rng(0).normal(3.0, 5.0, (100, 3)) * [1.0, 10.0, 0.1]
    dataset = make_dataset(Series("s", values, ("a", "b", "c")))
    train = values[:70]
    assert dataset.scaler.mean == pytest.approx(train.mean(axis=0), rel=1e-12)
    assert dataset.scaler.std == pytest.approx(train.std(axis=0), rel=1e-12)
    assert dataset.values.dtype == torch.float32
    expected = (values - train.mean(axis=0)) / train.std(axis=0)
    assert dataset.values.numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_constant_channel_is_centred_with_a_warning(
    constant: float, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.stack([np.arange(100.0), np.full(100, constant)], axis=1)
    values[90, 1] += 2.0  # it may well move later
    with caplog.at_level(logging.WARNING, logger="spec_opt"):
        dataset = make_dataset(Series("s", values, ("moving", "still")))
    assert "column 'still' is constant" in caplog.text
    assert "moving" not in caplog.text
    assert dataset.scaler.std[1] == 1.0
    assert dataset.values[:90, 1].numpy() == pytest.approx(np.zeros(90), abs=1e-6)
    assert dataset.values[90, 1].item() == pytest.approx(2.0, abs=1e-6)


def test_value_out_of_all_proportion() -> None:
    values = np.random.default_rng(0).normal(size=(100, 2)) * [1.0, 1e-20]
    values[95, 1] = 1e30
    with pytest.raises(DataError, match=r"column 'b', row 95 of the data = 1e\+30"):
        make_dataset(Series("s", values, ("a", "b")))


# --- windows --------------------------------------------------------------------------------------


@given(
    rows=st.integers(20, 400),
    context=st.integers(1, 60),
    horizon=st.integers(1, 40),
    stride=st.integers(1, 20),
    split=st.sampled_from(SPLITS),
)
def test_windows_stay_within_their_split(
    rows: int, context: int, horizon: int, stride: int, split: Split
) -> None:
    dataset = ramp(rows)
    own = dataset.borders.rows(split)
    fitting = [
        start
        for start in range(rows)
        if start + context >= own.start and start + context + horizon <= own.stop
    ]
    if not fitting:
        with pytest.raises(DataError, match="lower them or give a longer series"):
            dataset.windows(split, context, horizon, stride)
        return
    windows = dataset.windows(split, context, horizon, stride)
    assert windows.starts.tolist() == fitting[::stride]
    assert len(windows) == len(windows.starts)
    first, last = int(windows.starts[0]), int(windows.starts[-1]) + context
    assert torch.equal(windows.contexts()[0], dataset.values[first : first + context])
    assert torch.equal(windows.futures()[-1], dataset.values[last : last + horizon])


@given(available=st.integers(1, 3000), wanted=st.integers(1, 3500), stride=st.integers(1, 7))
def test_max_windows_are_evenly_spaced(available: int, wanted: int, stride: int) -> None:
    rows = (available + 1) * 10
    dataset = ramp(rows, channels=1)
    every = dataset.windows("train", 1, 1, stride).starts.tolist()
    some = dataset.windows("train", 1, 1, stride, wanted).starts.tolist()
    assert len(some) == min(wanted, len(every))
    assert set(some) <= set(every)
    assert some == sorted(set(some))
    assert some[0] == every[0]
    if len(some) > 1:
        assert some[-1] == every[-1]
        gaps = np.diff(some) // stride
        assert gaps.max() - gaps.min() <= 1


def test_shapes_and_content() -> None:
    windows = ramp(100, channels=3).windows("train", 7, 4)
    assert windows.contexts().shape == (60, 7, 3)
    assert windows.futures().shape == (60, 4, 3)
    for index in (torch.tensor([5, 2, 2]), slice(3, 9, 2)):
        starts = windows.starts[index].tolist()
        contexts, futures = windows.contexts(index), windows.futures(index)
        for i, start in enumerate(starts):
            assert torch.equal(contexts[i], windows.values[start : start + 7])
            assert torch.equal(futures[i], windows.values[start + 7 : start + 11])
        assert contexts.is_contiguous()
    assert windows.contexts(slice(0, 0)).shape == (0, 7, 3)


def test_gathered_windows_are_copies_and_the_series_is_shared() -> None:
    dataset = ramp(100)
    windows = dataset.windows("test", 4, 2)
    assert windows.values.data_ptr() == dataset.values.data_ptr()
    windows.contexts(slice(0, 1)).zero_()
    assert torch.equal(windows.values, ramp(100).values)


def test_first_horizon_is_at_the_border_even_if_the_past_is_long() -> None:
    dataset = ramp(100)  # train 70, validation 10, test 20
    assert dataset.windows("validation", 30, 5).starts[0] == 40
    assert dataset.windows("validation", 74, 5).starts.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("validation", 30, 11), "need 41 rows, but split 'validation' of ramp has 40 (10 of its"),
        (("train", 60, 11), "need 71 rows, but split 'train' of ramp has 70 (70 of its own, 0"),
        (("test", 500, 5), "need 505 rows"),
        (("test", 5, 5000), "need 5005 rows"),
        (("test", 0, 5), "data.context = 0 must be at least 1"),
        (("test", 5, -1), "data.horizon = -1 must be at least 1"),
        (("test", 5, 5, 0), "data.window_stride = 0 must be at least 1"),
        (("test", 5, 5, 1, 0), "data.max_windows = 0 must be at least 1"),
    ],
)
def test_impossible_windows(
    arguments: tuple[Split, int, int] | tuple[Split, int, int, int], expected: str
) -> None:
    with pytest.raises(DataError) as caught:
        ramp(100).windows(*arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


# --- fingerprint ----------------------------------------------------------------------------------


def test_fingerprint_is_that_of_the_first_release() -> None:
    # Studies in a store are resumed by it: a change here makes every one of them foreign.
    values = torch.arange(20, dtype=torch.float32)[:, None] / 8
    windows = Windows(values, torch.tensor([2, 5]), context=4, horizon=3, columns=("load",))
    assert windows.fingerprint == "03e185c92fd63c09"


def test_fingerprint_follows_what_numbers_depend_on() -> None:
    values = torch.arange(40, dtype=torch.float32)[:, None]

    def fingerprint(
        *,
        values: torch.Tensor = values,
        starts: tuple[int, ...] = (2, 5),
        context: int = 4,
        horizon: int = 3,
        columns: tuple[str, ...] = ("a",),
    ) -> str:
        return Windows(values, torch.tensor(starts), context, horizon, columns).fingerprint

    used, unused = values.clone(), values.clone()
    used[11] += 1
    unused[12] += 1
    unused[1] += 1
    assert fingerprint() == fingerprint(values=unused)
    others = {
        fingerprint(values=used),
        fingerprint(starts=(2, 6)),
        fingerprint(context=5),
        fingerprint(context=3, horizon=4),
        fingerprint(columns=("b",)),
    }
    assert len(others | {fingerprint()}) == 6


# --- whole datasets -------------------------------------------------------------------------------


def test_load_dataset_of_a_study(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    path.write_text(
        "date,a,b\n"
        + "".join(f"2016-01-01 {i // 60:02}:{i % 60:02},{i % 5},{i % 7}\n" for i in range(50))
    )
    dataset = load_dataset(DataConfig(source=str(path), context=4, horizon=2))
    assert dataset.series.name == "plant"
    assert dataset.values.shape == (50, 2)
    assert [len(dataset.borders.rows(split)) for split in SPLITS] == [35, 5, 10]


def test_load_dataset_synthetic() -> None:
    config = DataConfig(
        source="synthetic", context=4, horizon=2, synthetic=SyntheticConfig(rows=100, channels=2)
    )
    dataset = load_dataset(config)
    assert dataset.series.name == "synthetic"
    assert dataset.values.shape == (100, 2)


def test_file_named_like_a_known_series_takes_its_borders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ETTh2.csv"
    path.write_text("a\n" + "".join(f"{i * i % 24}\n" for i in range(15000)))
    dataset = load_dataset(DataConfig(source=str(path), context=4, horizon=2))
    assert dataset.borders.test == range(11520, 14400)
    assert len(dataset.values) == 14400


@pytest.mark.shared
class TestRealETTh1:
    @pytest.fixture
    def etth1(self, shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
        monkeypatch.setenv("SPEC_OPT_DATA", str(shared_dir / "data"))
        return load_dataset(DataConfig(source="ETTh1", context=672, horizon=336))

    @pytest.mark.parametrize(
        ("split", "context", "horizon", "count"),
        [
            ("train", 672, 96, 7873),
            ("validation", 672, 96, 2785),
            ("test", 672, 96, 2785),
            ("test", 672, 336, 2545),
            ("test", 672, 384, 2497),
            ("train", 1536, 96, 7009),
            ("validation", 1536, 96, 2785),
            ("test", 1536, 336, 2545),
        ],
    )
    def test_counts(
        self, etth1: Dataset, split: Split, context: int, horizon: int, count: int
    ) -> None:
        assert len(etth1.windows(split, context, horizon)) == count

    def test_test_horizons(self, etth1: Dataset) -> None:
        windows = etth1.windows("test", 672, 336)
        assert windows.starts[0] + 672 == 11520
        assert windows.starts[-1] + 672 + 336 - 1 == 14399
        assert len(etth1.windows("test", 672, 336, stride=10)) == 255
        assert etth1.windows("test", 672, 336, max_windows=2).starts.tolist() == [10848, 13392]

    def test_scaler(self, etth1: Dataset) -> None:
        train = etth1.series.values[:8640]
        assert etth1.scaler.mean == pytest.approx(train.mean(axis=0), rel=1e-12)
        assert etth1.scaler.std == pytest.approx(train.std(axis=0), rel=1e-12)
        assert etth1.values[:8640].mean(dim=0).abs().max() < 1e-5
