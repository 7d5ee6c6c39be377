"""PgBouncer in transaction mode, in front of a Postgres server."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pooler(server: str, size: int) -> Iterator[str]:
    """The URL of the server's database through a pooler with so many connections to the server."""
    assert PROGRAM is not None
    url = sqlalchemy.make_url(server)
    host, user = url.query.get("host", url.host), url.username or "postgres"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="spec-opt-pooler-"))
    folder.chmod(0o755)
    text = CONFIG.format(host=host, port=url.port or 5432, user=user, listen=listen, size=size)
    (folder / "pgbouncer.ini").write_text(text, encoding="utf-8")
    # It refuses to be root; its user must reach the server's socket.
    owner = (
        pwd.getpwuid(os.stat(str(host)).st_uid).pw_name if Path(str(host)).is_dir() else "nobody"
    )
    as_other = ["-u", owner] if os.getuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, *as_other, str(folder / "pgbouncer.ini")], stdout=log, stderr=log
        )
    try:
        _wait_for(listen)
        yield f"postgresql://{user}@127.0.0.1:{listen}/{url.database}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise TimeoutError("the pooler does not answer")
