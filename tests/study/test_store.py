import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from sqlalchemy import Connection, insert, select

from spec_opt.errors import LastingStoreError, StoreError, StudyError
from spec_opt.study import database
from spec_opt.study.database import parse_url, utc_now
from spec_opt.study.store import Store, look_at_store, open_store, studies

Open = Callable[..., Store]


def names(store: Store) -> list[str]:
    query = select(studies.c.study_name).order_by(studies.c.study_id)
    return store.read(lambda connection: list(connection.execute(query).scalars()))


def add(name: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        connection.execute(insert(studies).values(study_name=name))

    return work


def test_a_store_is_made_and_found_again(store_url: str, opened: Open) -> None:
    opened(store_url).transaction(add("a"))
    assert names(opened(store_url)) == ["a"]
    assert names(opened(store_url, create=False)) == ["a"]


def test_any_optuna_client_can_use_it(store: Store) -> None:
    study = optuna.create_study(storage=store.storage, study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=3)
    assert len(store.optuna_study("plain").trials) == 3


def test_a_study_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(StudyError, match="no study 'x'"):
        store.optuna_study("x")


def test_a_transaction_happens_whole_or_not_at_all(store: Store) -> None:
    def work(connection: Connection) -> None:
        add("a")(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transaction(work)
    assert names(store) == []


def test_two_stores_write_in_turn(store_url: str, opened: Open) -> None:
    """Each counts and adds; none counts what another one is just adding."""
    stores = [opened(store_url) for _ in range(4)]

    def count_and_add(connection: Connection) -> None:
        if stores[0].storage.engine.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE studies")
        count = connection.execute(select(sqlalchemy.func.count(studies.c.study_id))).scalar()
        time.sleep(0.01)
        add(f"study {count}")(connection)

    def work(store: Store) -> None:
        for _ in range(5):
            store.transaction(count_and_add)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(stores[0]) == [f"study {i}" for i in range(20)]


def test_readers_do_not_wait_for_a_writer(store_url: str, opened: Open) -> None:
    writer, reader = opened(store_url), opened(store_url)

    def work(connection: Connection) -> list[str]:
        add("a")(connection)
        return names(reader)

    assert writer.transaction(work) == []
    assert names(reader) == ["a"]


def test_optunas_reading_does_not_wait_for_a_writer_either(store_url: str, opened: Open) -> None:
    writer, reader = opened(store_url), opened(store_url)
    study = optuna.create_study(storage=writer.storage, study_name="plain")
    study.add_trial(optuna.trial.create_trial(value=1.0))

    def work(connection: Connection) -> int:
        add("a")(connection)
        return len(reader.optuna_study("plain").trials)

    assert writer.transaction(work) == 1
    reader.optuna_study("plain").set_user_attr("writing", "still works")
    assert writer.optuna_study("plain").user_attrs == {"writing": "still works"}


def test_the_clock_is_utc(store: Store) -> None:
    told = store.read(lambda connection: connection.execute(select(utc_now())).scalar_one())
    assert abs(told - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=5)


def test_transactions_are_tried_again(store: Store) -> None:
    calls: list[int] = []

    def work(connection: Connection) -> None:
        calls.append(1)
        add("a")(connection)
        if len(calls) < 3:
            raise sqlite3.OperationalError("database is locked")

    assert store.seconds_since_recovery() is None
    store.transaction(work)
    assert names(store) == ["a"]
    recovered = store.seconds_since_recovery()
    assert recovered is not None
    assert recovered < 5


def test_the_lock_is_tried_for_again(
    store_url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [sqlite3.OperationalError("database is locked") for _ in range(2)]

    def lock_set_up(_: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr("spec_opt.study.store.lock_set_up", lock_set_up)
    opened(store_url)
    assert not failures


def test_a_lock_that_cannot_be_had_is_said(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock_set_up(_: object) -> None:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr("spec_opt.study.store.lock_set_up", lock_set_up)
    with pytest.raises(StoreError, match="not yours"):
        open_store(store_url)


def test_a_lasting_failure_is_one_line(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.transaction(lambda connection: connection.exec_driver_sql("SELECT * FROM nothing"))
    assert "nothing" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_looking_at_no_store_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="none yet"):
        open_store(f"sqlite:///{tmp_path}/folder/store.db", create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgres
def test_looking_at_an_empty_database_leaves_it_empty(new_database: Callable[[], str]) -> None:
    url = new_database()
    with pytest.raises(StudyError, match="no study yet"):
        open_store(url, create=False)
    engine = sqlalchemy.create_engine(url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are no tables at all. " * 100)
    for create in (True, False):
        with pytest.raises(LastingStoreError, match="not an SQLite database"):
            open_store(f"sqlite:///{file}", create=create)
    assert file.read_text() == "These are no tables at all. " * 100


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LastingStoreError, match="file: not a folder; give another --storage"):
        open_store(f"sqlite:///{tmp_path}/file/store.db")


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "{curly}.db", "ä.db"])
def test_odd_file_names(name: str, tmp_path: Path, opened: Open) -> None:
    opened(f"sqlite:///{tmp_path}/{name}").transaction(add("a"))
    assert names(opened(f"sqlite:///{tmp_path}/{name}")) == ["a"]
    assert (tmp_path / name).exists()


def test_a_store_that_optuna_made_is_taken_over(tmp_path: Path, opened: Open) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    optuna.create_study(storage=url, study_name="old")
    assert names(opened(url)) == ["old"]


def test_a_store_of_another_optuna_is_said(tmp_path: Path, opened: Open) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    opened(url).transaction(
        lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num='v1'")
    )
    with pytest.raises(StoreError, match="revision v1 of Optuna's schema, made by a newer"):
        open_store(url)


def test_an_optuna_with_an_unknown_schema_is_said(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spec_opt.study.store.KNOWN_REVISIONS", ("v1",))
    with pytest.raises(LastingStoreError) as caught:
        open_store(store_url)
    assert f"Optuna {optuna.__version__} has revision v3.2.0.a" in str(caught.value)
    assert "spec-opt only knows v1; install" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unreachable_server_is_said_soon_and_without_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 1.0)
    with pytest.raises(StoreError) as caught:
        open_store("postgresql://me:s3cr3t@127.0.0.1:1/db")
    message = str(caught.value)
    assert "refused" in message
    assert "s3cr3t" not in message
    assert "\n" not in message
    assert caught.value.__cause__ is None


@pytest.mark.postgres
def test_a_wrong_user_is_said_at_once(new_database: Callable[[], str]) -> None:
    url = sqlalchemy.make_url(new_database()).set(username="nobody", password="x")
    with pytest.raises(LastingStoreError, match="check"):
        open_store(url.render_as_string(hide_password=False))


@pytest.mark.postgres
def test_a_database_of_mlflow_is_left_alone(new_database: Callable[[], str]) -> None:
    url = new_database()
    engine = sqlalchemy.create_engine(parse_url(url).url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('cc1f77228345')")
        connection.exec_driver_sql("CREATE TABLE experiments (id integer)")
    with pytest.raises(LastingStoreError, match="an MLflow database"):
        open_store(url)
    assert sqlalchemy.inspect(engine).get_table_names() == ["alembic_version", "experiments"]
    engine.dispose()


@pytest.mark.postgres
def test_a_missing_database_is_said_at_once(new_database: Callable[[], str]) -> None:
    url = sqlalchemy.make_url(new_database()).set(database="nowhere")
    started = time.monotonic()
    with pytest.raises(LastingStoreError, match="does not exist: make it with `createdb`"):
        open_store(url.render_as_string(hide_password=False))
    assert time.monotonic() - started < 5


def journal(tmp_path: Path, mode: str) -> Path:
    """A store with one study, with a write-ahead log or with Optuna's rollback journal."""
    path = tmp_path / "store.db"
    with open_store(f"sqlite:///{path}") as store:
        store.transaction(add("a"))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    return path


@contextlib.contextmanager
def another_writer(path: Path, begin: str) -> Iterator[None]:
    """Another program in the middle of a transaction that has written."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(begin)
        connection.execute("INSERT INTO studies (study_name) VALUES ('b')")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("mode", "begin"),
    [("WAL", "BEGIN IMMEDIATE"), ("WAL", "BEGIN EXCLUSIVE"), ("DELETE", "BEGIN IMMEDIATE")],
)
def test_looking_waits_for_no_writer(
    tmp_path: Path, mode: str, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOOKING_BUSY_S", 0)
    path = journal(tmp_path, mode)
    with another_writer(path, begin), look_at_store(f"sqlite:///{path}") as store:
        assert names(store) == ["a"]


def test_a_writer_that_keeps_readers_out_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOOKING_BUSY_S", 0)
    monkeypatch.setattr(database, "FIRST_PAUSE_S", 1e9)  # nothing is tried again
    path = journal(tmp_path, "DELETE")
    url = f"sqlite:///{path}"
    with another_writer(path, "BEGIN EXCLUSIVE"), pytest.raises(StoreError, match="another prog"):
        look_at_store(url)
    with look_at_store(url) as store:
        assert names(store) == ["a"]
        with (
            another_writer(path, "BEGIN EXCLUSIVE"),
            pytest.raises(StoreError, match="try again when that has ended"),
        ):
            names(store)


def test_looking_writes_nothing(tmp_path: Path) -> None:
    path = journal(tmp_path, "WAL")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with look_at_store(f"sqlite:///{path}") as store:
        assert names(store) == ["a"]
        with pytest.raises(StoreError, match="can only be read"):
            store.transaction(add("b"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.postgres
def test_looking_at_a_server_writes_nothing(used_database: str) -> None:
    with look_at_store(used_database) as store, pytest.raises(StoreError, match="read-only"):
        store.transaction(add("b"))
