"""The Pareto front as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spec_opt.results.table import Point, StudyTable
from spec_opt.results.wording import acceptance_text, aligned, mse_text, relative, setting_cells

_HEADINGS = ("trial", "sigma", "bias", "k", "acceptance", "MSE", "against target", "patches/round")


def front_text(table: StudyTable) -> str:
    """The front from the highest acceptance down, and the baselines.

    Settings with equal results are one line, the mildest of them named.
    """
    if not table.front:
        return "No trial has completed yet."
    blocks = table.distinct_front
    rows = [_HEADINGS, *(_row(block, table.target_mse) for block in blocks)]
    if "speedup" in table.objectives:
        speedups = [f"{block[0].result.predicted_speedup or math.nan:.2f}" for block in blocks]
        column = ["predicted speedup", *speedups]
        rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
    lines = [f"Pareto front of {table.name}: {_size(table, len(blocks))}", ""]
    heading, *body = aligned(rows)
    lines.append(heading)
    for line, block in zip(body, blocks, strict=True):
        alike = f"  (and {len(block) - 1} with equal results)" if len(block) > 1 else ""
        lines.append(f"{line}{alike}")
    return "\n".join([*lines, "", *_baselines(table)])


def _size(table: StudyTable, distinct: int) -> str:
    among = f"of {len(table.points)} completed trials, {len(table.front)} are on the front"
    return among if distinct == len(table.front) else f"{among}, with {distinct} distinct results"


def _row(block: Sequence[Point], target_mse: float | None) -> tuple[str, ...]:
    point = block[0]
    result = point.result
    return (
        str(point.number),
        *setting_cells(point.setting),
        acceptance_text(result),
        mse_text(result),
        "" if target_mse is None else relative(result.mse, target_mse),
        "" if result.patches_per_round is None else f"{result.patches_per_round:.2f}",
    )


def _baselines(table: StudyTable) -> list[str]:
    lines = [f"{name.capitalize()}: MSE {mse:.4f}." for name, mse in table.levels.items()]
    return [" ".join(lines)] if lines else []
