"""Stores as people name them: URLs, other programs' databases, other versions, other users."""

import functools
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import chdir, closing
from pathlib import Path

from spec_opt.cli import main
from tests.bad_input.case import Case, Content, study
from tests.bad_input.series import TEXT

STUDY = study('source = "plant.csv"\nmax_windows = 2') + (
    '[search]\nsampler = "grid"\nsigma = [0.5]\nbias = [1.0]\nk = [1, 2]\n[bench]\nseconds = 0.1\n'
)
FILES: dict[str, Content] = {"study.toml": STUDY, "plant.csv": TEXT}


def url(given: str, *words: str, exit_code: int = 2) -> Case:
    command = f"run study.toml --storage '{given}'"
    return Case(f"store: {given}", FILES, words, exit_code, command=command)


def tables(*statements: str) -> Content:
    """A database as another program makes it."""

    def write(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return write


@functools.cache
def finished() -> bytes:
    """A store after `spec-opt run`."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, content in FILES.items():
            Path(name).write_text(str(content))
        assert main(["run", "study.toml", "--storage", "sqlite:///s.db"]) == 0
        with closing(sqlite3.connect("s.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path("s.db").read_bytes()


def changed(*statements: str) -> Content:
    """A finished store, after some statements."""

    def write(path: Path) -> None:
        path.write_bytes(finished())
        tables(*statements)(path)  # type: ignore[operator]

    return write


def database(
    id: str, content: Content, *words: str, command: str = "run study.toml", exit_code: int = 2
) -> Case:
    files = FILES | {"s.db": content}
    return Case(f"store: {id}", files, words, exit_code, f"{command} --storage sqlite:///s.db")


def revision(text: str) -> Content:
    return changed(f"UPDATE alembic_version SET version_num = '{text}'")


ALEMBIC = "CREATE TABLE alembic_version (version_num varchar(32))"
MLFLOW = (
    ALEMBIC,
    "INSERT INTO alembic_version VALUES ('cc1f77228345')",
    "CREATE TABLE experiments (experiment_id integer)",
    "CREATE TABLE runs (run_uuid text)",
)
URLS: Sequence[Case] = [
    url("s.db", "write sqlite:///s.db"),
    url("/var/lib/s.db", "write sqlite:////var/lib/s.db"),
    url("C:\\stores\\s.db", "for a file, write sqlite:///"),
    url("", "storage URL"),
    url("sqlite://", "in memory"),
    url("sqlite:///:memory:", "in memory"),
    url("sqlite:///file:s.db?mode=ro", "a plain path"),
    url("sqlite:///s.db?timeout=3", "a plain path"),
    url("sqlite://s.db", "three slashes"),
    url("sqlite:///.", "is a folder"),
    url("sqlite+aiosqlite:///s.db", "supported are"),
    url("sqlite:///plant.csv/s.db", "plant.csv: not a folder"),
    url("sqlite:////proc/nothing/s.db", "store sqlite:////proc/nothing/s.db"),
    url("mysql://me:pw@host/db", "mysql://", "locking rows was never tried"),
    url("redis://host:6379", "heartbeats"),
    url("http://host:8080", "http:// is unknown"),
    url("postgresql://me:p@ss/w@host/db", "postgresql+psycopg://***@host/db", "several @"),
    url("postgresql://me:pw@host:port/db", "percent-encoded"),
    url("postgresql+asyncpg://me@host/db", "write postgresql://"),
    url("postgresql://me:pw@no-such-host.invalid/db", "no-such-host.invalid", "host"),
    url("postgresql://me:pw@127.0.0.1:1/db", "refused", exit_code=1),
    url("postgresql:///db?host=/nowhere", "/nowhere", exit_code=1),
    url(f"sqlite:///{'x' * 300}.db", "File name too long", "another --storage"),
    url(f"sqlite:///{'x' * 300}/s.db", "File name too long"),
    url("sqlite:///~nobody_here/s.db", "home directory", "supported are"),
]


def attribute(key: str, value: str) -> Content:
    """A finished store in which the study has another attribute."""
    return changed(f"UPDATE study_user_attributes SET value_json = '{value}' WHERE key = '{key}'")


def whole(path: Path) -> None:
    path.write_bytes(finished())


def damaged(path: Path) -> None:
    path.write_bytes(finished()[:4096] + b"\x07" * 60_000)


DAMAGE = {
    "JSON of a trial": "UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'worker'",
    "JSON of a study": "UPDATE study_user_attributes SET value_json = '[' WHERE key = 'baseline'",
    "an unknown state": "UPDATE trials SET state = 'ASLEEP' WHERE number = 1",
    "a time": "UPDATE trials SET datetime_complete = 'yesterday' WHERE number = 1",
}
OTHER_PRINTS = '{"target": "0", "draft": "0", "data": "0", "decoding": "0"}'
STATUS = "status study.toml"

DATABASES: Sequence[Case] = [
    database("an MLflow database", tables(*MLFLOW), "an MLflow database", "--storage"),
    database("an MLflow database, looked at", tables(*MLFLOW), "MLflow", command=STATUS),
    database("another program's file", tables("CREATE TABLE moz_places (id)"), "moz_places"),
    database("Airflow's", tables(ALEMBIC, "CREATE TABLE dag (id)"), "another program's", "dag"),
    database("a newer schema", revision("v9.0.0.a"), "made by a newer Optuna than this one"),
    database("a newer schema, looked at", revision("v9.0.0.a"), "newer Optuna", command=STATUS),
    database("an older schema", revision("v3.0.0.a"), "older Optuna", "optuna storage upgrade"),
    database("a schema of nobody", revision("1975ea83b712"), "another program's"),
    database("a CSV", TEXT, "not an SQLite database"),
    database("half a store", lambda path: path.write_bytes(finished()[:5000]), "damaged"),
    database("a damaged store", damaged, "damaged"),
    database("an empty file, looked at", "", "holds no study yet", command=STATUS),
    database(
        "a store without this study",
        changed("UPDATE studies SET study_name = 'x'"),
        "(in /",
        "which holds x",
        "--storage or SPEC_OPT_STORAGE names another",
        command=STATUS,
    ),
    database("other data", attribute("fingerprints", OTHER_PRINTS), "measured with another target"),
    database(
        "no baseline",
        changed("DELETE FROM study_user_attributes WHERE key = 'baseline'"),
        "lacks baseline",
        command=STATUS,
    ),
    database(
        "another version's baseline", attribute("baseline", "{}"), "its baseline, as spec-opt"
    ),
    database(
        "another version's baseline, looked at",
        attribute("baseline", '{"mse": 1.0}'),
        "cannot be read by this version",
        command=STATUS,
    ),
    database(
        "another version's study file",
        attribute("config", '{"a": 1}'),
        "cannot be read by this version",
        command=STATUS,
    ),
    *(
        database(
            f"damaged, {what}, {c.split()[0]}", changed(statement), "a row in it cannot", command=c
        )
        for what, statement in DAMAGE.items()
        for c in (STATUS, "export study.toml")
    ),
    database(
        "a trial without values",
        changed("DELETE FROM trial_values WHERE trial_id = 1"),
        "trial 0 left out",
        command="recommend study.toml",
        exit_code=0,
    ),
    database(
        "a pipe",
        os.mkfifo,
        "a pipe or a device",
        "another --storage",
    ),
    database(
        "a pipe, looked at",
        os.mkfifo,
        "a pipe or a device",
        command=STATUS,
    ),
    database("finished", whole, "2 of 2 trials complete", command=STATUS, exit_code=0),
    database(
        "no such trial", whole, "no completed trial 9", command="confirm study.toml --trial 9"
    ),
    database(
        "an output below a file",
        whole,
        "plant.csv/x.csv: cannot be written",
        command="export study.toml -o plant.csv/x.csv",
    ),
    database(
        "an output that is a folder",
        whole,
        ".: cannot be written: it is a folder",
        command="export study.toml -o .",
    ),
    database(
        "a report below a file",
        whole,
        "cannot be written",
        "choose another folder with -o",
        command="report study.toml -o plant.csv",
    ),
]

CASES = [*URLS, *DATABASES]
