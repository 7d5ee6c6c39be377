"""Write the pages that are made from the code: docs/command_line.md, from `--help`.

    python docs/generate.py [--check]

With --check nothing is written, and the exit code says whether the pages are up to date.
"""

import sys
from pathlib import Path

import click

import spec_opt.cli  # noqa: F401  # adds the commands
from spec_opt.cli.common import app

PAGE = Path(__file__).with_name("command_line.md")
HEAD = """\
# The command line

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the work failed, 2 bad
input, 130 interrupted; the same command resumes.
"""
WIDTH = 90


def command_line() -> str:
    """The page: the help of every command, as the terminal shows it."""
    parts = [HEAD]
    for name in app.list_commands(click.Context(app)):
        command = app.get_command(click.Context(app), name)
        assert command is not None
        context = click.Context(
            command,
            parent=click.Context(app, info_name="spec-opt"),
            info_name=name,
            terminal_width=WIDTH,
            max_content_width=WIDTH,
        )
        parts.append(f"## spec-opt {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    page = command_line()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
