from pathlib import Path

import pytest

from spec_opt.config.outgoing import mask
from spec_opt.errors import StoreURLError
from spec_opt.study.database import parse_url


@pytest.mark.parametrize(
    "url",
    [
        "postgres://me:secret@host/db",
        "postgresql://me:secret@host/db",
        "postgresql+psycopg://me:secret@host/db",
    ],
)
def test_every_spelling_of_postgres_means_psycopg_3(url: str) -> None:
    parsed = parse_url(url)
    assert parsed.kind == "postgresql"
    assert parsed.url == "postgresql+psycopg://me:secret@host/db"
    assert parsed.masked == "postgresql+psycopg://me:***@host/db"
    assert parsed.path is None


def test_a_sqlite_url_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_url("sqlite:///folder/a.db").path == Path("folder/a.db")
    assert parse_url("sqlite:////folder/a.db").path == Path("/folder/a.db")
    assert parse_url("sqlite:///~/a.db").path == tmp_path / "a.db"
    assert parse_url("sqlite:///folder/what?.db").path == Path("folder/what?.db")
    assert parse_url("sqlite:///what?").path == Path("what?")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40ss%2Fw@host/db",
        "postgresql://me@host/db?password=p%40ss%2Fw",
        "postgresql://me@host/db?sslmode=require&password=p%40ss%2Fw&connect_timeout=1",
    ],
)
def test_the_password_shows_nowhere(url: str) -> None:
    parsed = parse_url(url)
    shown = [parsed.masked, repr(parsed), mask("said: p@ss/w, p%40ss%2Fw, p%40ss/w")]
    for text in shown:
        assert "p@ss" not in text
        assert "p%40ss" not in text
    assert parsed.masked != url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql+pymysql://me:secret@host/db", "mysql"),
        ("grpc://me:secret@localhost:13000", "heartbeats"),
        ("journal:///log?password=secret", "heartbeats"),
        ("redis://:secret@localhost", "heartbeats"),
        ("mongodb://me:secret@host/db", "unknown"),
        ("postgresql+psycopg2://me:secret@host/db", "psycopg 3"),
        ("postgresql://me:secret@host:port/db", "cannot be read"),
        ("postgresql:/me:secret@host/db", "supported are"),
        ("me:secret@host/db", "supported are"),
        ("mysql://me@corp:secret@host/db", "mysql"),
        ("sqlite://me:secret@host/db", "three slashes"),
        ("sqlite:///a.db?password=secret", "without options"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("sqlite:///a.db?timeout=3", "without options"),
        ("sqlite://folder/a.db", "three slashes"),
        ("store.db", "sqlite:///store.db"),
        ("", "supported are"),
        ("sqlite:////tmp", "is a folder"),
        ("sqlite:///~nobody_here/a.db", "home directory"),
    ],
)
def test_what_is_not_supported_is_said_in_one_line(url: str, reason: str) -> None:
    with pytest.raises(StoreURLError) as caught:
        parse_url(url)
    message = str(caught.value)
    assert reason in message
    assert "secret" not in message
    assert "\n" not in message
    assert caught.value.__cause__ is None
