"""The fastest setting at each batch size, from counters and learnt costs."""

import json
from dataclasses import asdict, replace

import pytest

from spec_opt.config.study_file import QualityScenario, RecommendConfig, SpeedScenario
from spec_opt.measure.cost_model import (
    BatchCosts,
    Cost,
    LearntCosts,
    acceptance_by_position,
    predicted_speedup,
)
from spec_opt.results.document import as_text
from spec_opt.results.figures import figures
from spec_opt.results.render import schedule_blocks
from spec_opt.results.schedule import doublings, schedule_of
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import StudyTable, read_table
from tests.results import studies
from tests.results.studies import COSTS, LEARNT, PLACE

TRIALS = [(0.3, 1.0, k, 0.9, 0.44) for k in (1, 2, 3, 4)]


def table(
    costs: LearntCosts = LEARNT,
    trials: list[tuple[float, float, int, float, float]] = TRIALS,
    *speedups: Speedup,
    batch_costs: tuple[BatchCosts, ...] = (),
) -> StudyTable:
    study = studies.study_of(*trials)
    study.set_user_attr("costs", {PLACE: asdict(costs)})
    study.set_user_attr("speedups", [asdict(one) for one in speedups])
    study.set_user_attr("batch_costs", [asdict(one) for one in batch_costs])
    return read_table(study)


def test_each_batch_size_has_the_setting_that_the_cost_model_predicts_to_be_the_fastest() -> None:
    found = schedule_of(given := table())
    assert [gain.batch_size for gain in found.best] == [1, 2, 4, 8, 16, 32, 64]
    for gain in found.best:
        speedups = {}
        for point in given.points:
            result = point.result
            assert result.accepted_by_position is not None
            assert result.tested_by_position is not None
            acceptance = acceptance_by_position(
                result.accepted_by_position, result.tested_by_position
            )
            speedup = predicted_speedup(acceptance, studies.PATCHES, COSTS, gain.batch_size)
            speedups[point.setting.k] = speedup
        fastest = max(speedups, key=lambda k: speedups[k])
        assert gain.point.setting.k == fastest
        assert gain.speedup == pytest.approx(speedups[fastest])
        for k, gains in found.by_k.items():
            (own,) = (one for one in gains if one.batch_size == gain.batch_size)
            assert own.speedup == pytest.approx(speedups[k])


def test_k_falls_with_the_load_until_the_target_is_better_alone() -> None:
    found = schedule_of(table())
    ks = [row[3] for row in found.rows]
    assert ks == sorted(ks, reverse=True)
    assert ks[0] > 1
    assert found.rows[-1] == (64, None, None, 0, 1.0)
    at_change = [gain.k for gain in found.best if gain.batch_size in found.changes]
    assert at_change == list(dict.fromkeys(ks))[1:]
    assert found.to_time == (1, *found.changes)
    # A change is confirmed between what is named before it and after it.
    assert {p.setting.k for p in found.rivals} >= {k for k in ks if k}
    assert json.loads(json.dumps(found.rows))[0][:4] == [1, 0.3, 1.0, ks[0]]


def test_counts_of_several_seeds_give_the_same_schedule() -> None:
    single = table()
    trials = [
        replace(p, result=replace(p.result, seeds=3, patches=3 * (p.result.patches or 0)))
        for p in single.points
    ]
    several = single.model_copy(update={"trials": tuple(trials)})
    assert schedule_of(several).rows == schedule_of(single).rows


def test_only_settings_within_the_bounds_of_the_scenario() -> None:
    trials = [(0.3, 1.0, 3, 0.9, 0.60), (0.2, 1.0, 3, 0.8, 0.45), (0.1, 1.0, 3, 0.5, 0.44)]
    found = schedule_of(table(LEARNT, trials))
    assert {gain.point.setting.sigma for gain in found.best} == {0.2}
    wide = RecommendConfig(speed=SpeedScenario(max_mse_ratio=2.0))
    loose = table(LEARNT, trials).model_copy(update={"limits": wide})
    assert schedule_of(loose, "speed").best[0].point.setting.sigma == 0.3
    strict = RecommendConfig(quality=QualityScenario(min_acceptance=0.95))
    none = schedule_of(loose.model_copy(update={"limits": strict}), "quality")
    assert none.best == ()
    assert "No trial has" in str(none.unknown)


