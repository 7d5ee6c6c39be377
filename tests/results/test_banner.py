"""The head of a page: what the verdict advises, and how sure its numbers are."""

from dataclasses import asdict, replace

import pytest

from spec_opt.results.document import as_html, as_markdown
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import advice, banner, heading_of, study_text
from spec_opt.results.report import summary
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import StudyTable, read_table
from spec_opt.results.verdict import verdict_of
from tests.results import studies

DRAFT = Speedup(None, "cpu", 1, None, 14.73, 6.058, 35.42, 9, 0.0742, 0.575)
SMALL = Speedup(0, "cpu", 1, 0.5, 1.974, 1.506, 4.489, 9, 0.0742, 0.575)
LARGE = Speedup(0, "cpu", 64, 0.5, 1.4, 1.4, 1.4, 1, 0.9, 0.9)


def table_of(*speedups: Speedup) -> StudyTable:
    study = studies.study_of((1.0, 1.0, 4, 1.0, 0.433))
    study.set_user_attr("speedups", [asdict(one) for one in speedups])
    return read_table(study)


DRAFT_ALONE = table_of(DRAFT, SMALL, LARGE)


def test_a_draft_alone_comes_with_its_command_before_any_setting() -> None:
    verdict, recommendations = verdict_of(DRAFT_ALONE), recommend_all(DRAFT_ALONE)
    assert verdict.decision == "draft_alone"
    assert heading_of(verdict) == "If you speculate all the same"
    assert "spec-opt forecast given --input FILE.csv" in as_markdown([banner(verdict, DRAFT_ALONE)])
    text = summary(DRAFT_ALONE, verdict, recommendations, ())
    assert text.index("spec-opt forecast") < text.index("## If you") < text.index("--spec_sigma")
    assert "The verdict is: use the draft alone." in as_markdown(
        advice(recommendations, DRAFT_ALONE, verdict)
    )
    ended = " ".join(study_text(DRAFT_ALONE, "given").split())
    assert "If you speculate all the same: - Maximize speed" in ended
    assert "Forecast with the draft alone: `spec-opt forecast given`." in ended


def test_the_banner_says_how_sure_its_numbers_are() -> None:
    html = as_html([banner(verdict_of(DRAFT_ALONE), DRAFT_ALONE)])
    for text in (
        "about 15x as fast as the target alone at batch size 1",
        "equal runs of the target alone took 74.2 to 575 ms at batch size 1",
        "<dt>measured speedup</dt><dd>about 15x at batch size 1</dd>",
        "<dt>in 9 runs</dt><dd>6.1x to 35x</dd>",
        "<dt>MSE / target&#x27;s</dt><dd>0.983</dd>",
        "<dt>95 % interval</dt><dd>0.965 to 1.001</dd>",
        "<dt>windows</dt><dd>255</dd>",
    ):
        assert text in html
    assert "14.7" not in html


def test_a_quiet_machine_is_not_called_busy() -> None:
    quiet = replace(DRAFT, speedup_low=14.0, speedup_high=15.0, target_high_s=0.08)
    table = table_of(quiet, replace(SMALL, target_high_s=0.08))
    assert "busy" not in verdict_of(table).reason


def test_one_trial_for_three_scenarios_has_one_reason_and_all_its_timings() -> None:
    table = read_table(studies.grid_study())
    table = table.model_copy(update={"speedups": (SMALL, LARGE)})
    number = recommend_all(table)[2].trial
    timed = tuple(replace(one, trial=number) for one in (SMALL, LARGE))
    table = table.model_copy(update={"speedups": timed})
    text = as_markdown(advice(recommend_all(table), table, verdict_of(table)))
    assert (
        "about 2x at batch size 1 (1.5x to 4.5x in 9 runs), 1.40x at batch size 64 (1 run)" in text
    )
    assert f"Trial {number} has the " in text


@pytest.mark.parametrize("table", [read_table(studies.grid_study())])
def test_a_verdict_for_or_without_speculation_keeps_its_heading(table: StudyTable) -> None:
    verdict = verdict_of(table)
    assert verdict.decision == "unknown"
    assert heading_of(verdict) == "Which setting to use"
    assert "spec-opt forecast" not in as_markdown([banner(verdict, table)])
