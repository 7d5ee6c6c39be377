"""A database that many processes share: its URL, its connections, the errors that pass.

Nothing here knows of Optuna's tables.
"""

import logging
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import psycopg
import sqlalchemy
from optuna.exceptions import StorageInternalError
from psycopg import errors as postgres
from sqlalchemy import URL, Connection, DateTime, Engine, Table, event, exc, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from spec_opt.config.outgoing import mask, remember
from spec_opt.config.paths import readable
from spec_opt.errors import StoreError, StoreURLError
from spec_opt.study.diagnosis import Access, remedy_of, store_error
from spec_opt.study.postgres import connect

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

DATABASE_ERRORS = (
    StoreError, exc.SQLAlchemyError, StorageInternalError, psycopg.Error, sqlite3.Error
)  # fmt: skip
PASSING_ERRORS = (
    postgres.SerializationFailure,
    postgres.DeadlockDetected,
    postgres.LockNotAvailable,
    postgres.TooManyConnections,
    postgres.AdminShutdown,
    postgres.CrashShutdown,
    postgres.CannotConnectNow,  # the server is starting
    postgres.IdleInTransactionSessionTimeout,  # we were stopped in a transaction
    exc.PendingRollbackError,
    exc.TimeoutError,  # all connections of the pool were busy
)


def is_passing(error: BaseException | None) -> bool:
    """Whether the error, or one that caused it, is of a kind that passes by itself."""
    return error is not None and (_passes(error) or is_passing(error.__cause__))


def _passes(error: BaseException) -> bool:
    if isinstance(error, PASSING_ERRORS):
        return True
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        if error.sqlstate is not None:
            return error.sqlstate.startswith("08")  # the connection broke
        # Without a state the connection itself failed, or could not be made.
        return remedy_of(str(error)) is None
    return isinstance(error, sqlite3.OperationalError) and "is locked" in str(error)


def retrying(
    work: Callable[[], T], patience_s: float, clean_up: Callable[[], None] = lambda: None
) -> T:
    """Run `work`, again after each error that passes by itself, with growing, jittered pauses.

    Args:
        work: what to do; its last error is raised as it is.
        patience_s: seconds to go on trying, from the first failure.
        clean_up: runs after each failure.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE_S
    while True:
        try:
            return work()
        except DATABASE_ERRORS as error:
            clean_up()
            now = time.monotonic()
            deadline = now + patience_s if deadline is None else deadline
            if now >= deadline or not is_passing(error):
                raise
            log.debug("the store did not answer (%s); trying again", type(error).__name__)
        time.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE_S)


SUPPORTED = (
    "supported are sqlite:///path/to/file.db (workers on one host) and "
    "postgresql://user@host/database (workers on any host)"
)
NOT_TRIED = "its way of locking rows was never tried with spec-opt"
NO_HEARTBEATS = "it keeps no heartbeats, so the work of a dead worker would never be taken up again"
WHY_NOT = dict.fromkeys(("mysql", "mariadb"), NOT_TRIED) | dict.fromkeys(
    ("grpc", "journal", "redis", "rediss", "file"), NO_HEARTBEATS
)


@dataclass(frozen=True)
class StoreURL:
    """Where a store is."""

    kind: Literal["sqlite", "postgresql"]
    url: str = field(repr=False)
    """As SQLAlchemy takes it, password included: never show it."""
    masked: str
    """Without passwords, to be shown."""
    path: Path | None = None
    """The file of an SQLite store."""
    access: Access = "write"
    """To that file; of a database on a server, whether it is written to or looked at."""

    @property
    def place(self) -> str:
        """The URL to be shown, with the folder that a relative path is taken from."""
        if self.path is None or self.path.is_absolute():
            return self.masked
        return f"{self.masked} (in {readable(os.path.realpath('.'))})"

    def failure(self, error: BaseException) -> StoreError:
        """What the driver or the system said, on one line, without passwords."""
        return store_error(self.masked, mask(str(error)))


_REFERENCE = re.compile(r"(.+?)@([a-z][a-z0-9+]*://.*)", re.IGNORECASE | re.DOTALL)


def split_reference(reference: str, url: str) -> tuple[str, str]:
    """A study's name and the URL of its store: of `NAME@URL`, or `url`."""
    found = _REFERENCE.fullmatch(reference)
    return (reference, url) if found is None else (found[1], found[2])


def parse_url(text: str) -> StoreURL:
    """Check a storage URL.

    Raises:
        StoreURLError: one line, without password, that says what is supported and why.
    """
    remember(text)
    try:
        url = sqlalchemy.make_url(text)
    except (exc.ArgumentError, ValueError):
        # It may hold a password anywhere, so it is not shown.
        hint = f"for a file, write sqlite:///{text}; " if text and not {*text} & {*"@="} else ""
        raise StoreURLError(
            "storage URL: cannot be read (special characters of a password must be "
            f"percent-encoded); {hint}{SUPPORTED}"
        ) from None
    backend, _, driver = url.drivername.lower().partition("+")
    if backend in ("postgres", "postgresql") and text.count("@") > 1:
        # Else the password would end at the first one, and its rest be shown as a host.
        shown = "" if "?" in text else f" postgresql+psycopg://***@{text.rpartition('@')[2]}"
        raise StoreURLError(
            f"storage URL{shown}: it has several @; write those of a password as %40 (and : as "
            "%3A, / as %2F, % as %25, # as %23)"
        )
    if backend in ("postgres", "postgresql"):
        return _postgres(url, driver)
    if backend == "sqlite" and driver in ("", "pysqlite"):
        name, mark, options = text.partition("?")
        if mark and "=" not in options:  # no options: part of the file's name
            url = sqlalchemy.make_url(name)
            url = url.set(database=f"{url.database}?{options}")
        return _sqlite(url.set(drivername="sqlite"))
    reason = f"is not supported: {WHY_NOT[backend]}" if backend in WHY_NOT else "is unknown"
    raise StoreURLError(f"storage URL {_masked(url)}: {url.drivername}:// {reason}; {SUPPORTED}")


