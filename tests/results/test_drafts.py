"""The drafts of a study, compared at the same settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spec_opt.config.study_file import Setting
from spec_opt.config.variants import AS_WRITTEN
from spec_opt.results.drafts import drafts_of, fronts_by_draft, what_moves_the_front
from spec_opt.results.report import write_report
from spec_opt.results.table import Point, StudyTable, read_table
from tests.results import studies

SETTINGS = [Setting(sigma=sigma, bias=1.0, k=2) for sigma in (0.1, 0.2, 0.4)]


def table_of(**drafts: float) -> StudyTable:
    """Variants by their noise; each draft adds so much to the acceptance of every setting."""
    study = studies.empty_study("drafts")
    for name, lift in {"as_written": 0.0, **drafts}.items():
        for setting in SETTINGS:
            about: dict[str, Any] = (
                {} if name == "as_written" else {"variant": {"teacher_noise": float(name[1:])}}
            )
            acceptance = 0.3 + setting.sigma + lift
            trial = studies.complete(setting, acceptance, 0.45 + 0.1 * setting.sigma, **about)
            study.add_trial(trial)
    return read_table(study)


def test_a_study_of_one_draft_compares_nothing() -> None:
    table = table_of()
    assert drafts_of(table) == ()
    assert what_moves_the_front(()) == ""
    assert fronts_by_draft(table) is None


def test_the_draft_that_moves_the_front_is_named() -> None:
    table = table_of(n1=0.2, n2=0.01, n3=0.0)
    first, *others = drafts_of(table)
    assert first.name == "as the study file has it"
    assert first.acceptance is None
    assert [draft.name for draft in others] == [f"teacher_noise={n}" for n in (1, 2, 3)]
    clear = others[0].acceptance
    assert clear is not None
    assert clear.mean == pytest.approx(0.2, abs=0.02)
    assert (clear.mattering, clear.settings) == (3, 3)
    text = what_moves_the_front(drafts_of(table))
    assert text.startswith("The front moves most with teacher_noise=1, outwards: hypervolume ")
    assert "teacher_noise=3" in text.split("No difference that matters: ")[1]


def test_what_is_within_the_noise_moves_nothing() -> None:
    text = what_moves_the_front(drafts_of(table_of(n3=0.0)))
    assert text.startswith("None of 1 other draft makes a difference that matters")


def test_a_certain_difference_that_is_tiny_does_not_matter() -> None:
    table = table_of(n1=0.0)
    points: list[Point] = []
    for point in table.points:
        blocks = point.result.blocks
        if point.variant != AS_WRITTEN:  # every block a trace worse: no noise in the difference
            other = points[len(points) - len(SETTINGS)].result.blocks
            assert other is not None
            blocks = replace(other, mse=tuple(mse + 1e-5 for mse in other.mse))
        points.append(replace(point, result=replace(point.result, blocks=blocks)))
    first, draft = drafts_of(
        StudyTable(name="tiny", trials=tuple(points), config=None, baseline=table.baseline)
    )
    assert draft.mse is not None
    assert draft.mse.mean == pytest.approx(1e-5)
    assert (draft.mse.mattering, draft.mse.settings) == (0, 3)
    assert "makes a difference that matters" in what_moves_the_front((first, draft))


def test_the_report_draws_the_fronts_over_each_other(tmp_path: Path) -> None:
    table = table_of(n1=0.2, n2=-0.1)
    figure = fronts_by_draft(table)
    assert figure is not None
    assert [line.name for line in figure.data] == [draft.name for draft in drafts_of(table)]
    write_report(table, tmp_path, storage="sqlite:///store.db", command="spec-opt report drafts")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "fronts_by_draft" in page
    assert "The front moves most with" in (tmp_path / "summary.md").read_text(encoding="utf-8")
