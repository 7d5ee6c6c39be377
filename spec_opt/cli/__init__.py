"""The command line: parse, call, print, exit code. Heavy imports wait inside each command."""

from __future__ import annotations

import logging
import os
import sys

import click

# Importing the commands adds them to `app`.
from spec_opt.cli import first_steps, forecasting, results, running  # noqa: F401
from spec_opt.cli.common import INTERRUPTED, KEPT, app, say
from spec_opt.cli.examples import add_examples
from spec_opt.cli.interrupts import terminate_as_interrupt
from spec_opt.cli.streams import abandon_stdout, prepare_streams
from spec_opt.config.machine import set_up_threads
from spec_opt.config.outgoing import remember, remember_value
from spec_opt.config.paths import COPY_VARIABLE, STORAGE_VARIABLE
from spec_opt.errors import SpecOptError

log = logging.getLogger(__name__)
add_examples(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    prepare_streams()
    _remember_passwords(sys.argv[1:] if arguments is None else arguments)
    set_up_threads()
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
        say(KEPT)
        return INTERRUPTED
    except OSError as error:
        # Of a file that our own errors do not name: mostly a disk, or stdout, that is full.
        log.debug("", exc_info=error)
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        abandon_stdout()
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "the machine's"
        say(f"error: out of memory: {reason}; lower batch_size, or the sizes of the models")
        return 1
    except SystemExit:
        if sys.stdout is stdout:
            raise
        # Click replaces stdout and exits when its reader has gone away, as `head` does. That is
        # no error, and there is nothing left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _remember_passwords(arguments: list[str]) -> None:
    """Those that this process was given, so that nothing which it prints shows them."""
    given = (os.environ.get(name, "") for name in (STORAGE_VARIABLE, COPY_VARIABLE))
    for text in (*arguments, *given):
        remember(text)
    remember_value(os.environ.get("PGPASSWORD", ""))


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from spec_opt.models.device import is_out_of_memory

    return is_out_of_memory(error)
