"""The store: a URL becomes an Optuna storage that many processes share.

Optuna's private parts are used in this file and in `trials.py` only. What they rely on is the
layout of Optuna's tables, so a store with another schema revision is refused.
"""

import logging
import time
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import optuna
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.orm import scoped_session, sessionmaker

from spec_opt.config.paths import ANOTHER_STORE
from spec_opt.errors import LastingStoreError, StoreError, StudyError
from spec_opt.study.database import (
    BEGIN,
    DATABASE_ERRORS,
    StoreURL,
    engine_arguments,
    listen,
    lock_set_up,
    parse_url,
    retrying,
)
from spec_opt.study.diagnosis import (
    access_of,
    check_file,
    check_revision,
    check_tables,
    make_folder,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

KNOWN_REVISIONS = ("v3.2.0.a",)
"""Revisions of Optuna's schema (Alembic's) whose tables spec-opt reads and writes directly."""

studies: Table = models.StudyModel.__table__
study_directions: Table = models.StudyDirectionModel.__table__
study_user_attributes: Table = models.StudyUserAttributeModel.__table__
study_system_attributes: Table = models.StudySystemAttributeModel.__table__
trials: Table = models.TrialModel.__table__
trial_params: Table = models.TrialParamModel.__table__
trial_values: Table = models.TrialValueModel.__table__
trial_user_attributes: Table = models.TrialUserAttributeModel.__table__
trial_system_attributes: Table = models.TrialSystemAttributeModel.__table__
versions: Table = models.VersionInfoModel.__table__
trial_heartbeats: Table = models.TrialHeartbeatModel.__table__

FINITE = models.TrialValueModel.TrialValueType.FINITE
stored_value = models.TrialValueModel.stored_repr_to_value
"""A value from its two columns, which keep infinities apart."""
CONSTRAINTS_KEY: str = _CONSTRAINTS_KEY
METRIC_NAMES_KEY: str = _SYSTEM_ATTR_METRIC_NAMES
FIXED_PARAMS_KEY = "fixed_params"
"""The system attribute in which Optuna's queue keeps the parameters of an enqueued trial."""

TIMES_ARE_UTC = hasattr(models.TrialModel, "_datetime_start_utc")
"""Whether the times of a trial are naive UTC; Optuna 4 keeps naive local time in these columns."""

UNREADABLE = (ValueError, TypeError, LookupError, AssertionError)
"""What rows raise that were damaged or edited: JSON, numbers, times and states that are none."""

OPENING_PATIENCE_S = 8.0
"""A store that does not answer at the start is more likely misspelled than restarting."""
RUNNING_PATIENCE_S = 120.0
"""Longer than a restart of the database server takes."""


class Store:
    """An opened store. `storage` is for any Optuna client; `transaction` for our own work.

    As a context manager it closes itself. Whatever the database raises is a StoreError.
    """

    def __init__(
        self, where: StoreURL, storage: RDBStorage, patience_s: float = RUNNING_PATIENCE_S
    ) -> None:
        self.storage = storage
        self.masked_url = where.masked
        self.place = where.place
        self._where = where
        self._patience_s = patience_s
        self._recovered_at: float | None = None
        self.read_only = where.access != "write"
        # SQLite ignores SELECT ... FOR UPDATE: what may write takes the write lock first.
        begin = "BEGIN" if self.read_only else "BEGIN IMMEDIATE"
        self._writing = storage.engine.execution_options(**{BEGIN: begin})
        self._reading = storage.engine.execution_options(**{BEGIN: "BEGIN"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transaction(self, work: Callable[[Connection], T], patience_s: float | None = None) -> T:
        """Run `work` in one transaction; all of it happens or nothing.

        On SQLite it is alone in the store from its first statement on; on Postgres it locks the
        rows it asks for. After an error that passes by itself it runs again, so `work` must bear
        that its first run was committed and only the answer got lost.

        Raises:
            StoreError: the store was out of reach for `patience_s` seconds, or failed for good.
        """
        return self.patiently(partial(_in_transaction, self._writing, work), patience_s)

    def copy_study(self, name: str, target: "Store") -> int:
        """Copy a study with all its trials and attributes; returns the number of trials.

        The target gets all of it in one transaction, or nothing: a study of that name is never
        there in part. What Optuna commits is a savepoint of that transaction, so after a failure or
        a kill the database has what it had before; nothing is tried again. A trial that is running
        is copied as it is; in the target it counts as abandoned once it has been silent for long,
        and its setting is measured again there.

        Raises:
            StudyError: this store has no study of that name, or the target has one.
            StoreError: a store failed.
        """
        self.optuna_study(name)
        storage, own = target.storage, target.storage.scoped_session

        def copy(connection: Connection) -> int:
            session = sessionmaker(connection, join_transaction_mode="create_savepoint")
            storage.scoped_session = scoped_session(session)
            try:
                optuna.copy_study(
                    from_study_name=name, from_storage=self.storage, to_storage=storage
                )
                return storage.get_n_trials(storage.get_study_id_from_name(name))
            except DuplicatedStudyError:
                raise StudyError(
                    f"store {target.masked_url}: it has a study {name} already, so nothing was "
                    "copied; give another store with --to"
                ) from None
            finally:
                storage.remove_session()
                storage.scoped_session = own

        return _in_transaction(target._writing, copy)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which only reads, in one transaction that blocks nobody."""
        return self.patiently(partial(_in_transaction, self._reading, work))

    def patiently(self, work: Callable[[], T], patience_s: float | None = None) -> T:
        """Run `work`, which calls Optuna, again after each error that passes by itself.

        Raises:
            StoreError: as for `transaction`.
            LastingStoreError: a row holds what neither spec-opt nor Optuna writes.
        """
        failed = False

        def clean_up() -> None:
            nonlocal failed
            failed = True
            self.storage.remove_session()

        patience_s = self._patience_s if patience_s is None else patience_s
        try:
            result = retrying(work, patience_s, clean_up)
        except UNREADABLE as error:
            log.debug("", exc_info=error)
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise LastingStoreError(
                f"store {self.masked_url}: a row in it cannot be read ({said[:200]}); restore the "
                "store from a copy, or give another --storage"
            ) from error
        if failed:
            self._recovered_at = time.monotonic()
        return result

    def seconds_since_recovery(self) -> float | None:
        """Since the store last answered again after a failure; None if it never failed."""
        return None if self._recovered_at is None else time.monotonic() - self._recovered_at

    def optuna_study(
        self, name: str, sampler: optuna.samplers.BaseSampler | None = None
    ) -> optuna.Study:
        """The study as an Optuna study.

        Raises:
            StudyError: there is no study of that name.
        """

        def load() -> optuna.Study:
            try:
                return optuna.load_study(study_name=name, storage=self.storage, sampler=sampler)
            except KeyError:
                raise StudyError(f"store {self.masked_url}: it holds no study {name!r}") from None

        return self.patiently(load)

    def close(self) -> None:
        """Drop all connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


class SamplingStudy(optuna.Study):
    """A study that reads its trials once for each trial that a sampler chooses parameters for.

    Optuna's constant liar reads them all again for every parameter. Ours are stored only when all
    are chosen, so it sees the same.
    """

    def forget_trials(self) -> None:
        """Read them again when a sampler asks next (as `Study.ask` does)."""
        self._thread_local.cached_all_trials = None

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        del use_cache
        return super()._get_trials(deepcopy, states, use_cache=True)


def open_store(url: str, *, create: bool = True, look: bool = False) -> Store:
    """Open the store at a URL; set it up first if it is new, unless `create` is False.

    With `look` it can only be read.

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
        if create:
            make_folder(where.masked, where.path.parent)
        elif where.path.exists():
            access = access_of(where.path)
            where = replace(where, access="look" if look and access == "write" else access)
        else:
            raise StudyError(
                f"store {where.place}: there is none yet; `spec-opt run` makes it; {ANOTHER_STORE}"
            )
    elif look:
        where = replace(where, access="look")
    # SQLite itself waits for whoever keeps readers out.
    opening_s = 0.0 if look and where.path is not None else OPENING_PATIENCE_S
    running_s = opening_s if look else RUNNING_PATIENCE_S
    try:
        return retrying(lambda: _open(where, create, running_s), opening_s)
    except StoreError as error:
        raise error from None
    except (OSError, *DATABASE_ERRORS) as error:
        raise where.failure(error) from None


def look_at_store(url: str) -> Store:
    """Open the store at a URL to read it: nothing is written, and no writer is waited for.

    Raises:
        StoreURLError, StudyError, StoreError: as `open_store` with `create=False`.
    """
    return open_store(url, create=False, look=True)


def existing_store(url: str) -> Store | None:
    """The store at a URL, to write to; None where there is none and one can be made.

    For the start of work that takes long before it needs the store.

    Raises:
        StoreURLError, StoreError: as `open_store`.
    """
    where = parse_url(url)
    if where.path is not None:
        check_file(where.masked, where.path, write=True)
    try:
        return open_store(url, create=False)
    except StudyError:
        return None


def _open(where: StoreURL, create: bool, patience_s: float) -> Store:
    engine = sqlalchemy.create_engine(where.url, **engine_arguments(where))
    listen(engine, where)
    try:
        with engine.connect() as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
            check_tables(where.masked, tables, own=where.path is not None)
            is_set_up = _is_set_up(connection)
            if where.kind == "postgresql" and where.access == "write":
                _check_rights(connection, is_set_up)
        if not (is_set_up or create):
            raise StudyError(
                f"store {where.masked}: it holds no study yet; `spec-opt run` makes one"
            )
        if not is_set_up:
            _set_up(where, engine)
        storage = _make_storage(where)
    finally:
        engine.dispose()
    try:
        _check_schema(where.masked, storage)
    finally:
        # Connections that Optuna made before it had our listeners must go.
        storage.remove_session()
        storage.engine.dispose()
    listen(storage.engine, where)
    return Store(where, storage, patience_s)


def _set_up(where: StoreURL, engine: Engine) -> None:
    """Make Optuna's tables, in one transaction: whoever comes second finds them made.

    Optuna makes them in several, which fail when two processes do so at once.
    """
    if where.kind == "sqlite":
        # Readers and the one writer do not wait for each other; stays with the file.
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    with engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"}).begin() as connection:
        lock_set_up(connection)
        if _is_set_up(connection):
            return
        models.BaseModel.metadata.create_all(connection)
        row = {"schema_version": models.SCHEMA_VERSION, "library_version": optuna.__version__}
        if connection.execute(sqlalchemy.select(versions.c.version_info_id)).first() is None:
            connection.execute(sqlalchemy.insert(versions).values(row))
        migrations = Path(models.__file__).parent / "alembic"
        MigrationContext.configure(connection).stamp(ScriptDirectory(migrations), "head")


def _is_set_up(connection: Connection) -> bool:
    # The last thing that Optuna writes when it sets up a store.
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return False
    query = sqlalchemy.text("SELECT count(*) FROM alembic_version")
    return bool(connection.execute(query).scalar())


def _check_rights(connection: Connection, is_set_up: bool) -> None:
    """Try what writing to the store takes; the caller's transaction is not committed."""
    if is_set_up:
        nothing = trials.c.trial_id < 0
        connection.execute(sqlalchemy.update(trials).where(nothing).values(number=0))
    else:
        connection.exec_driver_sql("CREATE TABLE spec_opt_rights (tried INTEGER)")
        connection.rollback()


def _make_storage(where: StoreURL) -> RDBStorage:
    return RDBStorage(
        # Optuna fills {SCHEMA_VERSION} into a URL with str.format.
        where.url.replace("{", "{{").replace("}", "}}"),
        engine_kwargs=engine_arguments(where),
        skip_compatibility_check=True,  # `_check_schema` says more
        skip_table_creation=True,
    )


def _check_schema(masked_url: str, storage: RDBStorage) -> None:
    known = storage.get_all_versions()
    if known[0] not in KNOWN_REVISIONS:
        raise LastingStoreError(
            f"store {masked_url}: Optuna {optuna.__version__} has revision {known[0]} of its "
            f"schema, and spec-opt only knows {', '.join(KNOWN_REVISIONS)}; install a newer "
            "spec-opt, or an older Optuna (4.5 to 5.0 have that revision)"
        )
    check_revision(masked_url, storage.get_current_version(), known, optuna.__version__)
