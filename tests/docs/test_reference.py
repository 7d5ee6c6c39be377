"""The pages that describe the code move with it."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
from pydantic import BaseModel

import spec_opt.cli  # noqa: F401  # adds the commands
from spec_opt.cli.common import app
from spec_opt.config.limits import Constraints
from spec_opt.config.study_file import DataConfig, StudyConfig, read_study

ROOT = Path(__file__).parents[2]
REQUIRED: Final = {"name", "data.source", "data.context", "data.horizon"}
STUDY: Final = StudyConfig(name="x", data=DataConfig(source="x", context=96, horizon=96))
PAGES: Final = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_the_command_line_page_is_what_help_prints() -> None:
    check = [sys.executable, "docs/generate.py", "--check"]
    outdated = subprocess.run(check, cwd=ROOT, check=False).returncode
    assert not outdated, "run `python docs/generate.py`"


def keys(table: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a study file, with its default."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, BaseModel) and not isinstance(value, Constraints):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def documented() -> Iterator[tuple[str, str]]:
    """Every key in the tables of docs/study_file.md, with what stands in the column of defaults."""
    tables, in_table = [""], False
    for line in (ROOT / "docs/study_file.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            tables = [f"{table}." for table in re.findall(r"`\[([a-z.]+)\]`", line)] or [""]
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            in_table = cells[0] == "key" or (in_table and len(cells) >= 3)
            for key in re.findall(r"`([a-z_.]+)`", cells[0]) if in_table else ():
                yield from ((table + key, cells[1]) for table in tables)
        else:
            in_table = False


def test_the_recipe_for_two_checkpoints_is_a_study(tmp_path: Path) -> None:
    page = (ROOT / "docs/your_model.md").read_text(encoding="utf-8")
    text = page.split("## Two checkpoints and a CSV")[1].split("```toml\n")[1].split("```")[0]
    (tmp_path / "pair.toml").write_text(text, encoding="utf-8")
    study = read_study(str(tmp_path / "pair.toml"))
    assert (study.target.is_made, study.draft.is_made, study.decoding.rule) == (
        False,
        False,
        "point",
    )


def test_every_key_of_a_study_file_is_documented_with_its_default() -> None:
    defaults, page = dict(keys(STUDY)), dict(documented())
    assert sorted(page) == sorted(defaults)
    for key, cell in page.items():
        default = defaults[key]
        shown = re.findall(r"`([^`]+)`", cell)
        if key in REQUIRED:
            assert cell == "required", key
        elif shown and default is not None:
            values = [tomllib.loads(f"x = {one}")["x"] for one in shown]
            wanted = list(default) if isinstance(default, tuple) else default
            assert wanted in values, key
        elif not shown:  # no default, or one in words
            assert not default or isinstance(default, Constraints), key


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every spec-opt command in a block of shell lines, with the page it is on."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(re.sub(r"\$\([^)]*\)", "x", line), comments=True)
                if "spec-opt" in words:
                    rest = words[words.index("spec-opt") + 1 :]
                    ends = [i for i, word in enumerate(rest) if word in {"&", "&&", ";", "|", ">"}]
                    yield page.name, rest[: min(ends, default=len(rest))]


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_commands_in_the_docs_exist_with_their_options(page: str, words: list[str]) -> None:
    name, *arguments = words
    command = app.get_command(click.Context(app), name)
    assert command is not None, page
    command.make_context(name, arguments, resilient_parsing=True)
