"""A linear model alone beside target and draft, in everything that shows results."""

import json
from typing import Any

import pytest

from spec_opt.results.dashboard import contents
from spec_opt.results.figures import figures
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import render, study_text
from spec_opt.results.report import summary
from spec_opt.results.table import StudyTable, read_table
from spec_opt.results.verdict import verdict_of
from spec_opt.results.wording import linear_alone
from tests.results import studies

TARGET, DRAFT = studies.BASELINE["target_mse"], studies.BASELINE["draft_mse"]
LEVELS = f"Target alone: MSE {TARGET:.4f}. Draft alone: MSE {DRAFT:.4f}."


def table_of(mse: float | None, half_width: float | None = None) -> StudyTable:
    baseline: dict[str, Any] = studies.BASELINE | {
        "linear_mse": mse,
        "linear_minus_target_mse_ci95": half_width,
    }
    results = ((0.1, 1.0, 4, 0.5, 0.4408), (0.25, 1.0, 4, 0.916, 0.4452))
    return read_table(studies.study_of(*results, baseline=baseline))


@pytest.mark.parametrize(
    ("mse", "half_width", "finding"),
    [
        (
            0.42,
            0.01,
            "A linear model alone is more accurate than the target (MSE 0.4200 against 0.4404, "
            "difference -0.0204 ±0.0100): `spec-opt forecast given --with linear` forecasts with "
            "neither target nor draft.",
        ),
        (0.441, 0.002, "A linear model alone is as accurate as the target (MSE 0.4410 against"),
        (0.42, 0.05, "A linear model alone is not distinguishable from the target in accuracy"),
        (0.42, None, "difference -0.0204 of unknown noise): more windows may settle it."),
    ],
)
def test_the_verdict_says_that_it_forecasts_as_well(
    mse: float, half_width: float | None, finding: str
) -> None:
    verdict = verdict_of(table_of(mse, half_width))
    assert finding in verdict.reason
    ratio = verdict.document()["linear_mse_ratio"]
    assert ratio["value"] == pytest.approx(mse / TARGET)
    assert (ratio["high"] is None) == (half_width is None)


def test_one_that_errs_more_than_the_draft_is_not_advised_beside_it() -> None:
    found = linear_alone(table_of(0.441, 0.002), "given", DRAFT)
    assert found is not None
    assert found.endswith("±0.0020): the MSE of the draft alone is lower, 0.4330.")


@pytest.mark.parametrize(
    ("mse", "half_width"),
    [
        (0.5, 0.01),
        (0.45, 0.05),  # what is not settled counts only below the target's
        (0.45, None),
        (DRAFT, 0.01),  # the draft is that linear model
        (TARGET, 0.0),  # the target is
        (None, None),  # a study of an older version
    ],
)
def test_otherwise_it_says_nothing(mse: float | None, half_width: float | None) -> None:
    assert "inear" not in verdict_of(table_of(mse, half_width)).reason


def test_it_does_not_change_the_decision() -> None:
    without, found = verdict_of(table_of(None)), verdict_of(table_of(0.3, 0.001))
    assert found.decision == without.decision
    assert found.reason.startswith(without.reason)


def test_it_is_shown_beside_target_and_draft() -> None:
    table = table_of(0.45, 0.001)
    chosen, verdict = recommend_all(table), verdict_of(table)
    line = f"{LEVELS} Linear model alone: MSE 0.4500."
    for text in (
        study_text(table, "x.toml", 500),
        render(chosen, "text", table=table, verdict=verdict, width=500),
        summary(table, verdict, chosen, ()),
        contents(table).note,
    ):
        assert line in text.replace("\n", " ")
    document = json.loads(render(chosen, "json", table=table, verdict=verdict))
    assert document["baseline"] == {"target_mse": TARGET, "draft_mse": DRAFT, "linear_mse": 0.45}


def test_no_model_is_shown_twice() -> None:
    """The draft may be that linear model; its MSE then differs by rounding alone."""
    for mse in (DRAFT * (1 + 1e-8), None):
        table = table_of(mse, 0.001)
        assert table.levels == {"target alone": TARGET, "draft alone": DRAFT}
        assert LEVELS in study_text(table, "x.toml", 500)
        assert "inear" not in study_text(table, "x.toml", 500)


def lines_of(table: StudyTable, name: str) -> set[str]:
    """The horizontal lines of a figure, by the beginning of their names."""
    shapes = figures(table, recommend_all(table))[name].layout.shapes
    return {shape.name.split(":")[0] for shape in shapes if shape.name}


def test_figures_have_a_line_for_it_unless_it_is_far_off() -> None:
    names = {"target alone", "draft alone"}
    for figure in ("acceptance_vs_mse", "pareto_frontier"):
        assert lines_of(table_of(0.43, 0.001), figure) == {*names, "linear model alone"}
        assert lines_of(table_of(7.0, 0.001), figure) == names
