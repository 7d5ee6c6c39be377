"""A place to try a fault in, and the table of those who do: see `faults`."""

import functools
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAIR = ROOT / "tests" / "files"
LONGEST_S = 30.0
STORE = "--storage sqlite:///s.db"
STUDY = f"""
name = "case"
[search]
sampler = "grid"
sigma = [0.5]
bias = [1.0]
k = [1, 2]
[data]
source = "plant.csv"
context = 24
horizon = 24
max_windows = 2
[target]
checkpoint = "{PAIR / "tiny_target.pth"}"
[draft]
checkpoint = "{PAIR / "tiny_draft.pth"}"
[bench]
seconds = 0.0
"""
SERIES = "date,load\n" + "".join(
    f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{(i * 7919) % 101}.5\n" for i in range(480)
)


@dataclass(frozen=True)
class Seen:
    """What became of a command."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def last_line(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""

    def wrong(self, *codes: int) -> str | None:
        """What is wrong whatever the fault was; None if nothing is."""
        if "Traceback" in self.out + self.err:
            return f"a traceback: {self.last_line}"
        if self.seconds > LONGEST_S:
            return f"took {self.seconds:.0f} s"
        if self.code not in codes:
            return f"exit code {self.code}: {self.last_line}"
        return None


class WrongError(Exception):
    """A row is not right; the text says what was seen."""


@dataclass
class Place:
    """A folder of one's own to try a fault in."""

    folder: Path
    tree: Path
    notes: list[str] = field(default_factory=list)

    def shell(self, script: str, **environment: str) -> Seen:
        """Run a shell's script, in which `spec-opt` is the one of the tree."""
        spec_opt = f'spec-opt() {{ {shlex.quote(sys.executable)} -m spec_opt "$@"; }}; '
        own = {
            "PYTHONPATH": str(self.tree),
            "OMP_NUM_THREADS": "1",
            "SPEC_OPT_CACHE": str(self.folder / "cache"),
        }
        started = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", spec_opt + script],
            cwd=self.folder,
            env=os.environ | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=2 * LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, err = process.communicate()
        return Seen(process.returncode, out, err, time.monotonic() - started)

    def right(self, script: str, *codes: int, **environment: str) -> Seen:
        """Run a script that must do its work, or with `codes` say in a line why it does not."""
        seen = self.shell(script, **environment)
        if (problem := seen.wrong(*(codes or (0,)))) is not None:
            raise WrongError(problem)
        if seen.code:
            self.notes.append(f"{seen.code}, {seen.last_line.removeprefix('spec-opt: error: ')}")
        return seen

    def execute(self, *statements: str) -> None:
        """Change the store behind spec-opt's back."""
        with closing(sqlite3.connect(self.folder / "s.db")) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


def expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise WrongError(otherwise)


Row = Callable[[Place], str]
ROWS: dict[str, Row] = {}
"""What was tried -> the function that tries it, and says what it saw."""


def row(title: str) -> Callable[[Row], Row]:
    def add(function: Row) -> Row:
        ROWS[title] = function
        return function

    return add


@functools.cache
def finished(tree: Path) -> Path:
    """A folder in which the study has been run."""
    folder = Path(tempfile.mkdtemp(prefix="spec-opt-faults-"))
    place = Place(folder, tree)
    place.write("study.toml", STUDY)
    place.write("plant.csv", SERIES)
    seen = place.shell(f"spec-opt run study.toml {STORE}")
    expect(seen.code == 0, seen.err)
    place.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def try_row(title: str, tree: Path) -> tuple[bool, str]:
    """Whether a row is right, and what was seen."""
    with tempfile.TemporaryDirectory(prefix="spec-opt-fault-") as name:
        folder = Path(name)
        shutil.copytree(finished(tree), folder, dirs_exist_ok=True)
        place = Place(folder, tree)
        try:
            return True, ROWS[title](place).replace(str(folder), "…")
        except WrongError as problem:
            return False, str(problem).replace(str(folder), "…")


def table(titles: Iterable[str], tree: Path) -> bool:
    """Print the table; whether every row is right."""
    print("| tried | right | seen |\n|---|---|---|")
    good = True
    for title in titles:
        right, seen = try_row(title, tree)
        good &= right
        cells = (text.replace("|", "\\|") for text in (title, "yes" if right else "NO", seen))
        print(f"| {' | '.join(cells)} |", flush=True)
    return good
