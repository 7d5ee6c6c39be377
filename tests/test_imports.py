"""Imports run one way through the rooms; heavy ones wait; `print` stays in the command line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import spec_opt

PACKAGE = Path(spec_opt.__file__).parent

ROOMS = [
    "cli",
    "api",
    "results",
    "study",
    "measure",
    "decoding",
    "models",
    "data",
    "config",
    "errors",
]
"""A file imports from its own room and from rooms to the right."""

HOMES = {
    "optuna": ("study", "results", "api"),
    "sqlalchemy": ("study", "results"),
    "click": ("cli",),
    "torch": ("data", "models", "decoding", "measure"),
    "timesfm": ("models",),
}
"""Rooms that may import a library."""

PRIVATE_OPTUNA = ("study.store", "study.trials")
"""Files that may import Optuna's private modules."""

TORCH_FREE = ("cli", "api", "config", "results", "study", "measure.measurement")
"""Importing these, and all files of these rooms, does not bring torch."""


def modules() -> list[str]:
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in found)


MODULES = [name for name in modules() if name not in ("__init__", "__main__")]


@cache
def tree_of(name: str) -> ast.Module:
    path = PACKAGE / name.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(name: str) -> Iterator[str]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    return name.split(".")[0]


def test_every_file_stands_in_a_room() -> None:
    assert {room_of(name) for name in MODULES} == set(ROOMS)


def test_imports_run_one_way() -> None:
    for name in MODULES:
        allowed = ROOMS[ROOMS.index(room_of(name)) :]
        ours = {i.removeprefix("spec_opt.") for i in imported(name) if i.startswith("spec_opt.")}
        assert {room_of(i) for i in ours} & set(ROOMS) <= set(allowed), name


def test_libraries_stay_in_their_rooms() -> None:
    for name in MODULES:
        libraries = {i.split(".")[0] for i in imported(name)} & HOMES.keys()
        assert not {library for library in libraries if room_of(name) not in HOMES[library]}, name


def test_private_parts_of_optuna_stay_in_the_store() -> None:
    for name in MODULES:
        private = {i for i in imported(name) if i.startswith("optuna.") and "._" in i}
        assert not private or name in PRIVATE_OPTUNA, name


def test_print_stays_in_the_command_line() -> None:
    for name in MODULES:
        calls = {
            node.func.id
            for node in ast.walk(tree_of(name))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert room_of(name) == "cli" or "print" not in calls, name


def test_torch_waits_for_the_commands_that_need_it() -> None:
    free = [m for m in MODULES if m in TORCH_FREE or room_of(m) in TORCH_FREE]
    lines = [f"import spec_opt.{name}" for name in free]
    code = "\n".join(["import sys", *lines, "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_heavy_package() -> None:
    heavy = "{'torch', 'optuna', 'pandas', 'pydantic'}"
    code = f"import sys, spec_opt.cli; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_itself_needs_no_heavy_package() -> None:
    heavy = "{'torch', 'optuna', 'pandas', 'pydantic', 'plotly', 'tqdm'}"
    code = f"import sys, spec_opt; dir(spec_opt); sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", spec_opt.__all__)
def test_what_the_package_offers_is_there_and_documented(name: str) -> None:
    offered = getattr(spec_opt, name)
    assert name == "__version__" or offered.__doc__
