"""Imports run one way; heavy ones wait; `print` stays in the command line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spec_opt

PACKAGE = Path(spec_opt.__file__).parent

# A file imports only from files above it.
ORDER = [
    "errors",
    "config_messages",
    "config_values",
    "config_models",
    "config",
    "measurement",
    "synthetic",
    "series",
    "data",
    "models.device",
    "models.forecaster",
    "models.layers",
    "models.memory",
    "models.timer_xl",
    "models.foreign",
    "models.checkpoint",
    "models.model_cache",
    "models.lessons",
    "models.training",
    "decoding.noise",
    "decoding.acceptance",
    "decoding.contexts",
    "decoding.autoregressive",
    "decoding.speculative",
    "decoding.workload",
    "decoding.batches",
    "decoding.prefix_tree",
    "decoding.tree_grower",
    "decoding.prefix_cache",
    "uncertainty",
    "speed",
    "timing",
    "cost_learning",
    "evaluation",
    "tuning.space",
    "tuning.protocol",
    "tuning.provenance",
    "tuning.objective",
    "tuning.store_url",
    "tuning.retry",
    "tuning.engine",
    "tuning.store",
    "tuning.records",
    "tuning.ledger",
    "tuning.agenda",
    "tuning.study",
    "tuning.claims",
    "tuning.progress",
    "tuning.worker",
    "tuning.launch",
    "tuning.ray_cluster",
    "results.quiet",
    "results.attributes",
    "results.table",
    "results.wording",
    "results.frame",
    "results.bounds",
    "results.noise",
    "results.advice",
    "results.recommend",
    "results.statistics",
    "results.render",
    "results.front",
    "results.benchmark",
    "results.figure_style",
    "results.scatter_plots",
    "results.grouped_plots",
    "results.plots",
    "results.export",
    "results.confirmation",
    "results.old_tables",
    "results.importing",
    "results.report_tables",
    "results.report_page",
    "results.report",
    "results.dashboard_pages",
    "results.dashboard",
    "bench",
    "interrupts",
    "status",
    "live",
    "service",
    "takeaway",
    "cli.common",
    "cli.running",
    "cli.results",
    "__main__",
]

TORCH_FREE = (
    "cli",
    "results.report",
    "results.dashboard",
    "config",
    "measurement",
    "service",
    "tuning.worker",
    "results.export",
)


def modules() -> list[str]:
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts) for path in found if path.name != "__init__")


def imported(name: str) -> Iterator[str]:
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == modules()


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_one_way(name: str) -> None:
    allowed = set(ORDER[: ORDER.index(name)])
    ours = {i.removeprefix("spec_opt.") for i in imported(name) if i.startswith("spec_opt.")}
    assert ours & set(ORDER) <= allowed


@pytest.mark.parametrize("name", ORDER)
def test_optuna_stays_in_tuning_and_results(name: str) -> None:
    if not name.startswith(("tuning.", "results.")):
        assert not {i for i in imported(name) if i.split(".")[0] in ("optuna", "sqlalchemy")}


@pytest.mark.parametrize("name", ORDER)
def test_print_stays_in_the_command_line(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert name.startswith("cli.") or "print" not in calls


def test_torch_waits_for_the_commands_that_need_it() -> None:
    lines = [f"import spec_opt.{name}" for name in TORCH_FREE]
    code = "\n".join(["import sys", *lines, "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_heavy_package() -> None:
    heavy = "{'torch', 'optuna', 'pandas', 'pydantic'}"
    code = f"import sys, spec_opt.cli; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
