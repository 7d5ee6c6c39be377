"""Text that leaves the process: without passwords, without commands to a terminal, not endless.

`outgoing` is for what is printed or logged, `mask` for what is kept in a file or a store.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

MASK: Final = "***"
SHORTEST_BY_VALUE: Final = 4
"""A shorter password is masked only where a URL has it: as a value it is part of many words."""
LONGEST: Final = 8000
"""Characters of a line."""

_OPTION = re.compile(
    r"((?:password|passwd|pwd|passphrase|secret|token|api_?key)(?:=|%3D|%253D))"
    r"('[^']*'|[^\s&'\"]+)",
    re.IGNORECASE,
)
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^\s/:\[]*:)(\S+)")
"""A URL up to its user and a colon (with one slash, as `Path` merges two), and what follows."""
_PORT = re.compile(r"\d+(?![\w@])")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys, or that turn a line around; not tab and newline."""

_secrets: set[str] = set()


def remember(text: str) -> None:
    """Take note of the passwords in a URL, so that `mask` finds them anywhere.

    One that is also shown (as user, host or database) or that is very short is masked in URLs only.
    """
    shown = _without_positions(text)
    for secret in _passwords(text):
        remember_value(secret, shown)


def remember_value(secret: str, shown: str = "") -> None:
    """Take note of a password, in all its spellings, unless it is very short or part of `shown`."""
    if len(secret) < SHORTEST_BY_VALUE or secret in shown:
        return
    for plain in (secret, unquote(secret), unquote_plus(secret)):
        _secrets.update((plain, quote(plain), quote_plus(plain), quote(plain, safe="")))
        _secrets.add(quote_plus(plain, safe="/"))


def _passwords(text: str) -> Iterable[str]:
    """What may be a password in a URL, which need not be well formed."""
    rest = text.partition("://")[2] or text
    for user in (rest.partition("@")[0], rest.rpartition("@")[0]):
        yield user.partition(":")[2] if "@" in rest else ""
    for key, value in parse_qsl(rest.partition("?")[2]):
        yield from (match[2] for match in _OPTION.finditer(f"{key}={value}"))
        yield from (match[2] for match in _OPTION.finditer(value))


def mask(text: str) -> str:
    """`text` without passwords: those that are remembered, and those in URLs and options."""
    if _secrets:
        longest_first = sorted(_secrets, key=len, reverse=True)  # one may be a part of another
        text = re.sub("|".join(map(re.escape, longest_first)), MASK, text)
    return _without_positions(text)


def _without_positions(text: str) -> str:
    return _USER.sub(_without_password, _OPTION.sub(rf"\1{MASK}", text))


def _without_password(url: re.Match[str]) -> str:
    user, rest = url.groups()
    if _PORT.match(rest) and ("@" in user or "@" not in rest):
        return url[0]
    # An @ that should have been encoded is part of the password; without one the URL was cut short.
    return f"{user}{MASK}@{rest.rpartition('@')[2]}" if "@" in rest else f"{user}{MASK}"


def printable(text: str) -> str:
    """`text` with control characters as escapes, so that a terminal does not obey them."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(document: str) -> str:
    """A JSON document with control characters as its own escapes: it says the same."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def outgoing(text: str) -> str:
    """`text` as it may be printed: masked, printable, and cut if it is endless."""
    text = printable(mask(text[: 2 * LONGEST]))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
