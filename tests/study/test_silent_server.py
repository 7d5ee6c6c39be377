"""A process of the server that is stopped: the work goes on with another one."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from spec_opt.errors import StoreError
from spec_opt.study import postgres
from spec_opt.study.store import Store

pytestmark = pytest.mark.postgres


@pytest.fixture
def store(
    opened: Callable[..., Store], used_database: str, monkeypatch: pytest.MonkeyPatch
) -> Store:
    if os.environ.get("TEST_DATABASE_URL"):
        pytest.skip("needs a server on this machine")
    monkeypatch.setattr(postgres, "SILENCE_S", 0.5)
    return opened(used_database)


def server_process(connection: Connection) -> int:
    """The process that serves a connection."""
    found: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return found


@contextmanager
def stopped(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_one_that_was_stopped_between_transactions(store: Store) -> None:
    before = store.read(server_process)
    with stopped(before):
        assert store.read(server_process) != before


def test_one_that_is_stopped_in_a_transaction(store: Store) -> None:
    seen: list[int] = []

    def work(connection: Connection) -> int:
        process = server_process(connection)
        if not seen:
            os.kill(process, signal.SIGSTOP)
        seen.append(process)
        return server_process(connection)

    try:
        assert store.transaction(work) == seen[1]
        assert seen[0] != seen[1]
    finally:
        os.kill(seen[0], signal.SIGCONT)


def test_who_does_not_wait_is_told(store: Store) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(10)")

    with pytest.raises(StoreError, match=r"no answer for \d s"):
        store.transaction(work, patience_s=0.0)


def test_a_statement_that_speaks_is_waited_for(store: Store) -> None:
    """The limit is on silence, not on the time that a statement takes."""

    def work(connection: Connection) -> int:
        query = "SELECT repeat('x', 2000) FROM generate_series(1, 60) AS i WHERE pg_sleep(0.02) IS "
        return len(connection.exec_driver_sql(f"{query} NOT NULL").all())

    assert store.read(work) == 60
