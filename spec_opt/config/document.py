"""A TOML file, as a person may have made it, becomes a JSON document."""

import json
import tomllib
from pathlib import Path
from typing import Final

from spec_opt.config.messages import brief
from spec_opt.errors import ConfigError

LARGEST_FILE: Final = 8_000_000
"""Bytes; a list of 100,000 values takes two million."""


def read_document(path: Path) -> str:
    """The content of a TOML file as JSON; dates are texts.

    Raises:
        ConfigError: it is not readable, as TOML or at all.
    """
    said = f"{path}: not a readable TOML file"
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise ConfigError(f"{path}: {size:,} bytes are more than a study file has")
        # Editors of some systems put a byte-order mark first.
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return json.dumps(document, default=str)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{said}: no text in UTF-8; save it as that") from error
    except RecursionError as error:
        raise ConfigError(f"{said}: too deeply nested") from error
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ConfigError(f"{said}: {brief(str(error))}") from error
    except ValueError as error:
        raise ConfigError(f"{said}: an integer has thousands of digits") from error
