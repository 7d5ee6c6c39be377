"""Why a store cannot be used: what is wrong, whether it lasts, and what to do about it.

A fault that lasts is the user's to mend, so its error has exit code 2: a scheduler that starts
failed work again must not try it for ever.
"""

import os
import re
from pathlib import Path
from typing import Final, Literal

from spec_opt.config.files import open_plain
from spec_opt.errors import LastingStoreError, StoreError

LASTING: Final = {
    r"password authentication failed|no password supplied": (
        "check user and password in the URL; special characters of a password must be "
        "percent-encoded"
    ),
    r"database \"[^\"]*\" does not exist": "make it with `createdb`, or name another one",
    r"role \"[^\"]*\" does not exist": "check the user in the URL",
    r"no pg_hba\.conf entry": "the server does not let this user or host in (see its pg_hba.conf)",
    r"Name or service not known|No address associated|nodename nor servname": (
        "check the host name in the URL"
    ),
    r"permission denied for": "the user in the URL lacks rights there; have them granted",
    r"read-only transaction": "the server only lets it be read; name the primary server",
    r"server does not support SSL|SSL is required": "check sslmode in the URL",
    r"attempt to write a readonly database|readonly database": (
        "it can only be read here; to write, give another --storage"
    ),
    r"unable to open database file": (
        "the file or its folder cannot be opened; if a file beside it ends in -wal, copy both "
        "into a folder that can be written"
    ),
    r"file is not a database": "it is no SQLite database, or encrypted; give another --storage",
    r"disk image is malformed": "the file is damaged; restore it from a copy",
}
"""What databases say of faults that do not pass by themselves, and the remedy of each."""
LOCKED: Final = "database is locked"
"""What SQLite says while another program writes."""


def remedy_of(message: str) -> str | None:
    """What to do about a fault that lasts; None if it may pass by itself."""
    return next((remedy for text, remedy in LASTING.items() if re.search(text, message)), None)


def store_error(masked_url: str, said: str) -> StoreError:
    """The error for what a database said."""
    remedy = remedy_of(said)
    # libpq puts sentences on lines of their own, some without an end.
    sentences = re.sub(r"(?<![.:;,?!\s])\s*\n", ". ", said.strip())
    line = " ".join(sentences.split())
    message = f"store {masked_url}: {line if len(line) <= 300 else f'{line[:297]}...'}"
    if LOCKED in said:
        message += ", by another program that works on it; try again when that has ended"
    return StoreError(message) if remedy is None else LastingStoreError(f"{message}: {remedy}")


# --- the file of an SQLite store ------------------------------------------------------------------

Access = Literal["write", "look", "read", "immutable"]
"""How a file is opened: "look" is by choice, "read" because it cannot be written here, and
"immutable" because nobody can write to it from here.
"""


def access_of(path: Path) -> Access:
    """What this process may do with a file that exists."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "write"
    # Changes that are not yet in the file itself: only SQLite can say what they are.
    logs = (path.with_name(path.name + suffix) for suffix in ("-wal", "-journal"))
    return "read" if any(log.exists() and log.stat().st_size for log in logs) else "immutable"


def check_file(masked_url: str, path: Path, *, write: bool) -> None:
    """Raise unless a file, which may not exist yet, can be opened to write or to read.

    Raises:
        LastingStoreError: it cannot.
    """

    def refuse(place: Path, reason: str, remedy: str = "give another --storage") -> None:
        where = "" if place == path else f"{place}: "
        raise LastingStoreError(f"store {masked_url}: {where}{reason}; {remedy}")

    try:
        if path.exists():
            if not os.access(path, os.R_OK):
                refuse(path, "permission denied")
            with open_plain(path) as file:
                if file.read(16) not in (b"", b"SQLite format 3\0"):
                    refuse(path, "exists but is not an SQLite database")
            if write and access_of(path) != "write":
                refuse(
                    path,
                    "it, or its folder, can only be read",
                    "status, recommend, export and report -o DIR work; for a run give another "
                    "--storage",
                )
        elif write:
            parent = next(parent for parent in path.absolute().parents if parent.exists())
            if not parent.is_dir():
                refuse(parent, "not a folder")
            if not os.access(parent, os.W_OK):
                refuse(parent, "this folder cannot be written")
    except OSError as error:
        refuse(Path(os.fsdecode(error.filename or path)), str(error.strerror))


def make_folder(masked_url: str, folder: Path) -> None:
    """Make the folder of a new file.

    Raises:
        LastingStoreError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LastingStoreError(
            f"store {masked_url}: folder {folder} cannot be made: {error.strerror}; give another "
            "--storage"
        ) from error


# --- tables ---------------------------------------------------------------------------------------

OPTUNA = frozenset({"studies", "trials", "version_info"})
ALEMBIC = "alembic_version"


def check_tables(masked_url: str, tables: set[str], *, own: bool) -> None:
    """Raise if the tables of a database are those of another program.

    Args:
        masked_url: of the store.
        tables: names of the tables.
        own: whether a database is one program's own, as a file is.

    Raises:
        LastingStoreError: they are.
    """
    if tables & OPTUNA or not (ALEMBIC in tables or (own and tables)):
        return
    program = "an MLflow database" if {"experiments", "runs"} & tables else "another program's"
    names = ", ".join(sorted(tables - {ALEMBIC})[:3])
    raise LastingStoreError(
        f"store {masked_url}: it is {program}, with tables {names}; a study needs a database of "
        "its own: give another --storage"
    )


def check_revision(masked_url: str, found: str | None, known: list[str], optuna: str) -> None:
    """Raise unless the tables have the newest revision of Optuna's schema that is `known`.

    Raises:
        LastingStoreError: they have not.
    """
    head = known[0]
    if found == head:
        return
    said = f"store {masked_url}: its tables have revision {found} of Optuna's schema"
    if found in known:
        raise LastingStoreError(
            f"{said}, made by an older Optuna; bring them up to {head} with `optuna storage "
            "upgrade --storage URL`, or give another --storage"
        )
    if re.match(r"v\d", found or ""):
        raise LastingStoreError(
            f"{said}, made by a newer Optuna than this one ({optuna}, which knows {head}): work "
            "with that version, or give another --storage"
        )
    raise LastingStoreError(
        f"store {masked_url}: its alembic_version ({found}) is another program's; a study needs a "
        "database of its own: give another --storage"
    )
