"""What is wrong with a store, and whether that lasts."""

import sqlite3
import tempfile
from pathlib import Path

import optuna
import pytest

from spec_opt.errors import LastingStoreError, SpecOptError, StoreError
from spec_opt.study.diagnosis import (
    access_of,
    check_file,
    check_revision,
    check_tables,
    store_error,
)
from spec_opt.study.store import open_store
from tests.other_user import give_away, run_unprivileged


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ('FATAL: password authentication failed for user "me"', "check user and password"),
        ("fe_sendauth: no password supplied", "check user and password"),
        ('FATAL: database "optuna" does not exist', "createdb"),
        ('FATAL: role "me" does not exist', "check the user"),
        ('FATAL: no pg_hba.conf entry for host "10.0.0.7"', "does not let this user or host in"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "check the host"),
        ("permission denied for schema public", "have them granted"),
        ("cannot execute INSERT in a read-only transaction", "name the primary"),
        ("attempt to write a readonly database", "give another --storage"),
        ("unable to open database file", "ends in -wal"),
        ("database disk image is malformed", "restore it from a copy"),
    ],
)
def test_faults_that_last(said: str, remedy: str) -> None:
    error = store_error("postgresql://db", said)
    assert isinstance(error, LastingStoreError)
    assert error.exit_code == 2
    assert str(error).startswith(f"store postgresql://db: {said}: ")
    assert remedy in str(error)


def test_lines_of_a_database_become_sentences() -> None:
    said = (
        "port 5433 failed: Connection refused\n\tIs the server running on that host?\nAll:\n- a\n"
    )
    expected = "port 5433 failed: Connection refused. Is the server running on that host? All: - a"
    assert str(store_error("postgresql://db", said)) == f"store postgresql://db: {expected}"


@pytest.mark.parametrize(
    "said",
    [
        "connection refused",
        "[Errno -3] Temporary failure in name resolution",
        "FATAL: the database system is starting up",
        "database is locked",
        "could not extend file: No space left on device",
        "database or disk is full",
    ],
)
def test_faults_that_may_pass(said: str) -> None:
    error = store_error("postgresql://db", said)
    assert type(error) is StoreError
    assert error.exit_code == 1


def test_tables_of_others() -> None:
    check_tables("u", set(), own=True)
    check_tables("u", {"studies", "alembic_version", "experiments"}, own=True)
    check_tables("u", {"spatial_ref_sys"}, own=False)
    for tables, own in (({"alembic_version", "runs"}, False), ({"moz_places"}, True)):
        with pytest.raises(LastingStoreError, match="a study needs a database of its own"):
            check_tables("u", tables, own=own)


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("v3.0.0.a", "made by an older Optuna; bring them up to v3.2.0.a with"),
        ("v9.0.0.a", "made by a newer Optuna than this one"),
        ("cc1f77228345", "another program's"),
        (None, "another program's"),
    ],
)
def test_other_revisions(revision: str | None, words: str) -> None:
    known = ["v3.2.0.a", "v3.0.0.a"]
    check_revision("u", known[0], known, "5.0.0")
    with pytest.raises(LastingStoreError, match=words) as caught:
        check_revision("u", revision, known, "5.0.0")
    assert ("storage upgrade" in str(caught.value)) == (revision == "v3.0.0.a")


def test_a_place_is_judged_before_it_is_made(tmp_path: Path) -> None:
    check_file("u", tmp_path / "a" / "b" / "s.db", write=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(LastingStoreError, match="not a folder"):
        check_file("u", tmp_path / "file" / "s.db", write=True)


def try_to_open(url: str, create: bool) -> str:
    try:
        store = open_store(url, create=create)
        return f"{store.read_only} {store.storage.get_all_studies()[0].study_name}"
    except SpecOptError as error:
        return f"{error.exit_code} {error}"


def look(path: Path, *, create: bool = False) -> str:
    """What another user says who tries to open the store."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        done = run_unprivileged(said, try_to_open, f"sqlite:///{path}", create)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


def made(path: Path) -> None:
    with open_store(f"sqlite:///{path}") as store:
        optuna.create_study(
            storage=store.storage, study_name="mine", directions=["maximize", "minimize"]
        )


@pytest.mark.parametrize("readable", ["file", "folder"])
def test_a_store_that_can_only_be_read(tmp_path: Path, readable: str) -> None:
    path = tmp_path / "in" / "s.db"
    made(path)
    give_away(path.parent, path)
    path.chmod(0o644 if readable == "file" else 0o666)
    path.parent.chmod(0o777 if readable == "file" else 0o755)
    assert look(path) == "True mine"
    refusal = look(path, create=True)
    assert refusal.startswith("2 store ")
    assert "can only be read; status, recommend, export and report -o DIR work" in refusal


def test_a_store_with_changes_that_are_in_its_log_only(tmp_path: Path) -> None:
    """A worker of another user is at it."""
    path = tmp_path / "in" / "s.db"
    made(path)
    writer = sqlite3.connect(path)
    writer.execute("UPDATE studies SET study_name = 'newer'")
    writer.commit()
    assert access_of(path) == "write"
    logs = [path.with_name(f"s.db{suffix}") for suffix in ("-wal", "-shm")]
    give_away(path.parent, path, *logs)
    path.parent.chmod(0o755)
    assert look(path) == "True newer"
    copied = [log.read_bytes() for log in logs]
    writer.close()
    logs[0].write_bytes(copied[0])
    give_away(logs[0])
    assert "copy both into a folder that can be written" in look(path)


def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "in" / "s.db"
    made(path)
    give_away(path.parent, path)
    path.chmod(0o600)
    assert "permission denied" in look(path)
    path.parent.chmod(0o700)
    assert "Permission denied" in look(path)
    assert look(path, create=True).startswith("2 store ")
