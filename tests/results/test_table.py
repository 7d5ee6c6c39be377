"""Trials as rows and frame; the front against Optuna's own."""

import sqlite3

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.errors import StudyError
from spec_opt.measure.uncertainty import draft_against_target
from spec_opt.results.frame import COLUMNS, frame_of
from spec_opt.results.pareto import pareto_mask, without_rounding
from spec_opt.results.table import by_mse, read_table, table_of
from spec_opt.results.wording import left_out
from spec_opt.study.store import Store
from tests.results import studies
from tests.study.stand_in import stand_in_study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def front_of_optuna(study: optuna.Study) -> set[int]:
    return {trial.number for trial in study.best_trials}


def test_rounding_decides_neither_the_front_nor_what_is_equal() -> None:
    """k = 4, 5 and 6 decode 4 patches alike; a resumed process sums them otherwise."""
    study = studies.study_of(
        (0.2, 1.0, 4, 0.8, 0.45),
        (0.2, 1.0, 5, 0.8, 0.45 * (1 + 1e-10)),
        (0.2, 1.0, 6, 0.8, 0.45 * (1 - 2e-10)),
        (0.1, 1.0, 4, 0.8, 0.45 * (1 + 1e-7)),
    )
    table = read_table(study)
    assert [[p.number for p in block] for block in table.distinct_front] == [[0, 1, 2]]
    assert [p.number for p in sorted(table.points, key=by_mse)] == [0, 1, 2, 3]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.lists(st.floats(-1e-11, 1e-11), min_size=30, max_size=30),
)
def test_values_apart_by_rounding_become_one(numbers: list[int], noise: list[float]) -> None:
    values = np.array([n * (1 + e) for n, e in zip(numbers, noise, strict=False)])
    merged = without_rounding(values)
    assert merged == pytest.approx(values, rel=1e-10)
    assert len(set(zip(numbers, merged, strict=True))) == len(set(numbers)) == len(set(merged))


def test_the_grid_of_80() -> None:
    study = studies.grid_study()
    table = read_table(study)
    assert len(table.points) == len(table.trials) == 80
    assert {point.number for point in table.front} == front_of_optuna(study)
    assert table.target_mse == pytest.approx(0.4404)
    assert table.states == {"complete": 80}
    assert table.baseline is not None
    assert draft_against_target(table.baseline, table.limits.equivalence_margin) == "equivalent"
    assert table.config is not None
    assert table.config.data.source == "ETTh1"
    assert table.versions["torch"] == "2.13.0"
    result = table.points[7].result
    assert result.windows == 255
    assert result.accepted_by_position is not None
    assert table.trials[7].target_fingerprint is not None


@given(
    st.lists(
        st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(0, 6).map(float)), max_size=40
    )
)
@settings(max_examples=60)
def test_front_equals_that_of_optuna(values: list[tuple[float, float]]) -> None:
    study = studies.empty_study()
    setting = Setting(sigma=0.1, bias=1.0, k=1)
    study.add_trials(studies.complete(setting, a, m) for a, m in values)
    mask = pareto_mask(np.array(values, dtype=float).reshape(-1, 2) * [-1, 1])
    assert set(np.flatnonzero(mask).tolist()) == front_of_optuna(study)


def test_front_of_10_000_random_points() -> None:
    generator = np.random.default_rng(0)
    acceptance, mse = generator.random(10_000).round(3), generator.random(10_000).round(3)
    mask = pareto_mask(np.stack([-acceptance, mse], axis=1))
    for index in np.flatnonzero(mask):
        as_good = (acceptance >= acceptance[index]) & (mse <= mse[index])
        better = (acceptance > acceptance[index]) | (mse < mse[index])
        assert not (as_good & better).any()
    outside = np.flatnonzero(~mask)
    assert all(
        ((acceptance >= acceptance[i]) & (mse <= mse[i]) & mask).any() for i in outside[:200]
    )


def test_equal_results_are_ordered_by_the_mildest_setting() -> None:
    study = studies.study_of(
        (1.0, 5.0, 4, 1.0, 0.47),
        (1.0, 1.0, 5, 1.0, 0.47),
        (1.0, 1.0, 4, 1.0, 0.47),
        (0.5, 1.0, 4, 1.0, 0.47),
        (0.5, 1.0, 4, 1.0, 0.47),
    )
    assert [point.number for point in read_table(study).front] == [3, 4, 2, 1, 0]


def test_frame_has_the_documented_columns() -> None:
    frame = frame_of(read_table(studies.grid_study()))
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 80
    assert frame["k"].dtype == "Int64"
    assert frame["mse"].dtype == "float64"
    assert frame["accepted_by_position"][7] == list(
        studies.attributes(Setting(sigma=0.1, bias=2.0, k=3), 0.0, 0.45)["accepted_by_position"]
    )
    assert frame["mse_ratio"][0] == pytest.approx(frame["mse"][0] / 0.4404)


@pytest.mark.parametrize(
    ("study", "rows", "points"),
    [
        (studies.empty_study(), 0, 0),
        (studies.single_study(), 1, 1),
        (studies.failing_study(), 4, 0),
        (studies.rejecting_study(), 4, 4),
        (studies.continuous_study(30), 30, 30),
    ],
)
def test_unusual_studies(study: optuna.Study, rows: int, points: int) -> None:
    table = read_table(study)
    frame = frame_of(table)
    assert len(frame) == rows
    assert len(table.points) == points
    assert {point.number for point in table.front} == front_of_optuna(study)
    assert tuple(frame.columns) == COLUMNS


