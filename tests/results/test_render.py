"""The front as a table for a terminal."""

import optuna
import pytest

from spec_opt.results.document import as_text
from spec_opt.results.render import front, study_text
from spec_opt.results.table import read_table
from spec_opt.results.verdict import verdict_of
from tests.results import studies


def test_equal_results_are_one_line() -> None:
    study = studies.study_of(
        (0.5, 2.0, 4, 1.0, 0.47),
        (0.5, 1.0, 4, 1.0, 0.47),
        (0.2, 1.0, 4, 0.7, 0.45),
        (0.3, 1.0, 4, 0.6, 0.46),
    )
    text = as_text(front(read_table(study)))
    rows = [cells for line in text.splitlines() if (cells := line.split()) and cells[0].isdigit()]
    size = "of 4 completed trials, 3 are on the front, with 2 distinct results"
    assert size in " ".join(text.split())
    assert len(rows) == 2
    # The mildest of the two equal ones is named.
    assert rows[0][:4] == ["1", "0.5", "1", "4"]
    assert rows[1][:4] == ["2", "0.2", "1", "4"]
    # The number of trials.
    assert (rows[0][-1], rows[1][-1]) == ("2", "1")


@pytest.mark.parametrize("study", [studies.grid_study(), studies.continuous_study(300)])
def test_a_run_ends_with_one_screen_and_the_verdict_first(study: optuna.Study) -> None:
    table = read_table(study)
    text = study_text(table, "some.toml", 80)
    assert text.startswith(verdict_of(table, "some.toml").reason[:40])
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 80
    assert "spec-opt recommend some.toml" in " ".join(text.split())


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
