"""Studies copied from store to store."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from spec_opt.cli import main
from spec_opt.errors import StudyError
from spec_opt.study.database import parse_url
from spec_opt.study.store import Store
from tests.results import studies

Open = Callable[..., Store]
RESULTS = [(0.1 * i, 1.0, i, 0.1 * i, 0.4 + 0.01 * i) for i in range(1, 6)]


@pytest.fixture
def source(tmp_path: Path, opened: Open) -> Store:
    """A study with trials in every state that a worker leaves."""
    store = opened(f"sqlite:///{tmp_path}/source.db")
    study = studies.study_of(*RESULTS, storage=store.storage)
    fail = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"error": "no"})
    study.add_trial(fail)
    study.enqueue_trial({"sigma": 0.5, "bias": 1.0, "k": 3}, user_attrs={"grid_point": 7})
    return store


@contextmanager
def closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def content(store: Store) -> tuple[Any, ...]:
    study = store.optuna_study("given")
    trials = [described(trial) for trial in study.get_trials()]
    return study.directions, study.metric_names, study.user_attrs, trials


def described(trial: FrozenTrial) -> dict[str, Any]:
    """All of a trial but its key in the database."""
    return {name: value for name, value in vars(trial).items() if name != "_trial_id"}


def test_a_copy_is_equal_there_and_back(
    source: Store, store_url: str, tmp_path: Path, opened: Open
) -> None:
    there = opened(store_url)
    assert source.copy_study("given", there) == 7
    assert content(there) == content(source)
    back = opened(f"sqlite:///{tmp_path}/back.db")
    there.copy_study("given", back)
    assert content(back) == content(source)
    # The store goes on as before.
    there.optuna_study("given").set_user_attr("later", 1)
    assert opened(store_url).optuna_study("given").user_attrs["later"] == 1


def test_optuna_alone_can_use_a_copy(source: Store, store_url: str, opened: Open) -> None:
    source.copy_study("given", opened(store_url))
    url = parse_url(store_url).url
    with closing(RDBStorage(url)) as plain:
        study = optuna.load_study(study_name="given", storage=plain)
        best = [trial.number for trial in study.best_trials]
        assert best == [trial.number for trial in source.optuna_study("given").best_trials]
        assert study.user_attrs["config"]["name"] == "given"
        optuna.copy_study(
            from_study_name="given", from_storage=plain, to_storage=plain, to_study_name="again"
        )
        assert len(optuna.load_study(study_name="again", storage=plain).trials) == 7
    command = ["best-trials", "--storage", url, "--study-name", "again", "--format", "json"]
    shown = subprocess.check_output([Path(sys.executable).with_name("optuna"), *command])
    assert [trial["number"] for trial in json.loads(shown)] == best


def test_a_name_that_is_taken_is_refused_and_kept(
    source: Store, store_url: str, opened: Open
) -> None:
    there = opened(store_url)
    studies.study_of(RESULTS[0], storage=there.storage)
    before = content(there)
    with pytest.raises(StudyError, match="it has a study given already, so nothing was copied"):
        source.copy_study("given", there)
    assert content(there) == before
    with pytest.raises(StudyError, match="no study 'other'"):
        source.copy_study("other", there)


def break_off(target: Store, leave: Callable[[], None]) -> Callable[..., None]:
    """Leave when the fourth trial is about to be written; returns the listener."""
    count = iter(range(100))

    def watch(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO trials ") and next(count) == 3:
            leave()

    sqlalchemy.event.listen(target.storage.engine, "before_cursor_execute", watch)
    return watch


def test_a_copy_that_fails_leaves_nothing(source: Store, store_url: str, opened: Open) -> None:
    there = opened(store_url)

    def fail() -> None:
        raise ZeroDivisionError

    watch = break_off(there, fail)
    with pytest.raises(ZeroDivisionError):
        source.copy_study("given", there)
    sqlalchemy.event.remove(there.storage.engine, "before_cursor_execute", watch)
    assert there.storage.get_all_studies() == []
    source.copy_study("given", there)
    assert content(there) == content(source)


KILLED = """
import os, sys
from spec_opt.study.store import open_store
from tests.study.test_copying import break_off
target = open_store(os.environ["TARGET"])
break_off(target, lambda: os.kill(os.getpid(), 9))
open_store(sys.argv[1]).copy_study("given", target)
"""


def test_a_copy_that_is_killed_leaves_nothing(source: Store, store_url: str, opened: Open) -> None:
    there = opened(store_url)
    command = [sys.executable, "-c", KILLED, source.masked_url]
    killed = subprocess.run(command, env={**os.environ, "TARGET": store_url}, check=False)
    assert killed.returncode == -9
    assert there.storage.get_all_studies() == []
    assert source.copy_study("given", there) == 7


def test_the_command(source: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "given.toml", f"sqlite:///{tmp_path}/other.db"
    file.write_text(
        'name = "given"\n[data]\nsource = "synthetic"\ncontext = 96\nhorizon = 96\n',
        encoding="utf-8",
    )
    capsys.readouterr()
    command = ["copy", str(file), "--storage", source.masked_url, "--to", other]
    assert main(command) == 0
    assert capsys.readouterr() == (f"given: 7 trials copied to {other}\n", "")
    assert main(command) == 2
    assert "it has a study given already" in capsys.readouterr().err
    secret = "postgresql+x://user:quokka@host/database"
    assert main([*command[:-1], secret]) == 2
    assert "quokka" not in "".join(capsys.readouterr())
