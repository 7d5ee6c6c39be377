"""Examples at the end of every `--help`."""

from typing import Final

import click

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "bench": ("spec-opt bench etth1_grid", "spec-opt bench mine --sigma 0.2 --bias 2 --k 3"),
    "compare": ("spec-opt compare mine yours", "spec-opt compare mine yours -o compared.html"),
    "confirm": ("spec-opt confirm mine", "spec-opt confirm mine --trial 12 --split validation"),
    "copy": ("spec-opt copy mine --to postgresql://spec_opt@db.example/spec_opt",),
    "dashboard": ("spec-opt dashboard", "spec-opt dashboard mine --port 8081"),
    "export": ("spec-opt export mine", "spec-opt export mine --all -o trials.parquet"),
    "forecast": ("spec-opt forecast mine --input today.csv -o forecast.csv",),
    "import": ("spec-opt import mine sweep1.csv sweep2.csv",),
    "init": ("spec-opt init mine --from etth1_grid", "spec-opt init mine --csv series.csv"),
    "list": ("spec-opt list", "spec-opt list --storage sqlite:///other.db"),
    "recommend": (
        "spec-opt recommend mine",
        "spec-opt recommend mine --scenario speed --format flags",
    ),
    "report": ("spec-opt report mine -o results/mine",),
    "run": (
        "spec-opt run",
        "spec-opt run etth1_grid --workers 4",
        "spec-opt run mine.toml --gpus all",
    ),
    "show": ("spec-opt show etth1_grid",),
    "status": ("spec-opt status mine", "spec-opt status mine --watch"),
    "train": ("spec-opt train mine.toml",),
    "worker": ("spec-opt worker mine.toml --storage postgresql://spec_opt@db.example/spec_opt",),
}
"""By command."""


def add_examples(app: click.Group) -> None:
    """Put them under the help of the commands."""
    for name, lines in EXAMPLES.items():
        app.commands[name].epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
