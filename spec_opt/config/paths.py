"""File names, which are bytes, where text is needed; and where the store is by default."""

import os
from typing import Final

DEFAULT_STORAGE: Final = "sqlite:///storage/spec_opt.db"
STORAGE_VARIABLE: Final = "SPEC_OPT_STORAGE"
"""The environment variable that names another store."""
ANOTHER_STORE: Final = f"--storage or {STORAGE_VARIABLE} names another"
"""How to get at a study that is not in the store that was looked at."""
COPY_VARIABLE: Final = "SPEC_OPT_COPY_TO"
"""The same for the store that `copy` writes to."""


def readable(name: str | os.PathLike[str]) -> str:
    """A file's name, or a text with such names, as proper Unicode.

    Python keeps bytes of a name that are not UTF-8 as lone surrogates, which neither JSON nor a
    terminal takes. They become escapes, as in `caf\\xe9`.
    """
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
