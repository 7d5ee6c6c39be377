"""A password in the storage URL is seen nowhere: on no stream, in no file, by no other user."""

import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy

from spec_opt.cli import main
from spec_opt.study.store import open_store
from tests.bad_input.stores import FILES
from tests.forked import Forked
from tests.study.conftest import new_database, postgres_server  # noqa: F401
from tests.study.stand_in import stand_in_study

PARTS = ("quokka", "gecko", "lynx", "okapi", "tapir", "bongo")
PASSWORD = "{}@{}:{}/{}%{}#{}".format(*PARTS)
pytestmark = pytest.mark.postgres


def with_password(url: str, password: str) -> str:
    """The URL with a password as it is spelled; the server asks for none."""
    made = sqlalchemy.make_url(url)
    host = made.query.get("host") or made.host
    port = f"&port={made.port}" if made.port else ""
    return f"postgresql://{made.username}:{password}@/{made.database}?host={host}{port}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(str(content))
    return tmp_path


class CommandLines:
    """What every user sees of the processes, all the while."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "CommandLines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._leave.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((process / "cmdline").read_text(errors="replace"))
                except OSError:
                    continue


def leaks(text: str) -> list[str]:
    """Which parts of the password a text holds, in whatever spelling."""
    return [part for part in PARTS if part in text]


def files(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes().decode("utf-8", "replace")


COMMANDS = (
    ("run", "study.toml", "--workers", "2"),
    ("status", "study.toml", "--json"),
    ("export", "study.toml", "--all", "--format", "json", "-o", "all.json"),
    ("export", "study.toml", "--format", "csv", "-o", "front.csv"),
    ("report", "study.toml", "-o", "again"),
    ("recommend", "study.toml"),
    ("confirm", "study.toml", "--trial", "77"),
    ("status", "other.toml"),
)


def test_a_password_is_seen_nowhere(
    folder: Path,
    new_database: Callable[[], str],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database, said = new_database(), tmp_path_factory.mktemp("said")
    url = with_password(database, quote(PASSWORD, safe=""))
    monkeypatch.setenv("SPEC_OPT_STORAGE", url)
    (folder / "other.toml").write_text(str(FILES["study.toml"]).replace('"case"', '"other"'))
    with CommandLines() as lines:
        for number, command in enumerate(COMMANDS):
            process = Forked(said / f"{number}", main, ["-v", *command])
            code, shown = process.wait(120.0), process.stdout + process.stderr
            assert code == (2 if "77" in command or "other.toml" in command else 0), shown
            assert leaks(shown) == [], command
        look_at_the_dashboard(said / "dashboard")
    assert any("worker" in line for line in lines.seen)
    assert [line for line in lines.seen if leaks(line)] == []
    logs = [path for path, _ in files(folder) if path.suffix == ".log"]
    assert len(logs) == 2
    assert [path for path, text in files(folder) if leaks(text)] == []
    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        for table in ("study_user_attributes", "study_system_attributes", "trial_user_attributes"):
            rows = connection.exec_driver_sql(f"SELECT * FROM {table}").all()
            assert leaks(str(rows)) == []
    engine.dispose()


def look_at_the_dashboard(said: Path) -> None:
    """At its pages, and at what its process says."""
    process = Forked(said, main, ["-v", "dashboard", "study.toml", "--port", "0"])
    while "; Ctrl-C" not in process.stderr:
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    address = process.stderr.split("dashboard on ")[1].split(";")[0]
    study = address.split("/studies/")[1].split("/")[0]
    for page in (address, "/api/studies", f"/api/studies/{study}?after=0", "/api/meta"):
        with urllib.request.urlopen(urllib.parse.urljoin(address, page), timeout=60) as answer:
            assert leaks(answer.read().decode()) == [], page
    process.send_signal(signal.SIGINT)
    assert process.wait(60.0) == 0, process.stderr
    assert leaks(process.stderr) == []


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid", "127.0.0.1:port"])
@pytest.mark.parametrize("spell", [quote_plus, str])
def test_a_password_is_not_in_an_error(
    folder: Path,
    host: str,
    spell: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also where it is not percent-encoded, as it must be."""
    monkeypatch.setenv("SPEC_OPT_STORAGE", f"postgresql://me:{spell(PASSWORD)}@{host}/db")
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 0.1)
    assert main(["-v", "status", "study.toml"]) in (1, 2)
    shown = "".join(capfd.readouterr())
    assert leaks(shown) == []
    assert "Traceback" not in shown
    assert not (folder / "logs").exists()


@pytest.mark.parametrize(
    "command",
    [
        "status {url}",
        "worker {url}",
        "export study.toml -o {url}",
        "report study.toml -o {url}",
        "run study.toml --workers {url}",
        "run study.toml --storage {url}",
        "import study.toml {url}",
        "status study.toml --storage {url}?password=okapi5tapir",
        "status study.toml --storage {url}?options=PASSWORD%3Dokapi5tapir",
    ],
)
def test_a_url_in_whatever_place(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 0.1)
    monkeypatch.setattr("spec_opt.study.store.STARTING_PATIENCE_S", 0.1, raising=False)
    before = sorted(folder.rglob("*"))
    with open_store("sqlite:///storage/spec_opt.db") as store:
        stand_in_study(store, "case")
    url = "postgresql://me:okapi5tapir@127.0.0.1:1/db"
    assert main(command.replace("{url}", url).split()) in (1, 2)
    out, err = capsys.readouterr()
    assert leaks(out + err) == []
    assert "***" in err
    assert {path.parts[len(folder.parts)] for path in folder.rglob("*")} <= {
        "storage",
        *(path.parts[len(folder.parts)] for path in before),
    }


def test_a_traceback_has_no_password() -> None:
    script = (
        "import os, sys\nfrom spec_opt.cli.streams import prepare_streams\n"
        "from spec_opt.config.outgoing import remember\nprepare_streams()\n"
        "remember('postgresql://me:quokka7lynx@host/db')\n"
        "print('said quokka7lynx', file=sys.stderr)\nraise RuntimeError('xy://me:gecko@host')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "said ***" in done.stderr
    assert "RuntimeError: xy://me:***@host" in done.stderr
    # The script's own lines, of which a traceback shows none here, are the only other place.
    assert leaks(done.stderr) == []
