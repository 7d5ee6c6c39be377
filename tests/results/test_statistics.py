"""The front's noise, extremes, and each value of a parameter."""

import math

import optuna
import pytest

from spec_opt.config.study_file import RecommendConfig, Setting
from spec_opt.results import statistics
from spec_opt.results.table import StudyTable, outcome_of, read_table
from spec_opt.study.space import PARAMETERS
from tests.results import studies

TITLES = ("Highest acceptance", "Lowest MSE", "Best balanced")
GRID = read_table(studies.grid_study())
DEFAULTS = RecommendConfig()


def with_noise(*results: tuple[float, float], own: float | None = 0.002) -> StudyTable:
    """Trials given as acceptance and MSE; `own`: what windows err by beside what they share."""
    study = studies.empty_study(baseline=None)
    for number, (acceptance, mse) in enumerate(results):
        setting = Setting(sigma=0.1 * (number + 1), bias=1.0, k=1)
        blocks = None
        if own is not None:
            blocks = studies.blocks(acceptance, mse, str(number), own=own)
        study.add_trial(studies.complete(setting, acceptance, mse, blocks=blocks))
    return read_table(study)


def test_a_member_far_from_all_others_is_clear() -> None:
    members = statistics.noise_aware_front(with_noise((0.9, 0.50), (0.5, 0.45), (0.4, 0.6)))
    assert [member.points[0].number for member in members] == [0, 1]
    assert [member.standing for member in members] == ["clear", "clear"]
    assert all(member.tied_with == () for member in members)


def test_a_trial_within_noise_makes_a_tie_even_from_behind_the_front() -> None:
    # Trial 1 is dominated by trial 0, but only by less than the noise.
    (member,) = statistics.noise_aware_front(with_noise((0.9, 0.5000), (0.9, 0.5001)))
    assert member.points[0].number == 0
    assert member.standing == "tie"
    assert member.tied_with == (1,)


def test_equal_values_are_one_result_and_no_tie() -> None:
    (member,) = statistics.noise_aware_front(with_noise((0.9, 0.5), (0.9, 0.5)))
    assert member.standing == "clear"
    assert [point.number for point in member.points] == [0, 1]


def test_a_plateau_of_thousands_is_one_result() -> None:
    study = studies.empty_study()
    study.add_trials(
        [
            studies.complete(Setting(sigma=0.001 * (n + 20), bias=1.0, k=1), 1.0, 0.5)
            for n in range(5000)
        ]
    )
    (member,) = statistics.noise_aware_front(read_table(study))
    assert len(member.points) == 5000


def test_without_blocks_the_standing_is_unknown() -> None:
    (member,) = statistics.noise_aware_front(with_noise((0.9, 0.5), own=None))
    assert member.standing == "unknown"


def test_with_three_objectives_the_standing_is_unknown() -> None:
    table = read_table(studies.three_objectives())
    assert {member.standing for member in statistics.noise_aware_front(table)} == {"unknown"}
    assert len(table.front) == 3


def test_spreads_of_the_grid() -> None:
    spreads = statistics.spreads(GRID.points)
    rows = studies.old_sweep_rows()
    assert spreads["MSE"].lowest == min(row["mse"] for row in rows)
    assert spreads["MSE"].mean == pytest.approx(math.fsum(row["mse"] for row in rows) / 80)
    assert spreads["seconds of measuring"].median == 0.31


def test_without_results() -> None:
    empty = read_table(studies.empty_study())
    assert statistics.spreads(empty.points) == {}
    assert not any(statistics.best(empty).values())
    assert statistics.by_value(empty) == ()


def test_the_best_distinct_results() -> None:
    best = statistics.best(GRID)
    acceptance, mse, balanced = (best[title] for title in TITLES)
    assert [len(groups) for groups in (acceptance, mse, balanced)] == [5, 5, 2]
    assert acceptance[0][0].number == 43
    assert len(acceptance[0]) == 8
    found = [points[0].result.mse for points in mse]
    assert found == sorted({p.result.mse for p in GRID.points})[:5]
    assert balanced[0][0].number == 43
    limit = DEFAULTS.balanced.min_acceptance
    assert all(p.result.acceptance_rate >= limit for points in balanced for p in points)
    for groups in (acceptance, mse, balanced):
        assert len({outcome_of(points[0]) for points in groups}) == len(groups)
        assert all(len({*map(outcome_of, points)}) == 1 for points in groups)


def test_optuna_is_quiet_only_within_the_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        with statistics.quiet_optuna():
            optuna.create_study()
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capsys.readouterr().err == ""


def test_is_one_value_consistently_good() -> None:
    found = {(v.bin.parameter, v.bin.low): v for v in statistics.by_value(GRID)}
    assert len(found) == 4 + 4 + 5
    assert found["sigma", 0.1].verdict == "never good"
    assert found["sigma", 0.1].trials == 20
    assert found["k", 4].verdict == "depends"
    generous = RecommendConfig.model_validate({"balanced": {"max_mse": 2.0, "min_acceptance": 0.5}})
    found = {
        (v.bin.parameter, v.bin.low): v
        for v in statistics.by_value(GRID.model_copy(update={"limits": generous}))
    }
    assert found["sigma", 0.5].verdict == "always good"
    assert found["sigma", 0.5].bin.label == "0.5"


def test_many_values_are_summarised_by_ranges() -> None:
    table = read_table(studies.continuous_study(300))
    found = [v for v in statistics.by_value(table) if v.bin.parameter == "sigma"]
    assert len(found) == statistics.BINS
    assert sum(v.trials for v in found) == 300
    assert "–" in found[0].bin.label
    assert found[0].bin.high <= found[1].bin.low
    assert found[0].acceptance_rate.mean < found[-1].acceptance_rate.mean


def test_ranges_hold_every_trial_once() -> None:
    points = read_table(studies.study_of(*((0.1 * n, n, n, 0.5, 0.5) for n in range(1, 65)))).points
    for parameter in PARAMETERS:
        bins = statistics.cut(points, parameter)
        assert len(bins) == statistics.BINS
        for point, place in zip(points, statistics.places_of(points, bins), strict=True):
            assert bins[place].low <= getattr(point.setting, parameter) <= bins[place].high
    assert [b.label for b in statistics.cut(points[:3], "k")] == ["1", "2", "3"]