def test_costs_of_a_batch_size_go_before_those_that_span_it() -> None:
    slow = replace(LEARNT, costs=replace(COSTS, draft_next=Cost(9.0, 0.0)), batch_sizes=(4,))
    found = schedule_of(table(batch_costs=(BatchCosts("cpu", 4, slow),)))
    plain = schedule_of(table())
    same = {g.batch_size: g.speedup for g in plain.best}
    for gain in found.best:
        assert (gain.speedup == same[gain.batch_size]) is (gain.batch_size != 4)


def test_nothing_is_predicted_beyond_what_was_timed() -> None:
    few = schedule_of(table(replace(LEARNT, batch_sizes=(1, 12))))
    assert [g.batch_size for g in few.best] == [1, 2, 4, 8, 12]
    alone = schedule_of(table(replace(LEARNT, batch_sizes=(16,))))
    assert [g.batch_size for g in alone.best] == [16]


def test_a_measured_speedup_goes_before_a_prediction() -> None:
    first = schedule_of(table()).best[0].point
    measured = Speedup(first.number, "cpu", 1, 2.0, 0.5, 0.4, 0.6, 5)
    found = schedule_of(table(LEARNT, TRIALS, measured))
    before = schedule_of(table())
    # Its prediction was the highest and did not hold: no other is believed at this batch size.
    assert found.rows[0] == (1, None, None, 0, 1.0)
    assert found.rows[1:] == before.rows[1:]
    assert ": 0.50 measured" in as_text(schedule_blocks(found), 120)


def test_a_batch_size_without_costs_has_what_was_measured_there() -> None:
    measured = [Speedup(k - 1, "cpu", 128, None, 1.0 + k / 10, 1.0, 2.0, 5) for k in (2, 3)]
    found = schedule_of(table(LEARNT, TRIALS, *measured))
    assert found.rows[-1][:4] == (128, 0.3, 1.0, 3)
    assert found.best[-1].speedup == pytest.approx(1.3)
    assert [k for k, gains in found.by_k.items() if gains[-1].batch_size == 128] == [2, 3]
    elsewhere = replace(measured[0], device="NVIDIA H200")
    assert schedule_of(table(LEARNT, TRIALS, elsewhere, measured[1])).best[-1].batch_size == 128


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        (replace(LEARNT, batch_sizes=()), "is not known yet: `spec-opt bench given --schedule`"),
        (replace(LEARNT, spread=0.6), "varied by 60%): `spec-opt bench given --schedule` learns"),
    ],
)
def test_where_costs_are_not_known_it_says_what_makes_them_known(
    costs: LearntCosts, says: str
) -> None:
    found = schedule_of(given := table(costs))
    assert found.rows == []
    assert says in str(found.unknown)
    assert says.split("`")[0] in " ".join(as_text(schedule_blocks(found), 80).split())
    assert figures(given)["speedup_by_batch_size"].layout.annotations[0].text


def test_without_costs_the_schedule_of_what_was_measured_says_why_nothing_is_predicted() -> None:
    measured = Speedup(1, "cpu", 64, None, 1.2, 1.1, 1.3, 5)
    found = schedule_of(table(replace(LEARNT, spread=0.26), TRIALS, measured))
    assert [row[0] for row in found.rows] == [64]
    said = " ".join(as_text(schedule_blocks(found), 80).split())
    assert "Nothing is predicted. What decoding costs is not known (timings of the" in said
    assert "varied by 26%): `spec-opt bench given --schedule` learns it on an idle machine." in said
    assert "Predictions rest" not in said


def test_the_figure_has_a_line_for_each_k_and_the_fastest_on_top() -> None:
    found, figure = schedule_of(table()), figures(table())["speedup_by_batch_size"]
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines) == ["k = 1", "k = 2", "k = 3", "k = 4", "fastest"]
    assert list(lines["fastest"].y) == [gain.speedup for gain in found.best]
    for index, best in enumerate(lines["fastest"].y):
        assert best == max(lines[f"k = {k}"].y[index] for k in found.by_k)


def test_doublings() -> None:
    assert doublings(1) == [1]
    assert doublings(64) == [1, 2, 4, 8, 16, 32, 64]
    assert doublings(20) == [1, 2, 4, 8, 16, 20]
