"""The store: a URL becomes an Optuna storage that many processes may share.

The only file that touches Optuna's private parts. `tuning/ledger.py` works on the tables that it
names, in transactions of `Store.transaction`.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, Self, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study.study import _SYSTEM_ATTR_METRIC_NAMES
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Engine, Table, func, literal
from sqlalchemy.exc import SQLAlchemyError

from spec_opt.errors import StoreError, StoreURLError, StudyError
from spec_opt.tuning.engine import (
    NAMES_LOCK_KEY,
    READING,
    engine_arguments,
    listen,
    make_engine,
    reason_of,
    set_up_lock,
    use_write_ahead_log,
)
from spec_opt.tuning.retry import WHEN_OPENING, WHEN_RUNNING, Patience, retrying
from spec_opt.tuning.store_url import StoreURL, parse_url

T = TypeVar("T")

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
            raise self._failure(error) from None
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
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(f"store {self.masked_url}: {reason_of(error, self._url)}")

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
            raise StoreError(f"store {self.where.masked}: {reason_of(error, self.where)}") from None


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
        StudyError: there is no store and `create` is False; nothing is written then.
        StoreError: the store cannot be reached.
    """
    where = parse_url(url)
    if where.path is not None:
        _check_file(where, where.path, create)
    try:
        return retrying(lambda: _open(where, create), WHEN_OPENING)
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError) as error:
        if "file is not a database" in str(error):
            raise StoreURLError(f"{where.path}: exists but is not an SQLite database") from None
        raise StoreError(f"store {where.masked}: {reason_of(error, where)}") from None
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        raise StoreError(
            f"store {where.masked}: made by another version of Optuna; bring it up to date with "
            "`optuna storage upgrade --storage URL`, or name another store"
        ) from None


def _check_file(where: StoreURL, path: Path, create: bool) -> None:
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreURLError(
                f"storage URL {where.masked}: folder {path.parent} cannot be made: {error.strerror}"
            ) from None
    elif not path.exists():
        raise StudyError(
            f"store {where.masked}: there is none yet; `spec-opt run` makes it, or give --storage"
        )


def _open(where: StoreURL, create: bool) -> Store:
    engine = make_engine(where)
    try:
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
    # Connections that Optuna made before it had our listeners must go.
    storage.engine.dispose()
    listen(storage.engine, where)
    return Store(where, storage)


def _make_storage(where: StoreURL, *, make_tables: bool) -> RDBStorage:
    storage = _PatientStorage(
        # Optuna fills {SCHEMA_VERSION} into a URL with str.format.
        where.url.replace("{", "{{").replace("}", "}}"),
        engine_kwargs=engine_arguments(where),
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
