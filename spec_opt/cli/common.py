"""What the commands share: the group, arguments and options, and how they print."""

from __future__ import annotations

import functools
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spec_opt import __version__
from spec_opt.cli.completion import STUDY
from spec_opt.config.outgoing import mask, outgoing, printable, printable_json
from spec_opt.config.paths import DEFAULT_STORAGE, STORAGE_VARIABLE, readable

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig

INTERRUPTED = 130
KEPT = "interrupted: finished work is kept, the same command resumes"


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="spec-opt")
@click.option("-v", "--verbose", is_flag=True, help="Log more to stderr.")
def app(verbose: bool) -> None:
    """Tune speculative decoding of autoregressive time-series models.

    STUDY is a study file (TOML), the name of one that ships (quickstart, etth1_grid, etth1_tpe,
    etth1_paper, etth1_training), or the name of a study in the store: `spec-opt list` shows them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(levelname)s %(name)s: %(message)s" if verbose else None))
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("spec_opt").setLevel(logging.INFO)


class _Lines(logging.Formatter):
    """Messages, and tracebacks where they have one, as they may be printed."""

    def format(self, record: logging.LogRecord) -> str:
        return outgoing(super().format(record))


def terminal_width() -> int | None:
    """Columns of the terminal on stdout; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def study_settings(reference: str, url: str) -> StudyConfig:
    """The settings of a study, by its file or its name; remembers what was given."""
    from spec_opt.api import find_settings

    click.get_current_context().meta["study"] = reference
    return find_settings(reference, url)


def given_reference() -> str:
    """The study as this command names it: for commands to paste."""
    return pasted(click.get_current_context().meta["study"])


def pasted(argument: str) -> str:
    """An argument as it is typed in a shell."""
    return readable(shlex.quote(argument))


study_argument = click.argument("reference", metavar="STUDY", type=STUDY)
storage_option = click.option(
    "--storage",
    "url",
    metavar="URL",
    envvar=STORAGE_VARIABLE,
    show_envvar=True,
    default=DEFAULT_STORAGE,
    help="The store: sqlite:///FILE or postgresql://…",
)
scenario_option = click.option("--scenario", type=click.Choice(["speed", "quality", "balanced"]))
output_option = click.option("-o", "--output", type=Path, help="A file, instead of stdout.")
report_option = click.option(
    "-o", "--output", type=Path, metavar="DIR", help="By default reports/<study>."
)
artifacts_option = click.option(
    "--artifacts",
    type=Path,
    metavar="DIR",
    envvar="SPEC_OPT_ARTIFACTS",
    show_envvar=True,
    help="Folder of Optuna's artifacts, which keep the report with its study.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def study_command(command: Callable[..., int | None], name: str | None = None) -> click.Command:
    """A command on a study in a store, which it gets as `config: StudyConfig` and `url: str`."""

    @functools.wraps(command)
    def with_settings(reference: str, url: str, **options: Any) -> int | None:
        return command(config=study_settings(reference, url), url=url, **options)

    return app.command(name)(study_argument(storage_option(with_settings)))


def say(text: str) -> None:
    """One line to the user, on stderr."""
    note(f"spec-opt: {text}")


def note(text: str) -> None:
    """Text on stderr that accompanies the work."""
    click.echo(outgoing(text), err=True)


def show(result: object) -> None:
    """A result on stdout."""
    click.echo(as_shown(result), nl=False)


def deliver(content: bytes | str, output: Path | None) -> None:
    """A whole document on stdout, or into a file.

    Raises:
        OutputError: the file cannot be written.
    """
    if output is None:
        click.echo(content, nl=False)
        return
    from spec_opt.config.files import write_file

    write_file(output, content if isinstance(content, bytes) else content.encode())
    say(f"wrote {output}")


def as_shown(result: object) -> str:
    """Text without control characters, else one JSON document; ends with a newline."""
    if isinstance(result, str):
        result = printable(result)
    else:
        from pydantic_core import to_json

        result = printable_json(to_json(result, indent=2, inf_nan_mode="null").decode())
    return f"{result}\n"


def command_line() -> str:
    """The command as it was given, without `--storage URL` and any other password."""
    shown: list[str] = []
    for argument in sys.argv[1:]:
        if shown and shown[-1] == "--storage":
            shown.pop()
        elif not argument.startswith("--storage="):
            shown.append(argument)
    return mask(readable(shlex.join(["spec-opt", *shown])))
