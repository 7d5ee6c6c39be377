import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.config.values import FloatRange, IntRange
from spec_opt.study.space import (
    distributions,
    grid_points,
    params_of,
    setting_count,
    setting_of,
)


def test_grid_runs_through_k_first_and_sigma_last() -> None:
    points = grid_points(SearchConfig(sigma=(0.5, 0.1), bias=(1.0, 2.0), k=(1, 3)))
    assert [(p.sigma, p.bias, p.k) for p in points] == [
        (0.5, 1.0, 1),
        (0.5, 1.0, 3),
        (0.5, 2.0, 1),
        (0.5, 2.0, 3),
        (0.1, 1.0, 1),
        (0.1, 1.0, 3),
        (0.1, 2.0, 1),
        (0.1, 2.0, 3),
    ]


def test_only_a_grid_has_points() -> None:
    assert len(grid_points(SearchConfig())) == 80
    assert grid_points(SearchConfig(sampler="tpe", n_trials=5)) == ()


def test_a_grid_is_numeric_and_may_have_a_single_value() -> None:
    assert distributions(SearchConfig(sigma=(1.0, 0.1), bias=(2.0,), k=(4, 1))) == {
        "sigma": FloatDistribution(0.1, 1.0),
        "bias": FloatDistribution(2.0, 2.0),
        "k": IntDistribution(1, 4),
    }


def test_samplers_draw_from_lists_and_ranges() -> None:
    search = SearchConfig(
        sampler="tpe",
        n_trials=5,
        sigma=FloatRange(low=0.05, high=1.0, log=True),
        bias=(1.0, 2.0),
        k=IntRange(low=1, high=5),
    )
    assert distributions(search) == {
        "sigma": FloatDistribution(0.05, 1.0, log=True),
        "bias": CategoricalDistribution((1.0, 2.0)),
        "k": IntDistribution(1, 5),
    }


@pytest.mark.parametrize(
    ("search", "count"),
    [
        (SearchConfig(), 80),
        (SearchConfig(sampler="tpe", n_trials=1, k=IntRange(low=2, high=4)), 48),
        (SearchConfig(sampler="tpe", n_trials=1, sigma=FloatRange(low=0.1, high=1.0)), None),
    ],
)
def test_settings_of_a_space_are_counted(search: SearchConfig, count: int | None) -> None:
    assert setting_count(search) == count


def test_a_setting_survives_as_parameters() -> None:
    setting = Setting(sigma=0.1, bias=2.0, k=3)
    assert setting_of(params_of(setting)) == setting
    assert setting_of({"sigma": 1, "bias": 2, "k": 3.0}) == Setting(sigma=1.0, bias=2.0, k=3)


def test_parameters_of_another_study_are_no_setting() -> None:
    with pytest.raises(KeyError):
        setting_of({"sigma": 0.1, "bias": 2.0})
    with pytest.raises(ValueError, match="sigma"):
        setting_of({"sigma": -1.0, "bias": 2.0, "k": 1})
