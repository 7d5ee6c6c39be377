"""A password in the storage URL is seen nowhere: on no stream, in no file, by no other user."""

import os
import signal
import subprocess
import sys
import threading
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
from tests.study.conftest import new_database, postgres_server  # noqa: F401
from tests.study.stand_in import stand_in_study

PARTS = ("quokka", "gecko", "lynx", "okapi", "tapir", "ibex")
PASSWORD = "{}@{}:{}/{}%{}#{}".format(*PARTS)
pytestmark = pytest.mark.postgres


def with_password(url: str, password: str) -> str:
    """The URL with a password as it is spelled; the server asks for none."""
    made = sqlalchemy.make_url(url)
    host = made.query.get("host") or made.host
    port = f"&port={made.port}" if made.port else ""
    return f"postgresql://{made.username}:{password}@/{made.database}?host={host}{port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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


def run(folder: Path, url: str, *arguments: str) -> tuple[int, str]:
    """The exit code and both streams of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "spec_opt", "-v", *arguments],
        cwd=folder,
        env=os.environ | {"SPEC_OPT_STORAGE": url, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


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
) -> None:
    database = new_database()
    url = with_password(database, quote(PASSWORD, safe=""))
    (folder / "other.toml").write_text(str(FILES["study.toml"]).replace('"case"', '"other"'))
    with CommandLines() as lines:
        for command in COMMANDS:
            code, shown = run(folder, url, *command)
            assert code == (2 if "77" in command or "other.toml" in command else 0), shown
            assert leaks(shown) == [], command
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


def test_a_password_is_on_no_page_of_the_dashboard(
    folder: Path,
    new_database: Callable[[], str],  # noqa: F811
) -> None:
    url = with_password(new_database(), quote(PASSWORD, safe=""))
    assert run(folder, url, "run", "study.toml")[0] == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "spec_opt", "-v", "dashboard", "study.toml", "--port", "0"],
        cwd=folder,
        env=os.environ | {"SPEC_OPT_STORAGE": url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = ""
    while "dashboard on" not in line:
        line = process.stderr.readline()
        assert line
        assert leaks(line) == []
    address = line.split("dashboard on ")[1].split(";")[0]
    study = address.split("/studies/")[1].split("/")[0]
    for page in (address, "/api/studies", f"/api/studies/{study}?after=0", "/api/meta"):
        with urllib.request.urlopen(urllib.parse.urljoin(address, page), timeout=60) as answer:
            assert leaks(answer.read().decode()) == [], page
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert leaks(rest) == []


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid", "127.0.0.1:port"])
@pytest.mark.parametrize("spell", [quote_plus, str])
def test_a_password_is_not_in_an_error(
    folder: Path, host: str, spell: Callable[[str], str]
) -> None:
    """Also where it is not percent-encoded, as it must be."""
    url = f"postgresql://me:{spell(PASSWORD)}@{host}/db"
    code, shown = run(folder, url, "status", "study.toml")
    assert code in (1, 2)
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
    monkeypatch.chdir(folder)
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
