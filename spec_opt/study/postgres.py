"""Connections to Postgres that notice a server that no longer answers.

Time limits of the server do not help against a server process that was stopped, nor do those of
TCP: the machine's kernel still confirms what arrives. So the limit is here.
"""

import time
from collections.abc import Generator
from typing import Any, Final

import psycopg
import sqlalchemy

SILENCE_S = 20.0
"""A statement is given up if nothing comes back for so long; it is then tried on a new connection.

Longer than any statement of ours takes. One that waits for a lock may be given up and tried again.
"""
OPTIONS: Final = {
    "connect_timeout": 3,
    "application_name": "spec-opt",
    # A peer that vanished from the network is noticed within a minute, not after two hours.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    # A pooler may give each transaction another session of the server, which does not know what
    # was prepared in the last one.
    "prepare_threshold": None,
}


class WatchedConnection(psycopg.Connection[Any]):
    """Closes itself, with an OperationalError, once its server has been silent for `SILENCE_S`."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Run a generator of psycopg's, which is woken several times a second."""
        return super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, work: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        heard = time.monotonic()
        try:
            wanted = next(work)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > SILENCE_S:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"the server gave no answer for {now - heard:.0f} s"
                    )
                wanted = work.send(ready)
        except StopIteration as end:
            return end.value


def connect(url: str) -> WatchedConnection:
    """A new connection to the database at a URL that SQLAlchemy reads."""
    made = sqlalchemy.make_url(url)
    arguments, parameters = made.get_dialect()().create_connect_args(made)
    return WatchedConnection.connect(*arguments, **{**parameters, **OPTIONS})