def test_failed_trials_have_their_error() -> None:
    table = read_table(studies.failing_study())
    assert table.states == {"fail": 3, "waiting": 1}
    assert table.trials[0].error == "DecodingError: forecast is not finite"
    assert table.trials[0].setting == Setting(sigma=0.1, bias=1.0, k=1)
    assert table.trials[2].setting is None


def test_trials_without_attributes_have_none_not_a_crash() -> None:
    study = studies.empty_study(baseline=None)
    study.add_trial(
        create_trial(
            params={"sigma": 0.1, "bias": 1.0, "k": 2},
            distributions=studies.SPACE,
            values=[0.5, 0.6],
            user_attrs={"windows": "many", "mae": True, "accepted_by_position": [1, "two"]},
        )
    )
    table = read_table(study)
    result = table.points[0].result
    assert result.mae is None
    assert result.windows is None
    assert result.accepted_by_position is None
    assert table.baseline is None
    assert table.target_mse is None
    assert pd.isna(frame_of(table)["mse_ratio"][0])


def test_baseline_of_the_trials_serves_where_the_study_has_none() -> None:
    study = studies.grid_study(baseline=None)
    assert read_table(study).target_mse == pytest.approx(0.4404)


def test_infinite_values_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    study = studies.study_of((0.1, 1.0, 1, 0.5, float("inf")), (0.1, 1.0, 2, 0.4, 0.5))
    table = read_table(study)
    assert [point.number for point in table.points] == [1]
    assert table.points[0].result.pareto
    assert "trial 0 left out" in caplog.text


def test_reading_goes_on_after_a_short_outage(store: Store) -> None:
    config = stand_in_study(store, sigma=(0.1,), bias=(1.0,), k=(1, 2)).config
    failures = [sqlite3.OperationalError("database is locked") for _ in range(2)]

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if failures and "FROM trials" in statement:
            raise failures.pop()

    event.listen(store.storage.engine, "before_cursor_execute", fail)
    assert len(table_of(store, config).trials) == 2
    assert not failures


def test_an_unreadable_stored_configuration_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = studies.empty_study(config={"name": "x", "unknown": 1})
    assert read_table(study).config is None
    assert "not readable" in caplog.text


def test_a_study_of_other_objectives_or_parameters_is_refused() -> None:
    single = optuna.create_study(direction="minimize")
    with pytest.raises(StudyError, match="objectives are not acceptance_rate"):
        read_table(single)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            params={"x": 1.0},
            distributions={"x": optuna.distributions.FloatDistribution(0, 2)},
            values=[0.5, 0.5],
        )
    )
    with pytest.raises(StudyError, match=r"trial 0 has parameters {'x': 1.0} that are no setting"):
        read_table(study)


def test_a_setting_out_of_range_is_refused() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    wide = dict.fromkeys(("sigma", "bias"), optuna.distributions.FloatDistribution(-1, 2))
    study.add_trial(
        create_trial(
            params={"sigma": -0.5, "bias": 1.0, "k": 1},
            distributions=wide | {"k": studies.SPACE["k"]},
            values=[0.5, 0.5],
        )
    )
    with pytest.raises(StudyError, match="no setting of sigma, bias and k"):
        read_table(study)


def test_only_settings_that_are_asked_for_are_results() -> None:
    study = studies.study_of(
        (0.1, 1.0, 4, 0.8, 0.45), (0.2, 1.0, 4, 0.9, 0.46), (0.3, 1.0, 4, 0.95, 0.44)
    )
    table = read_table(study, SearchConfig(sampler="grid", sigma=(0.1, 0.2), bias=(1.0,), k=(4,)))
    assert [point.number for point in table.front] == [1, 0]
    assert table.point(2).result.mse == 0.44
    assert not table.point(2).result.pareto
    assert left_out(table) == (
        "Left out: 1 completed trial with settings that the study file does not ask for."
    )
    assert left_out(read_table(study)) == ""
    assert len(frame_of(table)) == 3


def test_imported_settings_need_not_be_asked_for() -> None:
    study = studies.empty_study("old")
    trial = studies.complete(Setting(sigma=0.1, bias=1.0, k=4), 0.8, 0.45)
    trial.set_user_attr("source", "imported")
    study.add_trial(trial)
    table = read_table(study, SearchConfig(sampler="grid", sigma=(0.7,), bias=(1.0,), k=(4,)))
    assert len(table.front) == 1


def test_a_trial_of_another_program_in_our_study() -> None:
    study = studies.study_of((0.1, 1.0, 4, 0.8, 0.45), config={"name": "x"})
    study.add_trial(
        create_trial(
            params={"x": 1.0},
            distributions={"x": optuna.distributions.FloatDistribution(0, 2)},
            values=[1.0, 0.0],
        )
    )
    table = read_table(study)
    assert [point.number for point in table.front] == [0]
    assert table.trials[1].setting is None
    assert "1 completed trial of another program, with other parameters" in left_out(table)
