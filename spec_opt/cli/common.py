"""What the commands share: arguments, options, and how they speak."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import click

INTERRUPTED = 130

study_argument = click.argument("study", metavar="STUDY")
storage_option = click.option(
    "--storage",
    metavar="URL",
    help="The store: sqlite:///FILE or postgresql://… [env: SPEC_OPT_STORAGE; "
    "default: sqlite:///storage/spec_opt.db]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def say(text: str) -> None:
    """One line to the person, on stderr."""
    click.echo(f"spec-opt: {text}", err=True)


def print_json(document: Any) -> None:
    """One document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def command_line() -> str:
    """How spec-opt was called, without what `--storage` names: that may hold a password."""
    shown: list[str] = []
    for argument in sys.argv[1:]:
        if shown and shown[-1] == "--storage":
            shown[-1:] = []
        elif not argument.startswith("--storage="):
            shown.append(argument)
    return shlex.join(["spec-opt", *shown])
