"""SIGKILL to workers and launcher at random moments: every setting stands once all the same."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.study.kills import Fire, Study, run_under_fire
from tests.study.stand_in_program import Options

GRID_24 = "sigma = [0.1, 0.2, 0.3]\nbias = [1.0, 2.0]\nk = [1, 2, 3, 4]"
MakeStudy = Callable[..., Study]


@pytest.fixture
def make(store_url: str, tmp_path: Path) -> Iterator[MakeStudy]:
    """Makes a study on the store; what is left of its processes at the end is killed."""
    studies: list[Study] = []

    def make_(search: str, seconds: float = 0.2) -> Study:
        options = Options(seconds=seconds)
        studies.append(Study(tmp_path / "study", store_url, search, options))
        return studies[-1]

    yield make_
    for study in studies:
        study.clean_up()


def test_every_setting_once_though_anything_is_killed(make: MakeStudy) -> None:
    study = make(GRID_24)
    outcome = run_under_fire(study, 24, Fire(one=2, everything=1), random.Random(7), workers=3)
    assert outcome.exit_code == 0, study.text()
    assert (outcome.complete, outcome.distinct, outcome.left) == (24, 24, 0)
    assert outcome.kills >= 1
    assert outcome.tracebacks == 0, study.text()


def test_tpe_stops_at_its_number_though_workers_are_killed(make: MakeStudy) -> None:
    # A range, in which no trial repeats another: each takes its time, in which it may be hit.
    search = 'sampler = "tpe"\nn_trials = 60\nsigma = {low = 0.05, high = 1.0}'
    study = make(search, seconds=0.05)
    outcome = run_under_fire(study, 60, Fire(one=3, launcher=0), random.Random(5), workers=3)
    assert outcome.exit_code == 0, study.text()
    assert outcome.kills >= 1
    # Trials whose worker was killed stand beside them as failed.
    assert (outcome.complete, outcome.left) == (60, 0)
    assert all(
        trial.user_attrs["failure"] == "died"
        for trial in study.trials()
        if trial.state.name == "FAIL"
    )
    assert outcome.tracebacks == 0, study.text()
