"""What leaves the process: no passwords, no commands to a terminal, nothing endless."""

from urllib.parse import quote

import pytest

from spec_opt.config.outgoing import LONGEST, mask, outgoing, printable, remember, remember_value

SECRET = "quokka7gecko"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:{}@host/db",
        "postgresql://me:{}@{}@host:5432/db",
        "postgresql://me:{}/{}?{}@host/db",
        "postgresql://me:{}#{}@host/db",
        "postgresql://:{}@host/db",
        "postgresql:/me:{}@host/db",
        "mysql://me@corp:{}@host/db",
        "postgresql://me:1234{}",
        "postgresql://me:{}",
        "postgresql://me@host/db?password={}",
        "postgresql://me@host/db?PASSWORD={}&x=1",
        "postgresql://me@host/db?sslpassword={}",
        "postgresql://me@host/db?options=password%3D{}",
        "postgresql://me@host/db?options=-c%20PASSWORD%3d{}",
        "host=h password='{} {}' user=me",
        "host=h password={}",
        "https://me:{}@host/plant.csv",
    ],
)
def test_urls_and_options_in_any_text(url: str) -> None:
    text = f"error: {url.replace('{}', SECRET)}: no such file"
    assert SECRET not in mask(text)
    assert "***" in mask(text)
    assert mask(text).startswith("error: ")


@pytest.mark.parametrize(
    "text",
    [
        "dashboard on http://127.0.0.1:8080/dashboard/studies/1/note; Ctrl-C ends it",
        "store postgresql+psycopg://me@host:5432/db: refused",
        "store sqlite:////tmp/a:b/s.db: is a folder; supported are sqlite:///path/to/file.db",
        "trial 3 (sigma=0.5 bias=1 k=2) complete: 50.0% accepted, MSE 0.1859",
        "give draft.checkpoint: one or the other",
        "C:/stores/s.db: no such file",
        "see https://github.com/zhouhaoyi/ETDataset: the data",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert mask(text) == text


def test_a_password_that_is_known_is_masked_anywhere() -> None:
    password = "p@ss/w0rd %x"
    remember(f"postgresql://me:{quote(password, safe='')}@host/db")
    for spelling in (password, quote(password), quote(password, safe=""), "p%40ss/w0rd+%25x"):
        assert mask(f"said: {spelling}.") == "said: ***."
    remember_value("from-the-environment")
    assert mask("said: from-the-environment") == "said: ***"


@pytest.mark.parametrize("password", ["e", "db", "me", "postgres"])
def test_short_and_public_ones_do_not_garble_messages(password: str) -> None:
    remember(f"postgresql://postgres:{password}@host/db")
    text = f"database does not exist: postgresql://postgres:{password}@host/db"
    assert mask(text) == "database does not exist: postgresql://postgres:***@host/db"


def test_a_terminal_is_not_commanded() -> None:
    assert printable("a\x1b]0;owned\x07b\u202ec\x9b1m") == ("a\\x1b]0;owned\\x07b\\u202ec\\x9b1m")
    assert printable("±µ 日本\n\tcaf\udce9") == "±µ 日本\n\tcaf\udce9"


def test_nothing_endless_is_printed() -> None:
    assert len(outgoing("a" * 20_000_000)) == LONGEST
