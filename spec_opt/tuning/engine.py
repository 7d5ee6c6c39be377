"""Database engines whose connections many processes may share; nothing of Optuna here."""

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, func

from spec_opt.tuning.store_url import StoreURL

BUSY_SECONDS = 60
"""How long SQLite waits for another process's transaction before it gives up."""
SETUP_LOCK_KEY = 0x73706563_6F7074
"""Key of the advisory lock that guards set-up on Postgres ("specopt" in ASCII)."""
NAMES_LOCK_KEY = SETUP_LOCK_KEY + 1
"""Key of the one under which studies are created."""
READING = {"spec_opt_reading": True}
"""Execution options of a connection whose transactions only read, and so block nobody."""
POSTGRES_OPTIONS = {
    "connect_timeout": 10,
    "application_name": "spec-opt",
    # A peer that vanished from the network is noticed within a minute, not after two hours.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def engine_arguments(where: StoreURL) -> dict[str, Any]:
    if where.kind == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {"pool_pre_ping": True, "connect_args": dict(POSTGRES_OPTIONS)}


def make_engine(where: StoreURL) -> Engine:
    engine = sqlalchemy.create_engine(where.url, **engine_arguments(where))
    listen(engine, where)
    return engine


def listen(engine: Engine, where: StoreURL) -> None:
    """Set every connection up for sharing, before its first use."""
    if where.kind == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _set_up_postgres)


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # No transactions of Python's own making: see `_begin_sqlite`.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    # With a write-ahead log, which every store has that we set up, a crash of the process loses
    # nothing; a power cut at most the last commits, never the consistency of the file. In a file
    # that Optuna made, with its rollback journal, a power cut has a small chance to harm that too.
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    # SQLite ignores SELECT ... FOR UPDATE; a transaction that may write takes the write lock first.
    reading = connection.get_execution_options().items() >= READING.items()
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _set_up_postgres(connection: Any, _: object) -> None:
    # A process that is stopped inside a transaction must not hold up all others.
    with connection.cursor() as cursor:
        cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.commit()


@contextlib.contextmanager
def set_up_lock(where: StoreURL, engine: Engine) -> Iterator[None]:
    """Only one process at a time: a file lock beside an SQLite file, an advisory one on Postgres.

    Optuna makes its tables in several transactions, which fail when two processes do so at once.
    """
    if where.path is None:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(SETUP_LOCK_KEY)))
            yield
        return
    with where.path.with_name(where.path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def use_write_ahead_log(where: StoreURL, engine: Engine) -> None:
    """Let SQLite's readers and its one writer not wait for each other; stays with the file."""
    if where.kind == "sqlite":
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA journal_mode = WAL")


def reason_of(error: BaseException, where: StoreURL) -> str:
    """What the driver said, on one line, without password and SQL."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
        cause = cause.__cause__
    said = str(cause.orig) if isinstance(cause, sqlalchemy.exc.DBAPIError) else str(error)
    line = " ".join(where.mask(said).split())
    return line if len(line) <= 300 else line[:297] + "..."
