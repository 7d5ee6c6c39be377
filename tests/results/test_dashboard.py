"""What the dashboard shows, whose requests it answers, and its page in a browser."""

import http.client
import json
import sqlite3
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import plotly.graph_objects as go
import pytest
from optuna.exceptions import StorageInternalError
from optuna_dashboard import save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note, get_note_from_system_attrs, save_note

from spec_opt.config.study_file import Setting
from spec_opt.errors import InputError, StudyError
from spec_opt.results import dashboard
from spec_opt.results.dashboard import SIGNATURE, contents, guarded, publish, serve, write_contents
from spec_opt.results.figures import PLOTS
from spec_opt.results.table import read_table
from spec_opt.study.store import Store, open_store
from tests.results import studies

if TYPE_CHECKING:
    from playwright.sync_api import Browser


SOME = (
    (0.1, 1.0, 4, 0.0, 0.4508),
    (0.25, 1.0, 4, 0.916, 0.4852),
    (0.25, 1.0, 5, 0.921, 0.4869),
    (0.5, 1.0, 4, 1.0, 0.4756),
    (0.5, 2.0, 4, 1.0, 0.4756),
)


def some_study(store: Store) -> optuna.Study:
    return studies.study_of(*SOME, storage=store.storage)


def attributes(study: optuna.Study) -> dict[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)


def trial_note(study: optuna.Study, number: int) -> str:
    note = get_note_from_system_attrs(attributes(study), study.trials[number]._trial_id)
    return str(note["body"])


def test_note_graphs_and_trial_notes_are_where_the_dashboard_looks(store: Store) -> None:
    study = some_study(store)
    made = publish(store, study)
    assert get_note(study) == made.note
    # The verdict is what one sees first.
    assert made.note.startswith("### Not settled\n\nWhether speculation pays is not known")
    assert "### Maximize speed, balanced: `sigma=0.5 bias=1 k=4`" in made.note
    assert "--spec_sigma 0.5 --spec_accept_bias 1 --spec_k 4" in made.note
    graphs = get_plotly_graph_objects(attributes(study))
    assert set(graphs) == set(PLOTS)
    assert graphs == dict(made.graphs)
    assert "**sigma=0.5 bias=1 k=4**" in trial_note(study, 3)
    assert "100% accepted, MSE 0.4756, 8.0% above the target alone" in trial_note(study, 3)


def test_publishing_again_follows_the_study(store: Store) -> None:
    study = studies.empty_study(storage=store.storage)
    publish(store, study)
    assert "no completed trial yet" in get_note(study)
    longer = len(get_plotly_graph_objects(attributes(study))["k_effect"])
    for number, trial in enumerate(studies.random_trials(9, 0)):
        trial.number = number
        study.add_trial(trial)
    publish(store, study)
    assert "9 complete" in get_note(study)
    assert len(get_plotly_graph_objects(attributes(study))["k_effect"]) > longer
    before = attributes(study)
    publish(store, study)
    assert attributes(study) == before


def test_a_graph_that_became_shorter_leaves_nothing_behind(store: Store) -> None:
    study = some_study(store)
    publish(store, study)
    long = attributes(study)["dashboard:plot_data:k_effect:1"]
    assert long
    small = contents(read_table(studies.empty_study("b")))
    store.transaction(lambda c: write_contents(c, study._study_id, small))
    assert get_plotly_graph_objects(attributes(study)) == dict(small.graphs)
    assert get_note(study) == small.note


def test_notes_of_a_person_stay(store: Store) -> None:
    study = some_study(store)
    publish(store, study)
    save_note(study, "Ours now.")
    publish(store, study)
    assert get_note(study) == "Ours now."
    # Emptied, the note is ours again, with a version of its own.
    save_note(study, "")
    publish(store, study)
    assert get_note(study).endswith(SIGNATURE)
    assert attributes(study)["dashboard:note_ver"] == 4


def test_a_foreign_study_is_not_touched(store: Store) -> None:
    study = optuna.create_study(storage=store.storage, study_name="foreign")
    with pytest.raises(StudyError):
        publish(store, study)
    assert attributes(study) == {}


def test_10_000_trials_have_notes_on_the_front_only() -> None:
    table = read_table(studies.large_study())
    made = contents(table)
    assert set(made.trial_notes) == {point.number for point in table.front}
    assert sum(map(len, made.graphs.values())) < 4_000_000


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::1", "127.0.0.2"])
def test_only_this_machine(host: str) -> None:
    with pytest.raises(InputError, match="ssh -L"):
        serve("sqlite:///unused.db", host=host)


def test_a_missing_store_or_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError):
        serve(f"sqlite:///{tmp_path}/none.db", port=0)
    open_store(f"sqlite:///{tmp_path}/store.db").close()
    with pytest.raises(StudyError):
        serve(f"sqlite:///{tmp_path}/store.db", ["absent"], port=0)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"HTTP_HOST": "127.0.0.1:8080"}, True),
        ({"HTTP_HOST": "localhost:8080"}, True),
        ({"HTTP_HOST": "localhost:8080", "HTTP_ORIGIN": "http://localhost:8080"}, True),
        ({"HTTP_HOST": "evil.example"}, False),
        ({"HTTP_HOST": "evil.example:8080", "HTTP_ORIGIN": "http://evil.example:8080"}, False),
        ({"HTTP_HOST": "127.0.0.1:8080", "HTTP_ORIGIN": "http://evil.example"}, False),
        ({"HTTP_HOST": "127.0.0.1:8080", "HTTP_ORIGIN": "null"}, False),
        ({}, False),
    ],
)
def test_other_sites_are_refused(headers: dict[str, str], allowed: bool) -> None:
    heads: list[tuple[str, dict[str, str]]] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"inside"]

    def start_response(status: str, headers: Any, _: Any = None) -> Any:
        heads.append((status, dict(headers)))

    answer = guarded(application)(headers, start_response)
    assert (list(answer) == [b"inside"]) is allowed
    ((status, sent),) = heads
    assert status == ("200 OK" if allowed else "403 Forbidden")
    assert sent["Content-Type"]
    # Nor may another page show it in a frame.
    assert sent["Content-Security-Policy"] == "frame-ancestors 'self'"
    assert sent["X-Frame-Options"] == "SAMEORIGIN"


