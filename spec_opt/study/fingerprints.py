"""What keeps a study's trials from being compared with new ones, by the keys of its file."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from spec_opt.config.messages import as_written

_MOST_KEYS: Final = 3
"""Named in a message."""
_OTHERS: Final = {
    "target": ("another target", "no key of [target] differs, but the weights do"),
    "draft": ("another draft", "no key of [draft] differs, but the weights do"),
    "data": ("other data", "no key of [data] differs, but the values of the series do"),
    "decoding": (
        "another decoding",
        "no key of [decoding] differs, but the version of spec-opt or the machine does",
    ),
}
"""By the names of `Fingerprints`: what differs, and what to say if no key explains it."""
_OF_SPEED: Final = frozenset({"decoding.device", "decoding.batch_size"})
"""Keys that matter only where the speedup is an objective."""


Made = tuple[Mapping[str, str], Mapping[str, Any]]
"""What trials were made with: `Fingerprints`, and the study file, both as documents."""


def difference(stored: Made, given: Made) -> str | None:
    """How new trials would differ from those of the store; None if they can be compared."""
    (measured, before), (found, now) = stored, given
    changed = [name for name, value in found.items() if measured.get(name) != value]
    if not changed:
        return None
    keys = [text for name in changed for text in _differing(name, before, now)]
    if not keys:
        keys = [_OTHERS[name][1] for name in changed]
    elif len(keys) > _MOST_KEYS:
        keys[_MOST_KEYS:] = [f"and {len(keys) - _MOST_KEYS} more"]
    others = " and ".join(_OTHERS[name][0] for name in changed)
    return f"was measured with {others} ({'; '.join(keys)})"


def _differing(table: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a table that differ, with both values."""
    old, new = dict(_keys(table, before.get(table))), dict(_keys(table, now.get(table)))
    is_timed = "speedup" in now["search"]["objectives"]
    for key in dict.fromkeys((*new, *old)):
        values = old.get(key), new.get(key)
        if values[0] != values[1] and (is_timed or key not in _OF_SPEED):
            was, given = ("not set" if v is None else as_written(v) for v in values)
            yield f"{key} was {was}, now {given}"


def _keys(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from _keys(f"{name}.{part}", inner)
    else:
        yield name, value
