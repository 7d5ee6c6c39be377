"""`spec-opt worker` with real models, ten times in the same second on a new store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna

from spec_opt.study.store import open_store
from spec_opt.study.study import load_study
from tests.cli.test_cli import STUDY

SETTINGS = 80
WORKERS = 10


@contextmanager
def processes(*commands: list[str]) -> "Iterator[list[subprocess.Popen[str]]]":
    """Started together; what is left of them at the end is killed."""
    # One thread each: they share the cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "spec_opt", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def assert_grid_once(url: str) -> None:
    with open_store(url, create=False) as store:
        trials = load_study(store, "tiny").optuna_study().get_trials(deepcopy=False)
        names = optuna.get_all_study_names(store.storage)
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == SETTINGS
    assert names == ["tiny"]


def test_ten_workers_in_the_same_second_make_one_study(store_url: str, tmp_path: Path) -> None:
    study = tmp_path / "tiny.toml"
    sigmas = [0.2 + 0.2 * i for i in range(SETTINGS // 4)]
    study.write_text(STUDY.replace("[0.3, 2.0]", str(sigmas)), encoding="utf-8")
    command = ["worker", str(study), "--storage", store_url]
    with processes(*[command] * WORKERS) as workers:
        said = [worker.communicate(timeout=300)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * WORKERS, said
    assert "Traceback" not in "".join(said)
    assert sum(text.count(" complete: ") for text in said) == SETTINGS
    assert_grid_once(store_url)
