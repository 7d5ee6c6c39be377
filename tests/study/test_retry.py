import sqlite3
import time

import psycopg
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from spec_opt.study.database import is_passing, retrying


def wrapped(error: Exception) -> Exception:
    """As SQLAlchemy and Optuna wrap what a driver raises."""
    try:
        try:
            raise error
        except type(error) as original:
            raise sqlalchemy.exc.OperationalError("SELECT 1", {}, original) from original
    except sqlalchemy.exc.OperationalError as middle:
        outer = StorageInternalError("An exception is raised during the commit.")
        outer.__cause__ = middle
        return outer


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.CannotConnectNow("the database system is starting up"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.OperationalError("connection failed: Connection refused"),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        sqlite3.OperationalError("database is locked"),
    ],
)
def test_outages_pass(error: Exception) -> None:
    assert is_passing(error)
    assert is_passing(wrapped(error))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError('connection failed: FATAL: database "x" does not exist'),
        psycopg.OperationalError("connection failed: password authentication failed"),
        psycopg.errors.DiskFull("no space left"),
        psycopg.errors.UndefinedTable("relation is missing"),
        sqlite3.OperationalError("disk I/O error"),
        ValueError("database is locked"),
    ],
)
def test_other_errors_last(error: Exception) -> None:
    assert not is_passing(error)
    assert not is_passing(wrapped(error))


def test_work_is_done_again_until_it_succeeds() -> None:
    left = [sqlite3.OperationalError("database is locked") for _ in range(2)]
    cleaned: list[int] = []

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retrying(work, 5.0, lambda: cleaned.append(1)) == "done"
    assert len(cleaned) == 2


def test_patience_ends() -> None:
    def work() -> None:
        raise sqlite3.OperationalError("database is locked")

    started = time.monotonic()
    with pytest.raises(sqlite3.OperationalError):
        retrying(work, 0.5)
    assert 0.5 <= time.monotonic() - started < 3.0


def test_a_lasting_error_is_raised_at_once() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        retrying(work, 60.0)
    assert len(calls) == 1
