"""The front as a table for a terminal."""

from spec_opt.results.document import as_text
from spec_opt.results.render import front
from spec_opt.results.table import read_table
from tests.results import studies


def test_equal_results_are_one_line() -> None:
    study = studies.study_of(
        (0.5, 2.0, 4, 1.0, 0.47),
        (0.5, 1.0, 4, 1.0, 0.47),
        (0.2, 1.0, 4, 0.7, 0.45),
        (0.3, 1.0, 4, 0.6, 0.46),
    )
    text = as_text(front(read_table(study)))
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert "of 4 completed trials, 3 are on the front, with 2 distinct results" in text
    assert len(lines) == 3
    # The mildest of the two equal ones is named.
    assert lines[1].split()[:4] == ["1", "0.5", "1", "4"]
    assert lines[1].endswith("(and 1 with equal results)")
    assert lines[2].split()[:4] == ["2", "0.2", "1", "4"]


def test_baselines_are_below() -> None:
    text = as_text(front(read_table(studies.grid_study())))
    assert "Target alone: MSE" in text
    assert "Draft alone: MSE" in text


def test_settings_of_a_continuous_sampler_are_rounded() -> None:
    study = studies.study_of((0.123456789012345, 1.98765432109876, 4, 0.7, 0.45))
    assert "  0.1235  1.988  4  " in as_text(front(read_table(study)))


def test_nothing_complete() -> None:
    assert as_text(front(read_table(studies.failing_study()))) == "No trial has completed yet."


def test_a_study_without_a_baseline() -> None:
    study = studies.study_of((0.2, 1.0, 4, 0.7, 0.45), baseline=None)
    assert "70.0%" in as_text(front(read_table(study)))
