"""The command line: parse, call, print, exit code. All heavy imports wait for their command."""

from __future__ import annotations

import logging
import os
import sys

import click

from spec_opt import __version__
from spec_opt.cli import results, running
from spec_opt.cli.common import INTERRUPTED, say
from spec_opt.cli.interrupts import terminate_as_interrupt
from spec_opt.errors import SpecOptError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="spec-opt")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def app(verbose: bool) -> None:
    """Tune speculative decoding of autoregressive time-series models.

    STUDY is a study file (TOML), or the name of one that ships: quickstart, etth1_grid, etth1_tpe,
    etth1_paper.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("spec_opt").setLevel(logging.INFO)


for command in (
    running.run,
    running.worker,
    running.status,
    results.recommend,
    results.export,
    results.report,
    results.bench,
    results.confirm,
    results.dashboard,
    running.train,
    results.import_,
):
    app.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    stdout = sys.stdout
    try:
        with terminate_as_interrupt():
            code = app.main(args=arguments, prog_name="spec-opt", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
        return 2
    except SpecOptError as error:
        say(f"error: {error}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: what was finished is kept, the same command resumes")
        return INTERRUPTED
    except _out_of_memory() as error:
        reason = str(error).splitlines()[0] if str(error) else "the machine's"
        say(f"error: out of memory: {reason}; lower batch_size, or the sizes of the models")
        return 1
    except SystemExit:
        if sys.stdout is stdout:
            raise
        # Click wraps stdout and exits if the reader of our output went away, as `head` does: no
        # error, and nothing more to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _out_of_memory() -> tuple[type[Exception], ...]:
    """What Python raises, and torch, if anything has imported it."""
    torch = sys.modules.get("torch")
    return (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
