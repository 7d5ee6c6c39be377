"""Reading user attributes of studies and trials by type: absent or of another type is None."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from spec_opt.measurement import Fingerprints

RecordType = TypeVar("RecordType")
TableType = TypeVar("TableType", bound=BaseModel)


class Attributes:
    """A typed view on a mapping of user attributes, as JSON gives them back."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self._stored = stored

    def number(self, name: str) -> float | None:
        """A finite number."""
        value = self._stored.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if math.isfinite(value) else None

    def count(self, name: str) -> int | None:
        """A whole number that is not negative."""
        value = self._stored.get(name)
        return value if _is_count(value) else None

    def counts(self, name: str) -> tuple[int, ...] | None:
        """A list of counts."""
        value = self._stored.get(name)
        if not isinstance(value, (list, tuple)) or not all(map(_is_count, value)):
            return None
        return tuple(value)

    def text(self, name: str) -> str | None:
        value = self._stored.get(name)
        return value if isinstance(value, str) else None

    def texts(self, name: str) -> dict[str, str]:
        """A table of texts; empty if absent."""
        value = self._stored.get(name)
        if not isinstance(value, dict):
            return {}
        return {str(key): str(entry) for key, entry in value.items()}

    def record(self, name: str, kind: type[RecordType]) -> RecordType | None:
        """A frozen dataclass stored as a table of its fields; keys that it does not have pass."""
        value = self._stored.get(name)
        if not isinstance(value, dict):
            return None
        try:
            found: RecordType = _adapter(kind).validate_python(value)
        except ValidationError:
            return None
        return found

    def records(self, name: str, kind: type[RecordType]) -> tuple[RecordType, ...]:
        """A list of frozen dataclasses, each stored as a table of its fields; empty if absent."""
        value = self._stored.get(name)
        if not isinstance(value, list):
            return ()
        try:
            return tuple(TypeAdapter(list[kind]).validate_python(value))  # type: ignore[valid-type]
        except ValidationError:
            return ()

    def validated(self, name: str, kind: type[TableType]) -> TableType | None:
        """A pydantic model stored in its JSON form.

        Raises:
            pydantic.ValidationError: it is there and does not fit.
        """
        value = self._stored.get(name)
        return None if value is None else kind.model_validate_json(json.dumps(value))

    def trial_fingerprints(self) -> Fingerprints | None:
        """The four fingerprints that a measured trial carries."""
        found = {f.name: self.text(f"{f.name}_fingerprint") for f in fields(Fingerprints)}
        complete = {name: value for name, value in found.items() if value is not None}
        return Fingerprints(**complete) if len(complete) == len(found) else None


_adapter: Callable[[type], TypeAdapter[Any]] = cache(TypeAdapter)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
