"""Settings as the text of a study file, which `read_study` reads back."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from spec_opt.config.study_file import SYNTHETIC, StudyConfig

_WIDTH: Final = 100


def toml_of(config: StudyConfig, *, explained: bool = False) -> str:
    """All settings of a study.

    Args:
        explained: With comments: what each key means, whether it has its default, and which keys
            have no value.
    """
    document = config.model_dump(mode="json")
    if config.data.source != SYNTHETIC:
        del document["data"]["synthetic"]
    return "\n".join(_lines(config, document, (), explained)).strip() + "\n"


def _lines(
    table: BaseModel, document: Mapping[str, Any], path: tuple[str, ...], explained: bool
) -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    fields = {name: type(table).model_fields[name] for name in document}
    inner = {name: value for name in fields if _is_table(value := getattr(table, name))}
    if path:
        yield from ("", f"[{'.'.join(path)}]")
    for name, field in fields.items():
        if name in inner:
            continue
        about = field.description or ""
        if document[name] is None:
            if explained:
                yield from _comment(f"{name} is not set. {about}")
            continue
        if explained:
            yield from _comment(about)
        line = f"{name} = {toml_value(document[name])}"
        if explained and getattr(table, name) == field.get_default(call_default_factory=True):
            line += "  # default"
        yield line
    for name, value in inner.items():
        yield from _lines(value, document[name], (*path, name), explained)


def _is_table(value: Any) -> bool:
    """Whether a value has a header of its own; a range stands on one line."""
    return isinstance(value, BaseModel) and "low" not in type(value).model_fields


def _comment(text: str) -> list[str]:
    joined = " ".join(text.split())
    return textwrap.wrap(joined, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def toml_value(value: Any) -> str:
    """A JSON value in TOML; an object becomes an inline table, without its nulls."""
    match value:
        case Mapping():
            pairs = [f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items() if v is not None]
            return f"{{{', '.join(pairs)}}}"
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def toml_key(name: str) -> str:
    """A key, in quotes where it needs them."""
    bare = name.isascii() and name.replace("-", "_").isidentifier()
    return name if bare else toml_value(name)


def renamed(text: str, name: str, file: str) -> str:
    """The text of a study file under another name, with commands in its comments to match."""
    text = re.sub(r"(?m)^name\s*=.*$", f"name = {toml_value(name)}", text, count=1)
    return re.sub(r"(?m)^(#.*spec-opt run)\b( \w+)?", rf"\1 {file}", text)
