"""`spec-opt worker` with real models, many times in the same second on a new store."""

from pathlib import Path

import optuna

from spec_opt.cli import main
from spec_opt.study.store import open_store
from spec_opt.study.study import load_study
from tests.cli.test_cli import STUDY
from tests.forked import Forked

SETTINGS = 40
WORKERS = 5


def assert_grid_once(url: str) -> None:
    with open_store(url, create=False) as store:
        trials = load_study(store, "tiny").optuna_study().get_trials(deepcopy=False)
        names = optuna.get_all_study_names(store.storage)
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == SETTINGS
    assert names == ["tiny"]


def test_workers_in_the_same_second_make_one_study(store_url: str, tmp_path: Path) -> None:
    study = tmp_path / "tiny.toml"
    sigmas = [0.2 + 0.2 * i for i in range(SETTINGS // 4)]
    study.write_text(STUDY.replace("[0.3, 2.0]", str(sigmas)), encoding="utf-8")
    command = ["worker", str(study), "--storage", store_url]
    workers = [Forked(tmp_path / f"{number}", main, command) for number in range(WORKERS)]
    codes = [worker.wait(300) for worker in workers]
    said = [worker.stderr for worker in workers]
    assert codes == [0] * WORKERS, said
    assert "Traceback" not in "".join(said)
    assert sum(text.count(" complete: ") for text in said) == SETTINGS
    assert_grid_once(store_url)
