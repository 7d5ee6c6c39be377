"""The notebooks in docs/ run from top to bottom."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent.parent / "docs" / "notebooks"


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def result(cell: dict[str, Any], kind: str = "text/plain") -> str:
    """What a cell shows last."""
    shown = [output["data"] for output in cell["outputs"] if "data" in output]
    return "".join(shown[-1][kind])


def test_quickstart_runs(tmp_path: Path) -> None:
    copy = shutil.copy(NOTEBOOKS / "quickstart.ipynb", tmp_path)
    execute = "from nbclient.cli import main; main()"
    # In a process of its own: Jupyter leaves sockets open.
    done = subprocess.run(
        [sys.executable, "-c", execute, "--inplace", copy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened, ran, frame, choice, verdict, figures, trials = code_cells(tmp_path / "quickstart.ipynb")
    store = f"sqlite:///{tmp_path}/notebook.db"
    assert result(opened) == f"<TuningStudy notebook in {store}: not run yet>"
    assert "of 18 completed trials" in result(ran, "text/html")
    progress = "".join(part for output in ran["outputs"] for part in output.get("text", []))
    assert "18/18" in progress
    assert "acceptance_rate" in result(frame, "text/html")
    assert result(choice).startswith("<Recommendation balanced: ")
    assert result(verdict).startswith("<Verdict ")
    assert "pareto_frontier" in result(figures)
    assert result(trials) == "18"


def test_notebooks_are_committed_without_output() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in code_cells(path):
            assert not cell["outputs"], path
            assert cell["execution_count"] is None, path
