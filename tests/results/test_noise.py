"""The noise of differences, from what is known of target and draft."""

import dataclasses
import math

import numpy as np
import pytest

from spec_opt.measurement import Baseline
from spec_opt.results.noise import difference_se, mse_correlation
from tests.results import studies

BASELINE = Baseline(**studies.BASELINE)


def test_the_correlation_gives_back_the_known_difference() -> None:
    correlation = mse_correlation(BASELINE)
    assert BASELINE.target_mse_se is not None
    assert BASELINE.draft_mse_se is not None
    found = difference_se(BASELINE.target_mse_se, BASELINE.draft_mse_se, correlation)
    assert found == pytest.approx(BASELINE.draft_minus_target_mse_se)


def test_against_numbers_with_a_known_correlation() -> None:
    generator = np.random.default_rng(0)
    shared, own = generator.normal(size=(2, 2000)), generator.normal(size=(2, 2000))
    one, other = 3 * shared[0] + own[0], 3 * shared[0] + own[1]
    count = math.sqrt(2000)
    baseline = dataclasses.replace(
        BASELINE,
        target_mse_se=one.std() / count,
        draft_mse_se=other.std() / count,
        draft_minus_target_mse_se=(other - one).std() / count,
    )
    assert mse_correlation(baseline) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    "baseline",
    [
        None,
        dataclasses.replace(BASELINE, draft_minus_target_mse_se=None),
        dataclasses.replace(BASELINE, target_mse_se=None),
        dataclasses.replace(BASELINE, draft_minus_target_mse_se=1.0),
    ],
)
def test_unknown_or_contrary_errors_count_as_independent(baseline: Baseline | None) -> None:
    assert mse_correlation(baseline) == 0.0
    assert difference_se(3.0, 4.0, 0.0) == 5.0
