"""Which database errors pass by themselves, and how long to wait for that."""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

PASSING_STATES = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
        "55P03",  # lock_not_available
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: the server is starting
        "25P03",  # idle_in_transaction_session_timeout: we were stopped in a transaction
    }
)
DATABASE_ERRORS = (
    sqlalchemy.exc.SQLAlchemyError,
    StorageInternalError,
    psycopg.Error,
    sqlite3.Error,
)
LASTING_TEXTS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")


@dataclass(frozen=True)
class Patience:
    """How long to try again after errors that pass by themselves."""

    seconds: float
    """From the first failure; then the error is raised."""


WHEN_OPENING = Patience(10.0)
"""A store that does not answer at the start is more likely misspelled than restarting."""
WHEN_RUNNING = Patience(120.0)
"""Longer than a restart of the database server takes."""


def is_passing(error: BaseException) -> bool:
    """Whether the error, or one that caused it, is of a kind that passes by itself."""
    return any(_passes(link) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _passes(error: BaseException) -> bool:
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        if error.sqlstate is not None:
            return error.sqlstate in PASSING_STATES or error.sqlstate.startswith("08")
        # Without a state the connection itself failed, or could not be made.
        return not any(text in str(error) for text in LASTING_TEXTS)
    if isinstance(error, sqlite3.OperationalError):
        return "is locked" in str(error)
    return isinstance(error, (sqlalchemy.exc.PendingRollbackError, sqlalchemy.exc.TimeoutError))


def retrying(
    work: Callable[[], T], patience: Patience, clean_up: Callable[[], None] = lambda: None
) -> T:
    """Do `work`, again after each error that passes by itself, with growing, jittered pauses.

    `clean_up` runs after each failure. The last error is raised as it is.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            return work()
        except DATABASE_ERRORS as error:
            clean_up()
            now = time.monotonic()
            if deadline is None:
                deadline = now + patience.seconds
            if now >= deadline or not is_passing(error):
                raise
            log.debug("the store did not answer (%s); trying again", type(error).__name__)
        time.sleep(min(pause * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE)
