"""The store: a URL becomes an Optuna storage that many processes may share.

The only file that touches Optuna's private parts. `tuning/ledger.py` works on the tables that it
names, in transactions of `Store.transaction`.

Which database errors pass by themselves, and how long to wait for that.

A storage URL, taken apart and checked before anything is opened; no password is shown.

Database engines whose connections many processes may share; nothing of Optuna here.
"""

import contextlib
import fcntl
import logging
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, quote_plus

import optuna
import psycopg
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Engine, Table, event, func, literal
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from spec_opt.config.paths import readable
from spec_opt.errors import LastingStoreError, StoreError, StoreURLError, StudyError
from spec_opt.study.diagnosis import (
    Access,
    access_of,
    check_file,
    check_revision,
    check_tables,
    make_folder,
    remedy_of,
    store_error,
)

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
        return remedy_of(str(error)) is None
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


SUPPORTED = (
    "supported are sqlite:///path/to/file.db (workers on one host) and "
    "postgresql://user@host/database (workers on any host)"
)
NO_HEARTBEATS = "it keeps no heartbeats, so the work of a dead worker would never be taken up again"
WHY_NOT = {
    "mysql": "its way of locking rows was never tried with spec-opt",
    "mariadb": "its way of locking rows was never tried with spec-opt",
    "grpc": NO_HEARTBEATS,
    "journal": NO_HEARTBEATS,
    "redis": NO_HEARTBEATS,
    "rediss": NO_HEARTBEATS,
    "file": NO_HEARTBEATS,
}
MASK = "***"


@dataclass(frozen=True)
class StoreURL:
    """Where a store is."""

    kind: Literal["sqlite", "postgresql"]
    url: str = field(repr=False)
    """As SQLAlchemy takes it, password included: never show it."""
    masked: str
    """The same with the password masked."""
    path: Path | None
    """The file of an SQLite store."""
    secrets: tuple[str, ...] = field(repr=False)
    """Every spelling of the password."""
    access: Access = "write"
    """To the file of an SQLite store."""

    def mask(self, text: str) -> str:
        """`text` without the password, however it is spelled there."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return text


def parse_url(text: str) -> StoreURL:
    """Check a storage URL.

    Raises:
        StoreURLError: one line, password masked, that says what is supported and why.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        shown = _mask_roughly(text)
        hint = f"for a file, write sqlite:///{shown}; " if text else ""
        raise StoreURLError(f"storage URL {shown!r}: {hint}{SUPPORTED}")
    dialect, _, driver = scheme.lower().partition("+")
    if dialect in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _postgres("postgresql+psycopg" + text[len(scheme) :])
    if dialect in ("postgres", "postgresql"):
        raise StoreURLError(
            f"storage URL {_mask_roughly(text)}: driver {driver} is not supported, "
            "write postgresql:// (psycopg 3 is used)"
        )
    if dialect == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite("sqlite" + text[len(scheme) :])
    reason = f" is not supported: {WHY_NOT[dialect]}" if dialect in WHY_NOT else " is unknown"
    raise StoreURLError(f"storage URL {_mask_roughly(text)}: {scheme}://{reason}; {SUPPORTED}")


def _parse(text: str) -> sqlalchemy.URL:
    try:
        return sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        # `from None`: the original quotes the URL.
        raise StoreURLError(
            f"storage URL {_mask_roughly(text)}: cannot be read (special characters of a password "
            f"must be percent-encoded); {SUPPORTED}"
        ) from None


def _postgres(text: str) -> StoreURL:
    if text.count("@") > 1:
        # Else the password would end at the first one, and its rest be shown as a host.
        raise StoreURLError(
            f"storage URL {_mask_roughly(text)}: it has several @; write those of a password as "
            "%40 (and : as %3A, / as %2F, % as %25, # as %23)"
        )
    url = _parse(text)
    passwords = [url.password, *(url.query.get(key) for key in ("password", "sslpassword"))]
    secrets = [str(password) for password in passwords if password]
    spellings = {f(s) for s in secrets for f in (str, quote, quote_plus, _quote_all)}
    # The longest first: one spelling may be a part of another.
    ordered = tuple(sorted(spellings, key=len, reverse=True))
    masked = url.render_as_string(hide_password=True)
    for key in ("password", "sslpassword"):
        masked = re.sub(rf"([?&]{key}=)[^&]*", rf"\1{MASK}", masked)
    return StoreURL("postgresql", url.render_as_string(hide_password=False), masked, None, ordered)


