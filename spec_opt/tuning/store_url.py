"""A storage URL, taken apart and checked before anything is opened; no password is shown."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from spec_opt.errors import StoreURLError

SUPPORTED = (
    "supported are sqlite:///path/to/file.db (workers on one host) and "
    "postgresql://user@host/database (workers on any host)"
)
NO_HEARTBEATS = "it keeps no heartbeats, so the work of a dead worker would never be taken up again"
WHY_NOT = {
    "mysql": "its way of locking rows was never tried with spec-opt",
    "mariadb": "its way of locking rows was never tried with spec-opt",
    "grpc": NO_HEARTBEATS,
    "journal": NO_HEARTBEATS,
    "redis": NO_HEARTBEATS,
    "rediss": NO_HEARTBEATS,
    "file": NO_HEARTBEATS,
}
MASK = "***"


@dataclass(frozen=True)
class StoreURL:
    """Where a store is."""

    kind: Literal["sqlite", "postgresql"]
    url: str = field(repr=False)
    """As SQLAlchemy takes it, password included: never show it."""
    masked: str
    """The same with the password masked."""
    path: Path | None
    """The file of an SQLite store."""
    secrets: tuple[str, ...] = field(repr=False)
    """Every spelling of the password."""

    def mask(self, text: str) -> str:
        """`text` without the password, however it is spelled there."""
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return text


def parse_url(text: str) -> StoreURL:
    """Check a storage URL.

    Raises:
        StoreURLError: one line, password masked, that says what is supported and why.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        shown = _mask_roughly(text)
        hint = f"for a file, write sqlite:///{shown}; " if text else ""
        raise StoreURLError(f"storage URL {shown!r}: {hint}{SUPPORTED}")
    dialect, _, driver = scheme.lower().partition("+")
    if dialect in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _postgres("postgresql+psycopg" + text[len(scheme) :])
    if dialect in ("postgres", "postgresql"):
        raise StoreURLError(
            f"storage URL {_mask_roughly(text)}: driver {driver} is not supported, "
            "write postgresql:// (psycopg 3 is used)"
        )
    if dialect == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite("sqlite" + text[len(scheme) :])
    reason = f" is not supported: {WHY_NOT[dialect]}" if dialect in WHY_NOT else " is unknown"
    raise StoreURLError(f"storage URL {_mask_roughly(text)}: {scheme}://{reason}; {SUPPORTED}")


def _parse(text: str) -> sqlalchemy.URL:
    try:
        return sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        # `from None`: the original quotes the URL.
        raise StoreURLError(
            f"storage URL {_mask_roughly(text)}: cannot be read (special characters of a password "
            f"must be percent-encoded); {SUPPORTED}"
        ) from None


def _postgres(text: str) -> StoreURL:
    url = _parse(text)
    passwords = [url.password, *(url.query.get(key) for key in ("password", "sslpassword"))]
    secrets = [str(password) for password in passwords if password]
    spellings = {f(s) for s in secrets for f in (str, quote, quote_plus, _quote_all)}
    # The longest first: one spelling may be a part of another.
    ordered = tuple(sorted(spellings, key=len, reverse=True))
    masked = url.render_as_string(hide_password=True)
    for key in ("password", "sslpassword"):
        masked = re.sub(rf"([?&]{key}=)[^&]*", rf"\1{MASK}", masked)
    return StoreURL("postgresql", url.render_as_string(hide_password=False), masked, None, ordered)


def _quote_all(text: str) -> str:
    return quote(text, safe="")


def _sqlite(text: str) -> StoreURL:
    url = _parse(text)
    text = _mask_roughly(text)
    database = url.database or ""
    if url.host:
        raise StoreURLError(
            f"storage URL {text}: a file's path starts after three slashes "
            f"(sqlite:///{url.host}/{database})"
        )
    if database in ("", ":memory:") or url.query.get("mode") == "memory":
        raise StoreURLError(
            f"storage URL {text}: a store in memory is lost with its process and no second worker "
            f"sees it; {SUPPORTED}"
        )
    if database.startswith("file:") or url.query:
        raise StoreURLError(f"storage URL {text}: give a plain path, without options; {SUPPORTED}")
    path = Path(database).expanduser()
    if path.is_dir():
        raise StoreURLError(f"storage URL {text}: {path} is a folder, not a file")
    # As SQLAlchemy spells it: whether a path is percent-encoded depends on its version.
    spelled = url.set(database=str(path)).render_as_string()
    return StoreURL("sqlite", spelled, spelled, path, ())


def _mask_roughly(text: str) -> str:
    """Mask what may be a password in a URL that is not taken apart: all up to the last @."""
    text = re.sub(r"^(\w[\w+]*:/*)?.*@", rf"\1{MASK}@", text)
    return re.sub(r"([?&]\w*password=)[^&]*", rf"\1{MASK}", text)
