"""optuna-dashboard on a store, with our recommendation, figures and settings inside.

`publish` puts them into the store as notes and custom graphs; `serve` runs the dashboard, for this
machine only, and publishes again whenever trials have ended.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from spec_opt.config.study_file import RecommendConfig
from spec_opt.errors import InputError, SpecOptError, StudyError
from spec_opt.results.artifacts import artifact_store
from spec_opt.results.document import Block, Text, as_markdown
from spec_opt.results.figures import PLOTS, figures
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import advice, banner, flags, heading_of
from spec_opt.results.statistics import quiet_optuna
from spec_opt.results.table import Point, StudyTable, table_and_rows
from spec_opt.results.verdict import verdict_of
from spec_opt.results.wording import levels_text, outcome, percent, relative
from spec_opt.study.store import Store, open_store, study_system_attributes, trials
from spec_opt.study.trials import attributes_of, lock_study, put_attributes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

CHUNK = 2045
"""optuna-dashboard cuts what it stores into pieces of this many characters."""
SIGNATURE = "*Written by spec-opt.*"
"""Ends each of our notes; a note without it was written by a person."""
CARD_HEIGHT = 450
"""Pixels; the dashboard's cards cut off higher figures."""
MOST_NOTES = 1000
"""With more trials than this only those of the front get a note: the dashboard loads them all."""
REFRESH_SECONDS = 5.0
"""Seconds between two looks for trials that have ended."""
LOCAL_NAMES = ("127.0.0.1", "localhost")
NO_FRAMES = (
    ("Content-Security-Policy", "frame-ancestors 'self'"),
    ("X-Frame-Options", "SAMEORIGIN"),  # for older browsers
)
"""Headers of every answer: only a page of the dashboard itself may frame another."""
OUTAGES = (SpecOptError, SQLAlchemyError, StorageInternalError)
"""Errors of a store that does not answer, which is asked again."""


@dataclass(frozen=True)
class Content:
    """What the dashboard shows of a study."""

    note: str
    trial_notes: Mapping[int, str]
    """By trial number."""
    graphs: Mapping[str, str]
    """Figures as plotly JSON."""


def contents(table: StudyTable) -> Content:
    """Notes and graphs of a study; the note of a study without results says so."""
    recommendations = recommend_all(table)
    drawn = figures(table, recommendations)
    for figure in drawn.values():
        figure.update_layout(height=CARD_HEIGHT)
    noted = table.points if len(table.points) <= MOST_NOTES else table.front
    states = ", ".join(f"{number} {state}" for state, number in sorted(table.states.items()))
    verdict = verdict_of(table)
    note = (
        banner(verdict, table),
        Text(heading_of(verdict), "heading"),
        *advice(recommendations, table, verdict),
        Text(f"Trials: {states or 'none yet'}; {len(table.front)} on the front."),
        Text(levels_text(table)),
        Text(SIGNATURE),
    )
    return Content(
        note=as_markdown(note),
        trial_notes={point.number: _trial_note(table, point) for point in noted},
        graphs={name: figure.to_json() for name, figure in drawn.items()},
    )


def _trial_note(table: StudyTable, point: Point) -> str:
    result = point.result
    facts = outcome(point)
    if table.target_mse is not None:
        facts += f", {relative(result.mse, table.target_mse)} the target alone"
    blocks: list[Block] = [Text(f"**{point.setting}**"), Text(facts)]
    blocks.append(Text(flags(point.setting), "code"))
    acceptance, mse = result.acceptance_ci95, result.mse_ci95
    if acceptance is not None and mse is not None:
        blocks.append(Text(f"95 % intervals: acceptance ±{percent(acceptance)}, MSE ±{mse:.4f}"))
    return as_markdown([*blocks, Text(SIGNATURE)])


def write_contents(connection: Connection, study_id: int, content: Content) -> None:
    """Put notes and graphs into the store, in one transaction; notes of people stay."""
    lock_study(connection, study_id)
    stored = attributes_of(connection, study_system_attributes, study_id)
    query = select(trials.c.number, trials.c.trial_id).where(trials.c.study_id == study_id)
    ids = {row.number: row.trial_id for row in connection.execute(query)}
    changes = _note_changes(stored, "dashboard:", content.note)
    for number, note in content.trial_notes.items():
        changes |= _note_changes(stored, f"dashboard:{ids[number]}:", note)
    for name, figure in content.graphs.items():
        changes |= _pieces(stored, f"dashboard:plot_data:{name}:", figure)
    changed = {key: value for key, value in changes.items() if stored.get(key) != value}
    put_attributes(connection, study_system_attributes, {study_id: changed})


def _note_changes(stored: Mapping[str, object], owner: str, note: str) -> dict[str, object]:
    """The attributes of a note with its version counted up; none where a person wrote the note."""
    text_prefix, version_key = f"{owner}note_str:", f"{owner}note_ver"
    before = "".join(str(stored[key]) for key in _keys(stored, text_prefix))
    if before == note or (before and not before.rstrip().endswith(SIGNATURE)):
        return {}
    version = stored.get(version_key)
    number = version + 1 if isinstance(version, int) else 1
    return {version_key: number} | _pieces(stored, text_prefix, note)


def _keys(stored: Mapping[str, object], prefix: str) -> list[str]:
    """The keys of a text's stored pieces, in order."""
    return list(takewhile(stored.__contains__, (f"{prefix}{i}" for i in count())))


def _pieces(stored: Mapping[str, object], prefix: str, text: str) -> dict[str, object]:
    """A text in pieces; pieces left of a longer text become empty."""
    pieces = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    emptied: dict[str, object] = dict.fromkeys(_keys(stored, prefix), "")
    return emptied | {f"{prefix}{i}": piece for i, piece in enumerate(pieces)}


