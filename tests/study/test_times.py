"""Times of trials are UTC, whatever the zones of those who write and who read."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import delete

from spec_opt.results.importing import import_tables
from spec_opt.results.table import TrialRow, read_table, table_of
from spec_opt.study import times
from spec_opt.study.claims import Claims
from spec_opt.study.store import TIMES_ARE_UTC, Store, trial_system_attributes
from spec_opt.study.trials import NewTrial, give_up, history
from spec_opt.study.worker import run_worker
from tests.study.stand_in import StandIn, stand_in_study

ZONES = ("Asia/Tokyo", "America/New_York", "UTC", "Asia/Kathmandu")
SETTING = {"sigma": 0.5, "bias": 1.0, "k": 1}


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this process to another time zone."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(params=["Optuna's own times", "local times, as Optuna 4 keeps them"])
def store(
    request: pytest.FixtureRequest,
    opened: Callable[..., Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Store:
    if request.param != "Optuna's own times":
        monkeypatch.setattr(times, "TIMES_ARE_UTC", False)
    return opened(f"sqlite:///{tmp_path}/s.db")


def read(store: Store, name: str = "stand-in") -> tuple[TrialRow, ...]:
    return read_table(store.optuna_study(name)).trials


def near(moment: datetime | None) -> bool:
    now = datetime.now(UTC).replace(tzinfo=None)
    return moment is not None and abs(now - moment) < timedelta(minutes=5)


@pytest.mark.parametrize("written", ["Asia/Tokyo", "America/New_York"])
def test_measured_trials(store: Store, zone: Callable[[str], None], written: str) -> None:
    zone(written)
    run_worker(stand_in_study(store, k=(1,), bias=(1.0,), sigma=(0.5,)), StandIn(), Event())
    found = set()
    for name in ZONES:
        zone(name)
        (trial,) = read(store)
        assert near(trial.started)
        assert near(trial.finished)
        found.add((trial.started, trial.finished))
    assert len(found) == 1


def test_trials_that_run_that_died_and_that_were_imported(
    store: Store, zone: Callable[[str], None]
) -> None:
    zone("Asia/Tokyo")
    study = stand_in_study(store, k=(1, 2), bias=(1.0,), sigma=(0.5,))
    claims = Claims(study)
    assert claims.claim() is not None
    zone("America/New_York")
    running = next(trial for trial in read(store) if trial.state == "running")
    assert near(running.started)
    assert running.finished is None
    row = store.read(lambda connection: history(connection, study.study_id))[0]
    store.transaction(lambda connection: give_up(connection, row, 60.0))
    result = NewTrial(SETTING, {"source": "imported"}, (0.5, 0.4))
    import_tables(store, "old", (result,), ())
    zone("UTC")
    assert near(read(store)[0].finished)
    assert all(near(t.started) and near(t.finished) for t in read(store, "old"))


def test_trials_of_other_clients_have_the_times_of_optuna_alone(
    opened: Callable[..., Store], tmp_path: Path, zone: Callable[[str], None]
) -> None:
    store = opened(f"sqlite:///{tmp_path}/s.db")
    study = stand_in_study(store, k=(1,), bias=(1.0,), sigma=(0.5,))
    zone("Asia/Tokyo")
    client = optuna.load_study(study_name=study.name, storage=store.storage)
    client.tell(client.ask(), (0.5, 0.4))
    client.ask()
    for name in ZONES if TIMES_ARE_UTC else ("Asia/Tokyo",):
        zone(name)
        for table in (read(store), table_of(store, study.config).trials):
            done, running = (row for row in table if row.state in ("complete", "running"))
            assert near(done.started)
            assert near(done.finished)
            assert near(running.started)
        rows = store.read(lambda connection: history(connection, study.study_id))
        assert all(near(row.last_sign) for row in rows if row.state is TrialState.RUNNING)


@pytest.mark.skipif(TIMES_ARE_UTC, reason="this Optuna keeps UTC itself")
def test_trials_of_older_versions_are_read_by_the_readers_zone(
    store: Store, zone: Callable[[str], None]
) -> None:
    zone("Asia/Tokyo")
    run_worker(stand_in_study(store, k=(1,), bias=(1.0,), sigma=(0.5,)), StandIn(), Event())
    stamps = trial_system_attributes.c.key.in_(("spec_opt:started", "spec_opt:finished"))
    store.transaction(lambda c: c.execute(delete(trial_system_attributes).where(stamps)))
    (trial,) = read(store)
    assert near(trial.started)
    assert near(trial.finished)