def _quote_all(text: str) -> str:
    return quote(text, safe="")


def _sqlite(text: str) -> StoreURL:
    url = _parse(text)
    text = _mask_roughly(text)
    database = url.database or ""
    if url.host:
        raise StoreURLError(
            f"storage URL {text}: a file's path starts after three slashes "
            f"(sqlite:///{url.host}/{database})"
        )
    if database in ("", ":memory:") or url.query.get("mode") == "memory":
        raise StoreURLError(
            f"storage URL {text}: a store in memory is lost with its process and no second worker "
            f"sees it; {SUPPORTED}"
        )
    if database.startswith("file:") or url.query:
        raise StoreURLError(f"storage URL {text}: give a plain path, without options; {SUPPORTED}")
    path = Path(database).expanduser()
    if os.path.isdir(path):
        raise StoreURLError(f"storage URL {text}: {path} is a folder, not a file")
    # Only to be shown, and for Optuna; `_connect_sqlite` opens the path itself, whose bytes may
    # be no text.
    spelled = url.set(database=readable(path)).render_as_string()
    return StoreURL("sqlite", spelled, spelled, path, ())


def _mask_roughly(text: str) -> str:
    """Mask what may be a password in a URL that is not taken apart: all up to the last @."""
    text = re.sub(r"^(\w[\w+]*:/*)?.*@", rf"\1{MASK}@", text)
    return re.sub(r"([?&]\w*password=)[^&]*", rf"\1{MASK}", text)


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
    if where.path is not None:
        return {"creator": partial(_connect_sqlite, where.path, where.access)}
    return {"pool_pre_ping": True, "connect_args": dict(POSTGRES_OPTIONS)}


def _connect_sqlite(path: Path, access: Access) -> sqlite3.Connection:
    mode = {"write": "mode=rwc", "read": "mode=ro", "immutable": "immutable=1"}[access]
    uri = f"file:{quote(os.fsencode(path.absolute()))}?{mode}"
    # SQLAlchemy's pool hands a connection from thread to thread, never to two at once.
    return sqlite3.connect(uri, timeout=BUSY_SECONDS, uri=True, check_same_thread=False)


def make_engine(where: StoreURL) -> Engine:
    engine = sqlalchemy.create_engine(where.url, **engine_arguments(where))
    listen(engine, where)
    return engine


def listen(engine: Engine, where: StoreURL) -> None:
    """Set every connection up for sharing, before its first use."""
    if where.kind == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", partial(_begin_sqlite, where.access == "write"))
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


def _begin_sqlite(writable: bool, connection: Connection) -> None:
    # SQLite ignores SELECT ... FOR UPDATE; a transaction that may write takes the write lock first.
    reading = connection.get_execution_options().items() >= READING.items()
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writable and not reading else "BEGIN")


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
    lock = where.path.with_name(where.path.name + ".lock")
    with contextlib.suppress(FileExistsError):
        lock.touch(exist_ok=False)
    with lock.open() as file:  # to read: another user may have made it
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def use_write_ahead_log(where: StoreURL, engine: Engine) -> None:
    """Let SQLite's readers and its one writer not wait for each other; stays with the file."""
    if where.kind == "sqlite":
        with engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA journal_mode = WAL")


def failure_of(error: BaseException, where: StoreURL) -> StoreError:
    """What the driver or the system said, without password and SQL."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
        cause = cause.__cause__
    said = str(cause.orig) if isinstance(cause, sqlalchemy.exc.DBAPIError) else str(error)
    return store_error(where.masked, said, where.mask)


studies: Table = models.StudyModel.__table__
study_directions: Table = models.StudyDirectionModel.__table__
study_user_attributes: Table = models.StudyUserAttributeModel.__table__
study_system_attributes: Table = models.StudySystemAttributeModel.__table__
trials: Table = models.TrialModel.__table__
trial_params: Table = models.TrialParamModel.__table__
trial_values: Table = models.TrialValueModel.__table__
trial_user_attributes: Table = models.TrialUserAttributeModel.__table__
trial_system_attributes: Table = models.TrialSystemAttributeModel.__table__
trial_heartbeats: Table = models.TrialHeartbeatModel.__table__

FINITE = models.TrialValueModel.TrialValueType.FINITE
METRIC_NAMES_KEY: str = _SYSTEM_ATTR_METRIC_NAMES
FIXED_PARAMS_KEY = "fixed_params"
"""The system attribute in which Optuna's queue keeps the parameters of an enqueued trial."""


