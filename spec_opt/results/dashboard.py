"""optuna-dashboard on a store, with our recommendation, figures and settings inside.

`publish` puts them into the store as notes and custom graphs; `serve` runs the dashboard, for this
machine only, and publishes again whenever trials have ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from spec_opt.config import RecommendConfig
from spec_opt.errors import InputError, SpecOptError, StudyError
from spec_opt.results.dashboard_pages import Content, contents, write_contents
from spec_opt.results.quiet import quiet_optuna
from spec_opt.results.table import read_table
from spec_opt.tuning.engine import BUSY_SECONDS
from spec_opt.tuning.store import Store, open_store, trials
from spec_opt.tuning.store_url import parse_url

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
"""How often the store is asked whether trials have ended."""

LOCAL_NAMES = ("127.0.0.1", "localhost")

OUTAGES = (SpecOptError, SQLAlchemyError, StorageInternalError)
"""What a store raises that does not answer: it is asked again."""


def publish(
    store: Store, study: optuna.Study, thresholds: RecommendConfig | None = None
) -> Content:
    """Put the recommendation, the figures and the settings into the store for the dashboard.

    A note that a person wrote or changed stays as it is. Returns what was made.

    Raises:
        StudyError: it is not a study of spec-opt.
        StoreError: the store cannot be reached.
    """
    made = contents(read_table(study), thresholds)
    store.transaction(lambda connection: write_contents(connection, study._study_id, made))
    return made


def serve(
    url: str,
    names: Sequence[str] = (),
    *,
    thresholds: RecommendConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the dashboard until interrupted.

    The dashboard has no log-in, so that it is bound to this machine alone, and answers only
    requests that a page of its own, or no page, has made.

    Args:
        url: URL of the store.
        names: Studies to publish; all studies of spec-opt in the store if empty.
        thresholds: `[recommend]`, as for `recommend`.
        host: One of `LOCAL_NAMES`.
        port: 0 takes any free one.
        on_ready: Called with the dashboard's address once it answers.

    Raises:
        InputError: the host is not this machine's own, or the port is taken.
        StudyError: there is no store, or no study of a name.
        StoreError: the store cannot be reached.
    """
    _check_loopback(host)
    store = open_store(url, create=False)
    storage = _reading_storage(store, url)
    for name in names:
        store.optuna_study(name)
    with _server(host, port, guarded(_dashboard(storage))) as server:
        stop = threading.Event()
        refresher = threading.Thread(
            target=_keep_fresh,
            args=(store, storage, names, thresholds, stop),
            name="publish",
            daemon=True,
        )
        refresher.start()
        if on_ready is not None:
            on_ready(f"http://{host}:{server.server_port}/")
        try:
            server.serve_forever(poll_interval=0.2)
        finally:
            stop.set()
            refresher.join(timeout=REFRESH_SECONDS)


def guarded(application: WSGIApplication) -> WSGIApplication:
    """The application, closed to other sites that the browser may have open.

    A forged Host (DNS rebinding) is refused, and so is any request that a foreign page sends.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        host = environ.get("HTTP_HOST", "")
        origin = environ.get("HTTP_ORIGIN", f"http://{host}")
        if host.rsplit(":", 1)[0] not in LOCAL_NAMES or origin != f"http://{host}":
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"This dashboard answers to pages of its own on this machine only.\n"]
        return application(environ, start_response)

    return answer


def _check_loopback(host: str) -> None:
    if host not in LOCAL_NAMES:
        raise InputError(
            f"--host {host}: the dashboard has no log-in and can delete studies, so it is served "
            "to this machine only (127.0.0.1); from elsewhere, forward the port with "
            "`ssh -L 8080:127.0.0.1:8080 HOST`"
        )


def _dashboard(storage: BaseStorage) -> WSGIApplication:
    # Takes two seconds to import.
    from optuna_dashboard import wsgi

    with quiet_optuna():
        application: WSGIApplication = wsgi(storage)
    return application


def _reading_storage(store: Store, url: str) -> BaseStorage:
    """A storage for the dashboard, whose reading does not hold up the workers.

    Our own storage takes SQLite's write lock for every transaction; the dashboard mostly reads.
    """
    where = parse_url(url)
    if where.kind != "sqlite":
        return store.storage
    return RDBStorage(
        where.url.replace("{", "{{").replace("}", "}}"),
        engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
        skip_table_creation=True,
    )


def _keep_fresh(
    store: Store,
    storage: BaseStorage,
    names: Sequence[str],
    thresholds: RecommendConfig | None,
    stop: threading.Event,
) -> None:
    """Publish each study at first, and again when trials have ended or a speedup was measured."""
    published: dict[str, object] = {}
    while True:
        for name in names or _names(storage):
            try:
                study = optuna.load_study(study_name=name, storage=storage)
                news = (_ended(store, study._study_id), study.user_attrs.get("speedups"))
                if published.get(name) != news:
                    published[name] = news
                    publish(store, study, thresholds)
            except (StudyError, KeyError) as error:
                log.debug("study %s not published: %s", name, error)
            except OUTAGES as error:
                log.warning("study %s not published, trying again: %s", name, error)
                published.pop(name, None)
        if stop.wait(REFRESH_SECONDS):
            return


def _names(storage: BaseStorage) -> list[str]:
    """The studies in the store; none while it does not answer."""
    try:
        return optuna.get_all_study_names(storage)
    except OUTAGES as error:
        log.warning("no study published, trying again: %s", error)
        return []


def _ended(store: Store, study_id: int) -> Mapping[TrialState, int]:
    query = (
        select(trials.c.state, func.count())
        .where(trials.c.study_id == study_id, trials.c.datetime_complete.is_not(None))
        .group_by(trials.c.state)
    )
    return store.read(lambda connection: {row[0]: row[1] for row in connection.execute(query)})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


@contextmanager
def _server(host: str, port: int, application: WSGIApplication) -> Iterator[WSGIServer]:
    try:
        server = make_server(host, port, application, _Server, _Handler)
    except OSError as error:
        raise InputError(
            f"port {port} on {host} cannot be used: {error.strerror}; name another with --port"
        ) from error
    with server:
        yield server
