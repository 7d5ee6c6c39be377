import numpy as np
import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial
from optuna.visualization import plot_hypervolume_history

from spec_opt.study.hypervolume import course, gains, hypervolume
from spec_opt.study.study import DIRECTIONS


def test_one_setting_is_the_box_to_the_reference_point() -> None:
    assert hypervolume(gains([(0.5, 0.44)], 0.44)) == 0.5
    assert hypervolume(gains([(0.5, 0.66)], 0.44)) == pytest.approx(0.25)
    assert hypervolume(gains([(0.5, 0.44, 3.0)], 0.44)) == pytest.approx(1.5)


def test_what_is_beyond_the_reference_point_adds_nothing() -> None:
    assert hypervolume(gains([(1.0, 0.9), (0.0, 0.1)], 0.44)) == 0.0


def test_overlaps_count_once() -> None:
    found = gains([(0.5, 0.44), (1.0, 0.66), (0.5, 0.44), (0.2, 0.6)], 0.44)
    assert hypervolume(found) == pytest.approx(0.75)
    assert course(found) == pytest.approx([0.5, 0.75, 0.75, 0.75])


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_course_is_optunas(objectives: int) -> None:
    chance = np.random.default_rng(3)
    values = chance.uniform([0, 0.4, 0.5][:objectives], [1, 1.0, 3][:objectives], (40, objectives))
    study = optuna.create_study(directions=list(DIRECTIONS.values())[:objectives])
    study.add_trials(create_trial(values=list(row)) for row in values)
    with pytest.warns(ExperimentalWarning):
        drawn = plot_hypervolume_history(study, [0.0, 0.88, 0.0][:objectives])
    # Optuna's is in the objectives' own units.
    ours = np.array(course(gains(values.tolist(), 0.44))) * 0.44
    assert ours == pytest.approx(list(drawn.data[0].y))
