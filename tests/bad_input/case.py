"""A case of the corpus: what a person brings, and what spec-opt must answer.

To add cases, write rows like those in `series.py` into a module of their own and list it in
`test_corpus.py`. A row has an id, the files of the working folder, a command line, the exit code
and words that must appear. What must hold for every case is in `test_corpus.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAIR = Path(__file__).parent.parent / "files"

Content = str | bytes | Callable[[Path], object]
"""Text, bytes, or what writes the file at a path."""


@dataclass(frozen=True)
class Case:
    """One row of the corpus."""

    id: str
    files: Mapping[str, Content]
    """Path in the working folder -> content."""
    words: tuple[str, ...]
    """Each must appear on stdout or stderr; of the error's line if the exit code is not 0."""
    exit_code: int = 2
    command: str = "train study.toml"
    environment: Mapping[str, str] = field(default_factory=dict)
    is_script: bool = False
    """Whether the command is a shell's, in which `spec-opt` is a process."""
    before: str = ""
    """A shell's command that gives the folder to another user: permissions then hold for the
    command, which runs in a process of its own."""

    def write(self, folder: Path) -> None:
        """Put the files into the working folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())


def study(data: str = 'source = "plant.csv"', more: str = "") -> str:
    """A study file around the tiny pair, so that nothing trains; 48 rows make a window.

    Args:
        data: lines of `[data]`.
        more: further tables.
    """
    return f"""
name = "case"
[data]
context = 24
horizon = 24
{data}
[target]
checkpoint = "{PAIR / "tiny_target.pth"}"
[draft]
checkpoint = "{PAIR / "tiny_draft.pth"}"
{more}
"""
