"""Studies from Python: opened by name, path or settings, run, and read."""

import json
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import spec_opt
from spec_opt.api import find_settings
from spec_opt.cli import main
from spec_opt.config.study_file import StudyConfig, read_study, shipped_studies
from spec_opt.config.toml import toml_of
from spec_opt.errors import ConfigError, InputError, StoreURLError, StudyError
from spec_opt.results.frame import COLUMNS
from spec_opt.study.catalogue import stored_studies
from tests.cli.test_cli import STUDY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> spec_opt.TuningStudy:
    """A study of 8 settings that was run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(STUDY, encoding="utf-8")
    study = spec_opt.open_study(folder / "tiny.toml", f"sqlite:///{folder / 'x.db'}")
    assert study.run(show_progress=False) is study
    return study


class TestAStudyThatWasRun:
    def test_frames_have_the_documented_columns(self, study: spec_opt.TuningStudy) -> None:
        frame, front = study.frame(), study.front()
        assert tuple(frame.columns) == tuple(front.columns) == COLUMNS
        assert list(frame["number"]) == list(range(8))
        pd.testing.assert_series_equal(
            front["acceptance_rate"], front["acceptance_rate"].sort_values(ascending=False)
        )
        assert set(front["number"]) == set(frame.loc[frame["pareto"], "number"])

    def test_answers_are_those_of_the_command_line(
        self, study: spec_opt.TuningStudy, capfd: pytest.CaptureFixture[str]
    ) -> None:
        capfd.readouterr()
        given = [study.reference, "--storage", study.storage]
        assert main(["recommend", *given, "--format", "json", "--scenario", "balanced"]) == 0
        document = json.loads(capfd.readouterr().out)
        (choice,) = document["recommendations"]
        assert study.recommend("balanced").trial == choice["trial"]
        assert study.verdict().document() == document["verdict"]

    def test_an_unknown_scenario_is_refused(self, study: spec_opt.TuningStudy) -> None:
        with pytest.raises(InputError, match="'fast': must be one of speed, quality, balanced"):
            study.recommend("fast")  # type: ignore[arg-type]

    def test_forecasts_are_those_of_the_command_line(
        self, study: spec_opt.TuningStudy, capfd: pytest.CaptureFixture[str]
    ) -> None:
        capfd.readouterr()
        given = [study.reference, "--storage", study.storage, "--trial", "1", "--horizon", "3"]
        assert main(["forecast", *given]) == 0
        found = study.forecast(trial=1, horizon=3)
        assert capfd.readouterr().out.encode() == found.written("csv")
        assert (len(found.frame), found.plan.trial) == (3, 1)
        with pytest.raises(InputError, match="trial, scenario and alone exclude each other"):
            study.forecast(trial=1, alone="target")

    def test_figures_and_optuna(self, study: spec_opt.TuningStudy) -> None:
        assert {"pareto_frontier", "acceptance_vs_mse"} <= set(study.figures())
        assert len(study.optuna.best_trials) == len(study.front())

    def test_running_again_changes_nothing(self, study: spec_opt.TuningStudy) -> None:
        before = study.frame()
        pd.testing.assert_frame_equal(study.run(show_progress=False).frame(), before)

    def test_what_is_shown_of_it(self, study: spec_opt.TuningStudy) -> None:
        assert repr(study).startswith("<TuningStudy tiny in sqlite:///")
        assert repr(study).endswith(": 8 of 8 trials complete>")
        shown = study._repr_html_()
        assert "Pareto front of tiny: of 8 completed trials" in shown
        assert "<table>" in shown
        verdict = study.verdict()
        assert repr(verdict) == f"<Verdict {verdict.decision}: {verdict.reason}>"
        choice = study.recommend("speed")
        assert repr(choice).startswith("<Recommendation speed: ")
        assert choice.setting is None or f"({choice.setting}): " in repr(choice)


@pytest.mark.usefixtures("folder")
def test_a_worker_process_on_settings_without_a_file() -> None:
    config = read_study("tiny.toml").model_copy(update={"name": "from-python"})
    Path("tiny.toml").unlink()
    study = spec_opt.open_study(config).run(workers=1, show_progress=False)
    assert (study.frame()["state"] == "complete").sum() == 8
    assert Path("logs/from-python/worker-0.log").exists()


@pytest.mark.usefixtures("folder")
def test_a_worker_says_what_is_wrong_with_the_input() -> None:
    Path("tiny.toml").write_text(STUDY.replace("tiny_draft.pth", "absent.pth"), encoding="utf-8")
    with pytest.raises(InputError, match=r"making the models failed: .*absent\.pth"):
        spec_opt.open_study("tiny").run(workers=2, show_progress=False)
    with pytest.raises(InputError, match="workers and gpus exclude each other"):
        spec_opt.open_study("tiny").run(workers=2, gpus="all")


def test_opening_reads_and_writes_nothing(folder: Path) -> None:
    study = spec_opt.open_study("tiny")
    store = f"sqlite:///{folder}/storage/spec_opt.db"
    assert repr(study) == f"<TuningStudy tiny in {store}: not run yet>"
    assert "there is none yet" in study._repr_html_()
    with pytest.raises(StudyError, match="there is none yet"):
        study.frame()
    assert not Path("storage").exists()


def test_the_store_stays_where_it_was_when_the_folder_changes(
    study: spec_opt.TuningStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(study.storage.removeprefix("sqlite:///"))
    monkeypatch.chdir(file.parent)
    again = spec_opt.open_study(study.config, f"sqlite:///{file.name}")
    monkeypatch.chdir("/")
    assert again.storage == study.storage
    assert len(again.frame()) == 8


def test_the_store_may_be_named_by_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEC_OPT_STORAGE", "sqlite:///other.db")
    assert spec_opt.open_study("tiny").storage == f"sqlite:///{folder}/other.db"
    with pytest.raises(StoreURLError):
        spec_opt.open_study("tiny", "mysql://host/database")


@pytest.mark.usefixtures("elsewhere")
class TestReferences:
    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_a_name_in_the_store_brings_its_settings(
        self,
        study: spec_opt.TuningStudy,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        assert find_settings("tiny", study.storage) == study.config
        monkeypatch.setenv("SPEC_OPT_STORAGE", study.storage)
        for command in ("status", "train", "recommend"):
            capfd.readouterr()
            assert main([command, "tiny", "--json"]) == 0
            json.loads(capfd.readouterr().out)
        assert main(["worker", "tiny"]) == 0

    def test_a_file_goes_before_the_store(self, study: spec_opt.TuningStudy) -> None:
        Path("tiny.toml").write_text(STUDY.replace("k = [1, 2]", "k = [3]"), encoding="utf-8")
        assert find_settings("tiny", study.storage).search.k == (3,)

    def test_the_name_of_a_shipped_study_as_it_is_printed(
        self, study: spec_opt.TuningStudy
    ) -> None:
        assert find_settings("etth1-grid", study.storage) == read_study("etth1_grid")

    def test_a_name_that_nothing_has(self, study: spec_opt.TuningStudy) -> None:
        with pytest.raises(ConfigError, match=r"quickstart; or one in .*, which holds tiny; --s"):
            find_settings("tinny", study.storage)
        with pytest.raises(ConfigError, match="no such study file"):
            find_settings("absent.toml", "postgresql://nobody@127.0.0.1:1/none")

    def test_imported_results_have_no_settings(
        self, study: spec_opt.TuningStudy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = Path(__file__).parent.parent / "files" / "old_sweep.csv"
        monkeypatch.setenv("SPEC_OPT_STORAGE", study.storage)
        Path("old.toml").write_text(STUDY.replace('"tiny"', '"old"'), encoding="utf-8")
        assert main(["import", "old.toml", str(table)]) == 0
        Path("old.toml").unlink()
        with pytest.raises(StudyError, match="holds imported results"):
            find_settings("old", study.storage)
        old, tiny = stored_studies(study.storage)
        assert (old.name, old.has_settings, old.complete) == ("old", False, 80)
        assert (tiny.name, tiny.has_settings, tiny.complete, tiny.trials) == ("tiny", True, 8, 8)


def test_a_store_without_tables_holds_no_study(tmp_path: Path) -> None:
    assert stored_studies(f"sqlite:///{tmp_path / 'absent.db'}") == ()
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("VACUUM")
    assert stored_studies(f"sqlite:///{tmp_path / 'empty.db'}") == ()


SETTINGS = {
    "ranges": 'name = "a"\n[search]\nsampler = "tpe"\nn_trials = 3\n'
    "sigma = {low = 0.1, high = 1.0, log = true}\n"
    '[data]\nsource = "a \\"b\\" \\u00e9.csv"\ncontext = 96\nhorizon = 48\n',
    "dates": 'name = "b"\n[data]\nsource = "x.csv"\ncontext = 96\nhorizon = 48\ntime = false\n'
    "splits = [2017-06-26, 2017-10-24T12:00:00]\n",
    "variants": 'name = "v"\n[search]\nrule = ["stride", "point"]\nteacher_noise = [0.0, 0.1]\n'
    'combine = "one-at-a-time"\nconstraints = {max_mse_ratio = 1.1}\n'
    '[draft]\nkind = "timer-xl"\n[data]\nsource = "synthetic"\ncontext = 96\nhorizon = 48\n',
    "factory": 'name = "c"\n[data]\nsource = "x.csv"\ncontext = 96\nhorizon = 48\n'
    '[target]\nfactory = "a.b:c"\noptions = {size = "large", "a key" = [1, 2.5, true], z = {y = 1}}\n',  # noqa: E501,
}


@pytest.mark.parametrize("explained", [False, True])
@pytest.mark.parametrize("name", [*shipped_studies(), *SETTINGS])
def test_settings_survive_as_a_study_file(tmp_path: Path, name: str, explained: bool) -> None:
    if name in SETTINGS:
        (tmp_path / "given.toml").write_text(SETTINGS[name], encoding="utf-8")
        config = read_study(str(tmp_path / "given.toml"))
    else:
        config = read_study(name)
    text = toml_of(config, explained=explained)
    (tmp_path / "again.toml").write_text(text, encoding="utf-8")
    again = read_study(str(tmp_path / "again.toml"))
    assert again == config
    assert again.draft.kind_made == config.draft.kind_made
    assert max(map(len, text.splitlines())) <= 120
    assert tomllib.loads(text)["name"] == config.name


def test_settings_from_python() -> None:
    config = StudyConfig.model_validate(
        {"name": "mine", "data": {"source": "synthetic", "context": 96, "horizon": 48}}
    )
    assert spec_opt.open_study(config).reference == "mine"


def test_settings_from_python_are_those_of_a_study_file(tmp_path: Path) -> None:
    """Lists, paths and dates as they stand there."""
    settings = {
        "name": "listed",
        "search": {"sigma": [0.1, 0.2], "rule": ["stride", "point"], "k": [1, 2]},
        "data": {
            "source": "x.csv", "channels": ["OT"], "splits": [0.7, 0.1, 0.2],
            "context": 96, "horizon": 48,
        },
        "target": {"checkpoint": str(tmp_path / "target.pth")},
    }  # fmt: skip
    (tmp_path / "listed.toml").write_text(toml_of(StudyConfig.model_validate(settings)), "utf-8")
    config = spec_opt.open_study(settings).config
    assert config == read_study(str(tmp_path / "listed.toml"))
    assert config.search.sigma == (0.1, 0.2)


def test_a_mistake_in_a_dict_of_settings_is_one_line() -> None:
    settings: dict[str, Any] = {
        "name": "a",
        "search": {"sigma": [0.1, -2]},
        "data": {"source": "x.csv"},
    }
    settings["data"] |= {"context": 96, "horizon": 48}
    with pytest.raises(ConfigError, match=r"^settings: search\.sigma\[1\] = -2: must be greater"):
        spec_opt.open_study(settings)
    settings["search"] = {"sigma": []}
    with pytest.raises(ConfigError, match=r"search\.sigma = \[\]: must list at least one value"):
        spec_opt.open_study(settings)


def test_the_names_of_the_package_are_listed() -> None:
    """So that they are completed, although they are imported when asked for."""
    assert set(spec_opt.__all__) <= set(dir(spec_opt))