@contextmanager
def served(url: str, monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[str]:
    """The dashboard in a thread, stopped in the end; the address that it gives."""
    servers: list[Any] = []
    make = wsgiref.simple_server.make_server

    def remember(*arguments: Any) -> Any:
        servers.append(make(*arguments))
        return servers[-1]

    monkeypatch.setattr(dashboard, "make_server", remember)
    monkeypatch.setattr(dashboard, "REFRESH_SECONDS", 0.2)
    ready: list[str] = []
    thread = threading.Thread(
        target=serve, args=(url, names), kwargs={"port": 0, "on_ready": ready.append}
    )
    thread.start()
    wait_until(lambda: bool(ready))
    yield ready[0]
    servers[0].shutdown()
    thread.join(timeout=10)
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def get(address: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://").split("/")[0])
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    status, body = response.status, response.read()
    connection.close()
    return status, body


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An SQLite store with a study of spec-opt and a foreign one."""
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_store(url)
    some_study(store)
    optuna.create_study(storage=store.storage, study_name="foreign")
    store.close()
    return url


def test_it_answers_and_is_fresh_when_trials_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(url)
    study = store.optuna_study("given")
    with served(url, monkeypatch) as address:
        status, body = get(address, "/api/studies")
        assert status == 200
        assert b"given" in body
        assert get(address, "/api/studies", {"Host": "evil.example"})[0] == 403
        wait_until(lambda: "5 complete" in get_note(study))
        study.add_trial(studies.complete(Setting(sigma=0.3, bias=1.0, k=4), 0.999, 0.44))
        wait_until(lambda: "6 complete" in get_note(study))
        assert "sigma=0.3 bias=1 k=4" in get_note(study)
    store.close()


def test_a_named_study_opens_with_its_note_and_its_front_is_the_first_graph(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        study = store.optuna_study("given")
        save_plotly_graph_object(study, go.Figure(), graph_object_id="of_a_person")
        number = study._study_id
        with served(url, monkeypatch, "given") as address:
            assert address.endswith(f"/dashboard/studies/{number}/note")
            assert get(address, f"/dashboard/studies/{number}/note")[0] == 200
            wait_until(lambda: "5 complete" in get_note(study))
            status, body = get(address, f"/api/studies/{number}")
            assert get(address, "/api/studies/999")[0] == 404
    assert status == 200
    graphs = json.loads(body)["plotly_graph_objects"]
    assert [graph["id"] for graph in graphs] == [*PLOTS, "of_a_person"]


def test_it_reads_while_a_worker_holds_the_write_lock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(url, monkeypatch) as address:
        with open_store(url) as store:
            study = store.optuna_study("given")
            wait_until(lambda: "5 complete" in get_note(study))
        writer = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        status, body = get(address, f"/api/studies/{study._study_id}")
        writer.execute("ROLLBACK")
        writer.close()
    assert status == 200
    assert b'"trial_id"' in body


def test_an_outage_while_studies_are_listed_passes(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [StorageInternalError("away"), ["given"]]

    def names(_: object) -> object:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(optuna, "get_all_study_names", names)
    store = open_store(url)
    with served(url, monkeypatch):
        wait_until(lambda: "5 complete" in get_note(store.optuna_study("given")))
    store.close()


def test_a_note_is_looked_up_by_its_own_pieces_alone(store: Store) -> None:
    class Counting(dict[str, object]):
        lookups = 0

        def __contains__(self, key: object) -> bool:
            self.lookups += 1
            return super().__contains__(key)

    stored = Counting({f"dashboard:{i}:note_str:0": f"note {SIGNATURE}" for i in range(1000)})
    for i in range(1000):
        dashboard._note_changes(stored, f"dashboard:{i}:", "another note")
    assert stored.lookups < 10_000


def test_a_port_that_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(url, monkeypatch) as address:
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 cannot be used"):
            serve(url, port=port)


@pytest.mark.browser
def test_the_study_page_in_a_browser(
    url: str, monkeypatch: pytest.MonkeyPatch, browser: "Browser"
) -> None:
    store = open_store(url)
    study = store.optuna_study("given")
    publish(store, study)
    with served(url, monkeypatch) as address:
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((address, "data:")) else complaints.append(r.url),
        )
        page.goto(f"{address}dashboard/studies/{study._study_id}")
        page.wait_for_selector("text=5 trials, 3 of them on the front", timeout=20_000)
        assert page.locator("text=Acceptance by position in the round").count() == 1
        page.goto(f"{address}dashboard/studies/{study._study_id}/note")
        page.wait_for_selector("text=Which setting to use", timeout=20_000)
        page.goto(f"{address}dashboard/studies/{study._study_id}/trials?numbers=3")
        page.wait_for_selector("text=sigma=0.5 bias=1 k=4", timeout=20_000)
        overflow = "document.documentElement.scrollWidth - window.innerWidth"
        assert page.evaluate(overflow) <= 0
        assert complaints == []
        page.close()
    store.close()
