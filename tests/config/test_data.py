"""`[data]`: how a file is read, where its rows are split, and where it is looked for."""

from datetime import datetime
from pathlib import Path

import pytest

from spec_opt.config.study_file import DataConfig, StudyConfig, read_study
from spec_opt.errors import ConfigError

HEAD = 'name = "a"\n[data]\ncontext = 192\nhorizon = 96\n'


def read(folder: Path, data: str, source: str = "plant.csv") -> DataConfig:
    path = folder / "study.toml"
    path.write_text(f'{HEAD}source = "{source}"\n{data}\n', encoding="utf-8")
    return read_study(str(path)).data


def test_how_a_file_is_read(tmp_path: Path) -> None:
    data = read(tmp_path, "")
    assert (data.time, data.channels, data.gaps, data.splits) == (None, None, None, None)
    data = read(tmp_path, 'time = "t"\nchannels = ["b", "a"]\ngaps = "interpolate"')
    assert (data.time, data.channels, data.gaps) == ("t", ("b", "a"), "interpolate")
    assert read(tmp_path, "time = false").time is False


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("[0.6, 0.2, 0.2]", (0.6, 0.2, 0.2)),
        ("[2017-06-26, 2017-10-24]", (datetime(2017, 6, 26), datetime(2017, 10, 24))),
        ('["2017-06-26", "2017-10-24 12:00"]', (datetime(2017, 6, 26), datetime(2017, 10, 24, 12))),
        (
            "[2017-01-01, 2017-02-01T06:00:00, 2017-03-01]",
            (datetime(2017, 1, 1), datetime(2017, 2, 1, 6), datetime(2017, 3, 1)),
        ),
    ],
)
def test_splits(tmp_path: Path, splits: str, expected: tuple[object, ...]) -> None:
    data = read(tmp_path, f"splits = {splits}")
    assert data.splits == expected
    # As a store keeps it.
    assert DataConfig.model_validate_json(data.model_dump_json()) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("time = 3", "data.time = 3: must be a text in quotes"),
        ("time = true", "data.time = true: must be False"),
        ('time = ""', "data.time = '': must not be empty"),
        ("channels = []", "data.channels = []: must list at least one value"),
        ('channels = ["a", "a"]', "data.channels = ['a', 'a']: must not list a name twice"),
        ("channels = [3]", "data.channels[0] = 3: must be a text in quotes"),
        ('channels = "a"', "data.channels = 'a': must be a list, [...]"),
        (
            'gaps = "zero"',
            "data.gaps = 'zero': must be 'forward-fill' or 'interpolate'",
        ),
        ("splits = 3", "data.splits = 3: must be a list, [...]"),
        (
            "splits = [0.7, 0.2, 0.2]",
            "data.splits = [0.7, 0.2, 0.2]: three shares must be positive and add up to 1",
        ),
        (
            "splits = [0.7, 0.3, 0.0]",
            "data.splits = [0.7, 0.3, 0.0]: three shares must be positive and add up to 1",
        ),
        ("splits = [0.7, 0.3]", "data.splits[2]: missing"),
        (
            "splits = [2017-10-24, 2017-06-26]",
            "data.splits = ['2017-10-24', '2017-06-26']: must be the first dates of validation "
            "and test, ascending, and perhaps where test ends",
        ),
    ],
)
def test_bad_values(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, data)
    assert str(caught.value) == f"{tmp_path / 'study.toml'}: {message}"


@pytest.mark.parametrize("data", ['time = "t"', 'channels = ["a"]', 'gaps = "interpolate"'])
def test_what_is_made_up_has_nothing_to_read(tmp_path: Path, data: str) -> None:
    with pytest.raises(ConfigError, match=r"is for files: source = 'synthetic' has nothing to"):
        read(tmp_path, data, source="synthetic")


# --- where a source is looked for -----------------------------------------------------------------


def test_a_file_beside_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plant.csv").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert read(tmp_path, "").source == str(tmp_path / "plant.csv")
    (elsewhere / "plant.csv").touch()  # the working folder comes first, as for checkpoints
    assert read(tmp_path, "").source == "plant.csv"


@pytest.mark.parametrize("source", ["ETTh1", "synthetic", "nowhere.csv"])
def test_a_name_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "synthetic").touch()
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / "study", "", source=source).source == source


def test_a_source_that_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.source: not a path: "):
        read(tmp_path, "", source="~nobody-of-that-name/a.csv")


def test_what_older_versions_stored_is_still_read() -> None:
    stored = {"name": "a", "data": {"source": "ETTh1", "context": 192, "horizon": 96}}
    assert StudyConfig.model_validate(stored).data.splits is None