def publish(
    store: Store, study: optuna.Study, thresholds: RecommendConfig | None = None
) -> Content:
    """Put the recommendation, the figures and the settings into the store for the dashboard.

    A note that a person wrote or changed stays as it is. Returns what was made.

    Raises:
        StudyError: it is not a study of spec-opt.
        StoreError: the store cannot be reached.
    """
    table, _ = table_and_rows(store, study, detail="columns")
    if thresholds is not None:
        table = table.model_copy(update={"limits": thresholds})
    made = contents(table)
    store.transaction(lambda connection: write_contents(connection, study._study_id, made))
    return made


def serve(
    url: str,
    names: Sequence[str] = (),
    *,
    thresholds: RecommendConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    artifacts: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run the dashboard until interrupted.

    The dashboard has no log-in, so it is bound to this machine and answers only requests from its
    own pages, or from no page.

    Args:
        url: URL of the store.
        names: Studies to publish; all studies of spec-opt in the store if empty.
        thresholds: `[recommend]`; by default that of each study.
        host: One of `LOCAL_NAMES`.
        port: 0 takes any free one.
        artifacts: folder of Optuna's artifacts, to be shown too.
        on_ready: Called with an address once the dashboard answers: that of the study's note if one
            study is named, else of the list of studies.

    Raises:
        InputError: the host is not this machine, or the port is taken.
        StudyError: there is no store, or no study of a name.
        StoreError: the store cannot be reached.
    """
    if host not in LOCAL_NAMES:
        raise InputError(
            f"--host {host}: the dashboard has no log-in and can delete studies, so it is served "
            "to this machine only (127.0.0.1); from elsewhere, forward the port with "
            "`ssh -L 8080:127.0.0.1:8080 HOST`"
        )
    store = open_store(url, create=False)
    ids = [store.optuna_study(name)._study_id for name in names]
    page = f"dashboard/studies/{ids[0]}/note" if len(ids) == 1 else ""
    from optuna_dashboard import wsgi  # takes two seconds to import

    with quiet_optuna():
        kept = None if artifacts is None else artifact_store(artifacts)
        application = in_order(wsgi(store.storage, kept))
    with _server(host, port, guarded(application)) as server:
        stop = threading.Event()
        arguments = (store, names, thresholds, stop)
        refresher = threading.Thread(
            target=_keep_fresh, args=arguments, name="publish", daemon=True
        )
        refresher.start()
        if on_ready is not None:
            on_ready(f"http://{host}:{server.server_port}/{page}")
        try:
            server.serve_forever(poll_interval=0.2)
        finally:
            stop.set()
            refresher.join(timeout=REFRESH_SECONDS)


def guarded(application: WSGIApplication) -> WSGIApplication:
    """The application, closed to other sites that the browser may have open.

    A forged Host (DNS rebinding) is refused, and so is any request that another site's page sends.
    No other page may show it in a frame, where a click meant for that page could delete a study.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *NO_FRAMES], *rest)

        host = environ.get("HTTP_HOST", "")
        origin = environ.get("HTTP_ORIGIN", f"http://{host}")
        if host.rsplit(":", 1)[0] not in LOCAL_NAMES or origin != f"http://{host}":
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"This dashboard answers only pages of its own, on this machine.\n"]
        return application(environ, start)

    return answer


def in_order(application: WSGIApplication) -> WSGIApplication:
    """optuna-dashboard with our graphs in the order of `PLOTS`: it shows them in that of a set."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if re.fullmatch(r"/api/studies/\d+", environ.get("PATH_INFO", "")) is None:
            return application(environ, start_response)
        held: list[Any] = []

        def hold(*head: Any) -> Callable[[bytes], object]:
            held[:] = head
            return lambda _: None

        body = b"".join(application(environ, hold))
        status, headers, *rest = held
        if status.startswith("200") and environ["REQUEST_METHOD"] == "GET":
            document = json.loads(body)
            place = {name: index for index, name in enumerate(PLOTS)}
            graphs = document.get("plotly_graph_objects", [])
            graphs.sort(key=lambda graph: place.get(graph["id"], len(PLOTS)))
            body = json.dumps(document).encode()
        others = [pair for pair in headers if pair[0].lower() != "content-length"]
        start_response(status, [*others, ("Content-Length", str(len(body)))], *rest)
        return [body]

    return answer


def _keep_fresh(
    store: Store,
    names: Sequence[str],
    thresholds: RecommendConfig | None,
    stop: threading.Event,
) -> None:
    """Publish each study at first, and again when trials have ended or a speedup was measured."""
    if store.read_only:
        log.warning("store %s can only be read: it is shown as it is", store.masked_url)
        return
    published: dict[str, object] = {}
    while True:
        for name in names or _names(store):
            try:
                study = store.optuna_study(name)
                news = (_ended(store, study._study_id), study.user_attrs.get("speedups"))
                if published.get(name) != news:
                    published[name] = news
                    publish(store, study, thresholds)
            except StudyError as error:
                log.debug("study %s not published: %s", name, error)
            except OUTAGES as error:
                log.warning("study %s not published, trying again: %s", name, error)
                published.pop(name, None)
        if stop.wait(REFRESH_SECONDS):
            return


def _names(store: Store) -> list[str]:
    """The studies in the store; none while it does not answer."""
    try:
        return optuna.get_all_study_names(store.storage)
    except OUTAGES as error:
        log.warning("no study published, trying again: %s", error)
        return []


def _ended(store: Store, study_id: int) -> Mapping[TrialState, int]:
    """The number of ended trials in each state."""
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