class Store:
    """An opened store. `storage` is for any Optuna client; `transaction` for our own work.

    As a context manager it closes itself.
    """

    def __init__(self, url: StoreURL, storage: RDBStorage) -> None:
        self.storage = storage
        self.masked_url = url.masked
        self.read_only = url.access != "write"
        self.patience = WHEN_RUNNING
        self._recovered_at: float | None = None
        self._url = url
        self._engine: Engine = storage.engine
        self._reading = self._engine.execution_options(**READING)

    def __repr__(self) -> str:
        return f"Store({self.masked_url})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_postgres(self) -> bool:
        return self._url.kind == "postgresql"

    def transaction(self, work: Callable[[Connection], T], patience: Patience | None = None) -> T:
        """Run `work` in one transaction; all of it happens or nothing.

        On SQLite it is alone in the store from its first statement on; on Postgres it locks the
        rows it asks for. After an error that passes by itself it runs again, so that `work` must
        bear that its first run was committed but the answer got lost.

        Raises:
            StoreError: the store cannot be reached for longer than `patience`, or failed for good.
        """
        return self._run(self._engine, work, patience or self.patience)

    def read(self, work: Callable[[Connection], T], patience: Patience | None = None) -> T:
        """Run `work`, which only reads, in one transaction that blocks nobody."""
        return self._run(self._reading, work, patience or self.patience)

    def _run(self, engine: Engine, work: Callable[[Connection], T], patience: Patience) -> T:
        failures: list[float] = []

        def once() -> T:
            with engine.begin() as connection:
                return work(connection)

        try:
            result = retrying(once, patience, clean_up=lambda: failures.append(time.monotonic()))
        except (SQLAlchemyError, OSError) as error:
            raise failure_of(error, self._url) from None
        if failures:
            self._recovered_at = time.monotonic()
        return result

    def seconds_since_recovery(self) -> float | None:
        """Since the store last answered again after a failure; None if it never failed."""
        return None if self._recovered_at is None else time.monotonic() - self._recovered_at

    def now(self) -> ColumnElement[datetime]:
        """The clock that all workers share, as naive UTC: the server's; with SQLite, the host's."""
        if self.on_postgres:
            return func.timezone("UTC", func.clock_timestamp())
        return literal(datetime.now(UTC).replace(tzinfo=None))

    def optuna_study(
        self, name: str, sampler: optuna.samplers.BaseSampler | None = None
    ) -> optuna.Study:
        """The study as Optuna has it.

        Raises:
            StudyError: there is no study of that name.
        """
        try:
            return optuna.load_study(study_name=name, storage=self.storage, sampler=sampler)
        except KeyError:
            raise StudyError(f"store {self.masked_url}: it holds no study {name!r}") from None

    def sampling_study(self, name: str) -> "SamplingStudy":
        """The study as a sampler is to see it."""
        return SamplingStudy(study_name=name, storage=self.storage)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock under which the store is set up (see `set_up_lock`).

        Raises:
            StoreError: the store cannot be reached for long, or was lost meanwhile.
        """
        lock = partial(set_up_lock, self._url, self._engine)
        try:
            with contextlib.ExitStack() as stack:
                retrying(lambda: stack.enter_context(lock()), self.patience)
                yield
        except (SQLAlchemyError, OSError) as error:
            raise failure_of(error, self._url) from None

    def close(self) -> None:
        """Drop all connections."""
        self.storage.remove_session()
        self._engine.dispose()


def lock_names(store: Store, connection: Connection) -> None:
    """Keep every other process from creating a study until this transaction ends."""
    if store.on_postgres:
        connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(NAMES_LOCK_KEY)))


class SamplingStudy(optuna.Study):
    """A study that reads its trials once for each that a sampler chooses parameters for, if at all.

    Optuna's constant liar reads all of them anew for every parameter. Ours are stored when all are
    chosen, so it sees the same.
    """

    def forget_trials(self) -> None:
        """Read them anew when a sampler asks next (as `Study.ask` does)."""
        self._thread_local.cached_all_trials = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        del use_cache
        return super()._get_trials(deepcopy, states, use_cache=True)


class _PatientStorage(RDBStorage):
    """Optuna's storage, each call of which outlives a restart of the database server."""

    where: StoreURL

    def patiently(self, work: Callable[[], T], *, reading: bool) -> T:
        def once() -> T:
            session = self.scoped_session()
            # A call within another one's transaction belongs to that.
            if reading and not session.in_transaction():
                session.connection(execution_options=READING)
            return work()

        try:
            return retrying(once, WHEN_RUNNING, clean_up=self.scoped_session.remove)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise failure_of(error, self.where) from None


