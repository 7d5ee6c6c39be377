"""optuna-dashboard on a store, with our recommendation, figures and settings inside.

`publish` puts them into the store as notes and custom graphs; `serve` runs the dashboard, for this
machine only, and publishes again whenever trials have ended.

What the dashboard shows of ours, in the attributes where optuna-dashboard looks for it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from spec_opt.config.study_file import RecommendConfig
from spec_opt.errors import InputError, SpecOptError, StudyError
from spec_opt.results.figures import figures
from spec_opt.results.recommend import Recommendation, recommend_all
from spec_opt.results.render import TITLES, common_sentences, flags
from spec_opt.results.statistics import quiet_optuna
from spec_opt.results.table import Point, StudyTable, read_table
from spec_opt.results.wording import outcome, percent, relative
from spec_opt.study.store import (
    BUSY_SECONDS,
    Store,
    open_store,
    parse_url,
    study_system_attributes,
    trials,
)
from spec_opt.study.trials import lock_study

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CHUNK = 2045
"""optuna-dashboard cuts what it stores into pieces of this many characters."""

SIGNATURE = "*Written by spec-opt.*"
"""Ends each of our notes: one without it is somebody's own."""

CARD_HEIGHT = 450
"""Pixels: the dashboard's cards cut what is higher."""

MOST_NOTES = 1000
"""With more trials than this only those of the front get a note: the dashboard loads them all."""


@dataclass(frozen=True)
class Content:
    """What is to be shown."""

    note: str
    trial_notes: Mapping[int, str]
    """By trial number."""
    graphs: Mapping[str, str]
    """Figures as plotly JSON."""


def contents(table: StudyTable, thresholds: RecommendConfig | None = None) -> Content:
    """Notes and graphs of a study; a study without results has a note that says so."""
    recommendations = recommend_all(table, thresholds)
    drawn = figures(table, recommendations)
    for figure in drawn.values():
        figure.update_layout(height=CARD_HEIGHT)
    noted = table.points if len(table.points) <= MOST_NOTES else table.front
    return Content(
        note=_study_note(table, recommendations),
        trial_notes={point.number: _trial_note(table, point) for point in noted},
        graphs={name: figure.to_json() for name, figure in drawn.items()},
    )


def write_contents(connection: Connection, study_id: int, content: Content) -> None:
    """Put notes and graphs into the store, in one transaction; others' notes stay."""
    lock_study(connection, study_id)
    stored = _stored(connection, study_id)
    changes: dict[str, object] = {}
    changes |= _note_changes(stored, "dashboard:", content.note)
    for number, trial_id in _trial_ids(connection, study_id).items():
        if number in content.trial_notes:
            note = content.trial_notes[number]
            changes |= _note_changes(stored, f"dashboard:{trial_id}:", note)
    for name, figure in content.graphs.items():
        changes |= _pieces(stored, f"dashboard:plot_data:{name}:", figure)
    table = study_system_attributes
    changed = {key: value for key, value in changes.items() if stored.get(key) != value}
    for keys in _batches(list(changed)):
        connection.execute(delete(table).where(table.c.study_id == study_id, table.c.key.in_(keys)))
    if changed:
        rows = [
            {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
            for key, value in changed.items()
        ]
        connection.execute(insert(table), rows)


def _stored(connection: Connection, study_id: int) -> dict[str, object]:
    table = study_system_attributes
    query = select(table.c.key, table.c.value_json).where(
        table.c.study_id == study_id, table.c.key.startswith("dashboard:")
    )
    return {key: json.loads(text) for key, text in connection.execute(query)}


def _trial_ids(connection: Connection, study_id: int) -> dict[int, int]:
    query = select(trials.c.number, trials.c.trial_id).where(trials.c.study_id == study_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def _note_changes(stored: Mapping[str, object], owner: str, note: str) -> dict[str, object]:
    """The attributes of a note, its version counted up; none where somebody wrote their own."""
    text_prefix, version_key = f"{owner}note_str:", f"{owner}note_ver"
    before = "".join(str(stored[key]) for key in _keys(stored, text_prefix))
    if before == note or (before and not before.rstrip().endswith(SIGNATURE)):
        return {}
    version = stored.get(version_key)
    number = version + 1 if isinstance(version, int) else 1
    return {version_key: number} | _pieces(stored, text_prefix, note)


def _keys(stored: Mapping[str, object], prefix: str) -> list[str]:
    """The keys of a text's pieces that are stored, in order."""
    return list(takewhile(stored.__contains__, (f"{prefix}{i}" for i in count())))


def _pieces(stored: Mapping[str, object], prefix: str, text: str) -> dict[str, object]:
    """A text in pieces; pieces of a longer text that stood there before become empty."""
    starts = range(0, len(text), CHUNK)
    pieces: dict[str, object] = {
        f"{prefix}{i}": text[start : start + CHUNK] for i, start in enumerate(starts)
    }
    emptied: dict[str, object] = dict.fromkeys(_keys(stored, prefix), "")
    return emptied | pieces


def _batches(keys: list[str], size: int = 500) -> list[list[str]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def _study_note(table: StudyTable, recommendations: tuple[Recommendation, ...]) -> str:
    common = common_sentences(recommendations)
    lines = ["## Which setting to use", ""]
    for r in recommendations:
        heading = "no trial meets this" if r.point is None else f"`{r.point.setting}`"
        lines += [f"### {TITLES[r.scenario]}: {heading}", "", r.why, ""]
        if r.point is not None:
            lines += [f"    {flags(r.point.setting)}", ""]
        own = r.own(common)
        lines += [f"- {sentence}" for sentence in own] + [""] if own else []
    if common:
        lines += ["### Know before you use it", "", *(f"- {s}" for s in common), ""]
    states = ", ".join(f"{number} {state}" for state, number in sorted(table.states.items()))
    lines += [f"Trials: {states or 'none yet'}; {len(table.front)} on the front.", "", SIGNATURE]
    return "\n".join(lines)


def _trial_note(table: StudyTable, point: Point) -> str:
    result = point.result
    facts = outcome(point)
    if table.target_mse is not None:
        facts += f", {relative(result.mse, table.target_mse)} the target alone"
    lines = [f"**{point.setting}**", "", facts, "", f"    {flags(point.setting)}", ""]
    if result.acceptance_se is not None and result.mse_se is not None:
        lines += [
            f"Standard errors: acceptance {percent(result.acceptance_se)}, MSE {result.mse_se:.4f}",
            "",
        ]
    return "\n".join([*lines, SIGNATURE])


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
