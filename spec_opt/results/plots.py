"""The figures of a study by name: the guide's five, and two more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from spec_opt.errors import WorkError
from spec_opt.results.grouped_plots import (
    acceptance_by_position,
    acceptance_heatmap,
    k_effect,
    mse_heatmap,
)
from spec_opt.results.recommend import Recommendation
from spec_opt.results.scatter_plots import acceptance_vs_mse, pareto_frontier, speedup_vs_mse
from spec_opt.results.table import StudyTable

_OTHERS = (
    acceptance_vs_mse,
    acceptance_heatmap,
    mse_heatmap,
    k_effect,
    acceptance_by_position,
    speedup_vs_mse,
)
PLOTS = ("pareto_frontier", *(draw.__name__ for draw in _OTHERS))
"""Names of the figures, which are also the names of their files, in the order of the report."""


def figures(
    table: StudyTable, recommendations: Sequence[Recommendation] = ()
) -> dict[str, go.Figure]:
    """All figures by name, in the order of `PLOTS`; a study without trials gives figures too."""
    drawn = (pareto_frontier(table, recommendations), *(draw(table) for draw in _OTHERS))
    return dict(zip(PLOTS, drawn, strict=True))


def write_pngs(drawn: dict[str, go.Figure], folder: Path) -> list[Path]:
    """Write each figure as a picture, 900 pixels wide at double resolution.

    Raises:
        WorkError: kaleido or the browser that it needs is not there, or the browser failed.
    """
    paths = [folder / f"{name}.png" for name in drawn]
    try:
        with _quiet_browser():
            plotly.io.write_images(
                list(drawn.values()),
                [str(path) for path in paths],
                width=900,
                height=[figure.layout.height for figure in drawn.values()],
                scale=2,
            )
    except Exception as error:  # what a browser's driver may raise has no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkError(
            f"{first.rstrip('.')}. For PNGs: pip install 'spec-opt[png]', and install Chrome or "
            "Chromium (or name one in BROWSER_PATH)"
        ) from error
    return paths


@contextmanager
def _quiet_browser() -> Iterator[None]:
    """Keep the browser's driver from logging messages that it says it ignores."""
    driver = logging.getLogger("choreographer")
    before = driver.level
    driver.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        driver.setLevel(before)
