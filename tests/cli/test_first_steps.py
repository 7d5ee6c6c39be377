"""The first commands of a new user: init, list and show; and help and completion."""

import json
import shlex
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest

from spec_opt.cli import main
from spec_opt.cli.common import app
from spec_opt.cli.completion import STUDY as STUDY_TYPE
from spec_opt.cli.examples import EXAMPLES
from spec_opt.config.study_file import StudyConfig, read_study, shipped_studies
from spec_opt.models.starter import study_file_for
from tests.cli.test_cli import STUDY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_series(rows: int, season: int | None, *, noise: float = 0.1) -> None:
    """An hourly series of two channels and a column of text."""
    generator, time = np.random.default_rng(0), np.arange(rows)
    cycle = np.zeros(rows) if season is None else np.sin(2 * np.pi * time / season)
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "load": 10 + cycle + generator.normal(0, noise, rows),
            "heat ü": 5 - cycle + generator.normal(0, noise, rows),
            "site": "north",
        }
    )
    frame.to_csv("plant.csv", index=False)


def starter(rows: int, season: int | None) -> StudyConfig:
    write_series(rows, season)
    Path("plant.toml").write_text(study_file_for("plant.csv", "plant"), encoding="utf-8")
    return read_study("plant.toml")


class TestAStudyOfASeries:
    def test_runs_as_it_is(self, capfd: pytest.CaptureFixture[str]) -> None:
        write_series(400, 4)
        assert main(["init", "--csv", "plant.csv"]) == 0
        captured = capfd.readouterr()
        assert captured.out == "plant.toml\n"
        assert "spec-opt run plant.toml" in captured.err
        text = Path("plant.toml").read_text(encoding="utf-8")
        assert "# left out: site" in text
        # As it is but for the time: fewer settings, nothing timed.
        text = text.replace("bias = [1.0, 2.0, 5.0, 10.0]", "bias = [1.0]")
        text = text.replace("epochs = 5", "epochs = 1")
        Path("plant.toml").write_text(f"{text}\n[bench]\nseconds = 0\n", encoding="utf-8")
        assert main(["run", "plant.toml"]) == 0
        assert "Pareto front of plant: of 16 completed trials" in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("rows", "season", "patch"),
        [
            (3000, 24, 24),
            (3000, 7, 7),  # the largest that is whole seasons and no more than 12
            (3000, 4, 12),
            (10000, 168, 84),  # half a season: a whole one is longer than the largest patch
            (3000, None, 24),
            (400, 24, 4),  # a sixth, so that horizons fit the splits
        ],
    )
    def test_a_patch_fits_the_season_and_the_splits(
        self, rows: int, season: int | None, patch: int
    ) -> None:
        config = starter(rows, season)
        assert config.target.patch == patch
        assert (config.data.context, config.data.horizon) == (7 * patch, 4 * patch)
        assert config.data.channels == ("load", "heat ü")
        assert config.data.splits == (0.7, 0.1, 0.2)

    def test_gaps_are_filled_only_where_there_are_some(self) -> None:
        assert starter(400, 4).data.gaps is None
        lines = Path("plant.csv").read_text(encoding="utf-8").splitlines()
        del lines[100]
        Path("plant.csv").write_text("\n".join(lines), encoding="utf-8")
        text = study_file_for("plant.csv", "plant")
        assert 'gaps = "interpolate"' in text
        assert "# 1 missing rows and cells are filled in" in text

    def test_what_cannot_be_read_leaves_no_file(self, capfd: pytest.CaptureFixture[str]) -> None:
        write_series(100, 4)
        assert main(["init", "--csv", "plant.csv"]) == 2
        assert "100 rows are too few for a study; give 200 or more" in capfd.readouterr().err
        assert main(["init", "--csv", "absent.csv"]) == 2
        assert not Path("plant.toml").exists()


class TestACopy:
    @pytest.mark.parametrize("name", shipped_studies())
    def test_of_a_shipped_study_keeps_its_comments(self, name: str) -> None:
        assert main(["init", "mine", "--from", name]) == 0
        text = Path("mine.toml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"run {name}" not in text
        assert read_study("mine.toml") == read_study(name).model_copy(update={"name": "mine"})

    def test_of_ones_own_study_keeps_its_settings(self) -> None:
        Path("tiny.toml").write_text(STUDY, encoding="utf-8")
        assert main(["init", "again.toml", "--from", "tiny.toml"]) == 0
        expected = read_study("tiny.toml").model_copy(update={"name": "again"})
        assert read_study("again.toml") == expected

    def test_never_overwrites(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["init"]) == 0
        Path("quickstart.toml").write_text("mine", encoding="utf-8")
        assert main(["init"]) == 2
        assert "quickstart.toml: exists already; give another NAME" in capfd.readouterr().err
        assert Path("quickstart.toml").read_text(encoding="utf-8") == "mine"
        assert main(["init", "--force"]) == 0
        assert read_study("./quickstart.toml").name == "quickstart"

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["--from", "quickstart", "--csv", "a.csv"], "exclude each other"),
            (["///"], "is no name for a study"),
            (["--from", "absent"], "no such study file"),
        ],
    )
    def test_what_is_refused(
        self, folder: Path, arguments: list[str], problem: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["init", *arguments]) == 2
        assert problem in capfd.readouterr().err
        assert not list(folder.iterdir())


def test_a_list_makes_no_store(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "none yet" in capfd.readouterr().out
    assert not Path("storage").exists()


def test_list_and_show(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (finished / "tiny.toml").unlink()
    assert main(["list"]) == 0
    assert "\n  tiny: 8 of 8 trials complete\n" in capfd.readouterr().out
    assert main(["list", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [study["name"] for study in document["studies"]] == ["tiny"]
    assert {study["study"] for study in document["shipped"]} == {*shipped_studies()}

    assert main(["show", "tiny"]) == 0
    shown = capfd.readouterr().out
    assert "# series: synthetic: 1,000 rows, 3 channels" in shown
    assert "\nsigma = [0.3, 2.0]\n" in shown
    assert '\nrule = "stride"  # default\n' in shown
    Path("shown.toml").write_text(shown, encoding="utf-8")
    assert main(["show", "tiny", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["config"] == read_study("shown.toml").model_dump(mode="json")
    assert document["series"]["windows"] == 20

    names = STUDY_TYPE.shell_complete(
        click.Context(app.commands["status"]), app.commands["status"].params[0], "t"
    )
    assert [(item.value, item.type) for item in names] == [("tiny", "plain"), ("t", "file")]


def test_settings_are_shown_although_the_series_cannot_be_read(
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = STUDY.replace('"synthetic"', '"absent.csv"').replace(
        "[data.synthetic]\nrows = 1000\n", ""
    )
    Path("tiny.toml").write_text(text, encoding="utf-8")
    assert main(["show", "tiny.toml"]) == 2
    captured = capfd.readouterr()
    assert 'source = "absent.csv"' in captured.out
    assert "absent.csv" in captured.err


@pytest.mark.parametrize("name", app.commands)
def test_every_help_ends_with_examples_that_parse(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert EXAMPLES[name]
    for example in EXAMPLES[name]:
        assert f"\n  {example}\n".replace("\n  ", "\n    ") in shown
        program, command, *arguments = shlex.split(example)
        assert (program, command) == ("spec-opt", name)
        app.commands[name].make_context(name, arguments)