def absolute(text: str) -> str:
    """A storage URL that means the same store when the working folder changes.

    Raises:
        StoreURLError: as `parse_url`.
    """
    path = parse_url(text).path
    return text if path is None or path.is_absolute() else f"sqlite:///{path.absolute()}"


def _masked(url: URL) -> str:
    return mask(url.render_as_string(hide_password=True))


def _postgres(url: URL, driver: str) -> StoreURL:
    if driver not in ("", "psycopg"):
        raise StoreURLError(
            f"storage URL {_masked(url)}: driver {driver} is not supported, "
            "write postgresql:// (psycopg 3 is used)"
        )
    url = url.set(drivername="postgresql+psycopg")
    return StoreURL("postgresql", url.render_as_string(hide_password=False), _masked(url))


def _sqlite(url: URL) -> StoreURL:
    database = url.database or ""
    try:
        path = Path(database).expanduser()
    except RuntimeError as error:
        raise StoreURLError(f"storage URL {_masked(url)}: {error}; {SUPPORTED}") from None
    if url.host:
        problem = f"a file's path starts after three slashes (sqlite:///{url.host}/{database})"
    elif database in ("", ":memory:") or url.query.get("mode") == "memory":
        problem = "a store in memory is lost with its process and no second worker sees it"
    elif database.startswith("file:") or url.query:
        problem = "give a plain path, without options"
    elif os.path.isdir(path):
        problem = f"{path} is a folder, not a file"
    else:
        # Shown, and given to Optuna; `_connect_sqlite` opens the path, whose bytes may be no text.
        plain = url.set(database=readable(path)).render_as_string()
        return StoreURL("sqlite", plain, plain, path)
    raise StoreURLError(f"storage URL {_masked(url)}: {problem}; {SUPPORTED}")


BUSY_S = 60
"""How long SQLite waits for another process's transaction."""
LOOKING_BUSY_S = 2
"""The same for who only looks: a writer is in the way only with a rollback journal."""
BEGIN = "spec_opt_begin"
"""Execution option: the statement that begins a transaction on SQLite."""
SETUP_LOCK_KEY = 0x73706563_6F7074
"""Key of the advisory lock that guards set-up on Postgres ("specopt" in ASCII)."""


def engine_arguments(where: StoreURL) -> dict[str, Any]:
    """For `create_engine`."""
    if where.path is not None:
        return {"creator": partial(_connect_sqlite, where.path, where.access)}
    readonly = {"postgresql_readonly": True} if where.access == "look" else {}
    return {
        "pool_pre_ping": True,
        "creator": partial(connect, where.url),
        "execution_options": readonly,
    }


def _connect_sqlite(path: Path, access: Access) -> sqlite3.Connection:
    mode = {"write": "mode=rwc", "look": "mode=rw", "read": "mode=ro", "immutable": "immutable=1"}
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path.absolute()))}?{mode[access]}",
        uri=True,
        timeout=BUSY_S if access == "write" else LOOKING_BUSY_S,
        # In Optuna's own calls reading takes no lock, and the first write waits for the lock.
        isolation_level="IMMEDIATE",
        # SQLAlchemy's pool hands a connection from thread to thread, never to two at once.
        check_same_thread=False,
    )
    if access == "look":
        # Not by the mode: a connection that may not write leaves the log's files behind.
        connection.execute("PRAGMA query_only = ON")
    return connection


def listen(engine: Engine, where: StoreURL) -> None:
    """Prepare each connection before its first use; raise failures as StoreError."""
    if where.kind == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "begin", _begin_postgres)

    def fail(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        # After a failed ping the pool reconnects. Optuna handles violated constraints itself.
        handled = context.is_pre_ping or isinstance(error, exc.IntegrityError)
        if isinstance(error, exc.DBAPIError) and not handled:
            raise where.failure(context.original_exception)

    event.listen(engine, "handle_error", fail)


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # With a write-ahead log, which every store has that we set up, a crash of the process loses
    # nothing; a power cut at most the last commits, never the consistency of the file. In a file
    # that Optuna made, with its rollback journal, a power cut has a small chance to harm that too.
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    if statement := connection.get_execution_options().get(BEGIN):
        connection.exec_driver_sql(statement)


def _begin_postgres(connection: Connection) -> None:
    # A process that is stopped inside a transaction must not hold up all others. For each
    # transaction anew: behind a pooler, a session may serve another client next.
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '60s'")


def lock_set_up(connection: Connection) -> None:
    """Keep out other processes that set the store up, until this transaction ends.

    On SQLite every transaction that writes is alone.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(SETUP_LOCK_KEY)))


class utc_now(FunctionElement[datetime]):  # noqa: N801 - used like a function of SQL
    """The clock that all workers share, as naive UTC: the server's; with SQLite, the host's."""

    type = DateTime()
    inherit_cache = True


@compiles(utc_now, "postgresql")
def _clock_of_postgres(*_: object, **__: object) -> str:
    return "timezone('UTC', clock_timestamp())"


@compiles(utc_now, "sqlite")
def _clock_of_sqlite(*_: object, **__: object) -> str:
    # Milliseconds, in the digits that SQLAlchemy stores.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say what to do on a conflict."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