def _make_patient(name: str) -> None:
    original = getattr(RDBStorage, name)
    reading = name.lstrip("_").startswith("get_")

    @wraps(original)
    def method(self: _PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(partial(original, self, *args, **kwargs), reading=reading)

    setattr(_PatientStorage, name, method)


for _name in (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_get_trials",
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_param",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_trial_id_from_study_id_trial_number",
    "record_heartbeat",
):
    _make_patient(_name)


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the store at a URL; set it up first if it is new, unless `create` is False.

    Safe when many processes do so at once.

    Raises:
        StoreURLError: the URL is malformed, unsupported, or names a file of another kind.
        StudyError: there is no store and `create` is False; nothing is written then. What cannot
            be written is opened to be read.
        LastingStoreError: it is another program's, or of another version, or cannot be opened.
        StoreError: the store cannot be reached.
    """
    where = parse_url(url)
    if where.path is not None:
        check_file(where.masked, where.path, write=create)
        if not where.path.exists() and not create:
            raise StudyError(
                f"store {where.masked}: there is none yet; `spec-opt run` makes it, or give "
                "--storage"
            )
        if create:
            make_folder(where.masked, where.path.parent)
        else:
            where = replace(where, access=access_of(where.path))
    try:
        return retrying(lambda: _open(where, create), WHEN_OPENING)
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError) as error:
        raise failure_of(error, where) from None


def check_store(url: str) -> None:
    """Raise what `open_store` would, without making a store where there is none.

    For the start of work that takes long before it needs the store.
    """
    where = parse_url(url)
    if where.path is not None:
        check_file(where.masked, where.path, write=True)
    with contextlib.suppress(StudyError):
        open_store(url, create=False).close()


def _open(where: StoreURL, create: bool) -> Store:
    engine = make_engine(where)
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        check_tables(where.masked, tables, own=where.path is not None)
        ready = _is_set_up(engine)
        if not ready and not create:
            raise StudyError(
                f"store {where.masked}: it holds no study yet; `spec-opt run` makes one"
            )
        if ready:
            storage = _make_storage(where, make_tables=False)
        else:
            with set_up_lock(where, engine):
                use_write_ahead_log(where, engine)
                storage = _make_storage(where, make_tables=not _is_set_up(engine))
    finally:
        engine.dispose()
    try:
        found, known = storage.get_current_version(), storage.get_all_versions()
        check_revision(where.masked, found, known, optuna.__version__)
    except LastingStoreError:
        storage.remove_session()
        storage.engine.dispose()
        raise
    # Connections that Optuna made before it had our listeners must go.
    storage.engine.dispose()
    listen(storage.engine, where)
    return Store(where, storage)


def _make_storage(where: StoreURL, *, make_tables: bool) -> RDBStorage:
    storage = _PatientStorage(
        # Optuna fills {SCHEMA_VERSION} into a URL with str.format.
        where.url.replace("{", "{{").replace("}", "}}"),
        engine_kwargs=engine_arguments(where),
        skip_compatibility_check=True,  # `check_revision` says more
        skip_table_creation=not make_tables,
    )
    storage.where = where
    return storage


def _is_set_up(engine: Engine) -> bool:
    # The last thing that Optuna writes when it sets up a store.
    if not sqlalchemy.inspect(engine).has_table("alembic_version"):
        return False
    with engine.connect() as connection:
        query = sqlalchemy.text("SELECT count(*) FROM alembic_version")
        return bool(connection.execute(query).scalar())
