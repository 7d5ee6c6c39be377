"""The noise of differences, from the blocks that trials keep of their windows."""

import dataclasses

import numpy as np

from spec_opt.config.study_file import Setting
from spec_opt.measure.measurement import Blocks
from spec_opt.measure.uncertainty import split
from spec_opt.results.differences import Noise
from spec_opt.results.table import Point, read_table
from tests.results import studies

WINDOWS = np.arange(0, 2550, 10)


def points(*blocks: Blocks | None) -> tuple[Point, ...]:
    """Trials with the results that their blocks sum to."""
    study = studies.empty_study()
    for number, one in enumerate(blocks):
        setting = Setting(sigma=0.1 * (number + 1), bias=1.0, k=1)
        acceptance = 0.5 if one is None else sum(one.accepted) / sum(one.tested)
        mse = 0.5 if one is None else float(np.mean(one.mse))
        kept = None if one is None else dataclasses.asdict(one)
        study.add_trial(studies.complete(setting, acceptance, mse, blocks=kept))
    return read_table(study).points


def measured(shared: float, own: float, mse: float, rate: float, seed: int) -> Blocks:
    """255 windows that err together by `shared` and each setting for itself by `own`."""
    everyone, alone = np.random.default_rng(0), np.random.default_rng(seed)
    errors = mse + shared * everyone.normal(size=len(WINDOWS))
    errors += own * alone.normal(size=len(WINDOWS))
    accepted = alone.binomial(4, rate, len(WINDOWS))
    counts = np.stack([accepted, np.full(len(WINDOWS), 4)], axis=1)
    return split(WINDOWS, context=20, horizon=10, mse=errors, counts=counts)


def test_what_trials_share_is_no_noise_between_them() -> None:
    apart = points(measured(1.0, 0.001, 0.50, 0.9, 1), measured(1.0, 0.001, 0.51, 0.9, 2))
    near = points(measured(1.0, 0.001, 0.50, 0.9, 1), measured(1.0, 0.001, 0.50, 0.9, 2))
    assert Noise(apart).rivals(apart[0]) == ()
    assert Noise(near).rivals(near[0]) == (near[1],)


def test_a_rival_may_be_clearly_better_but_in_no_objective_clearly_worse() -> None:
    better = points(measured(0.0, 0.001, 0.50, 0.5, 1), measured(0.0, 0.001, 0.45, 0.9, 2))
    assert Noise(better).rivals(better[0]) == (better[1],)
    assert Noise(better).rivals(better[1]) == ()
    traded = points(measured(0.0, 0.001, 0.50, 0.9, 1), measured(0.0, 0.001, 0.45, 0.5, 2))
    assert Noise(traded).rivals(traded[0]) == ()


def test_the_noise_of_a_rate_counts_its_windows_together() -> None:
    """Rates of 1020 proposals each, that are the same but for their dice, and that are not."""
    near = points(measured(0.0, 0.0, 0.5, 0.60, 1), measured(0.0, 0.0, 0.5, 0.60, 2))
    far = points(measured(0.0, 0.0, 0.5, 0.90, 1), measured(0.0, 0.0, 0.5, 0.60, 2))
    assert Noise(near).rivals(near[0]) == (near[1],)
    assert Noise(far).rivals(far[0]) == ()


def test_what_is_not_known_has_no_rivals() -> None:
    kept = measured(0.0, 0.001, 0.5, 0.5, 1)
    single = split(WINDOWS[:1], context=20, horizon=10, mse=np.array([0.5]), counts=np.ones((1, 2)))
    moved = dataclasses.replace(kept, rows=tuple(row + 1 for row in kept.rows))
    for other in (None, single, moved):
        found = Noise(points(kept, other))
        assert len(found.points) == 1
        assert found.rivals(points(kept, other)[1]) == ()
