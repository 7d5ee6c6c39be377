"""The front on another split."""

from dataclasses import replace

import pytest

from spec_opt.config.study_file import DataConfig, Setting, StudyConfig
from spec_opt.config.values import Split
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.measurement import Baseline, Measurement
from spec_opt.results.confirmation import (
    Confirmation,
    confirm_points,
    confirm_study,
    confirmation_document,
    confirmation_text,
)
from spec_opt.results.table import read_table
from tests.results import studies
from tests.study.stand_in import BASELINE, measurement

DATA = DataConfig(source="none.csv", context=672, horizon=336)
FRONT = (
    (0.5, 1.0, 4, 1.0, 0.47),
    (0.5, 2.0, 4, 1.0, 0.47),
    (0.2, 1.0, 4, 0.7, 0.45),
    (0.3, 1.0, 4, 0.6, 0.46),
)


def confirmed(
    drop: float,
    baseline: Baseline = BASELINE,
    splits: tuple[Split, Split] = ("validation", "test"),
    half_width: float | None = 0.025,
) -> Confirmation:
    """Acceptance falls by `drop`; on the other split its 95 % interval is ± `half_width`."""
    table = read_table(studies.study_of(*FRONT))
    known = {(sigma, bias, k): acceptance for sigma, bias, k, acceptance, _ in FRONT}

    def measure(setting: Setting) -> Measurement:
        rate = known[setting.sigma, setting.bias, setting.k] - drop
        mse = 0.47 if splits[0] == splits[1] else 0.5
        again = replace(measurement(setting), acceptance_rate=rate, mse=mse)
        return replace(again, acceptance_ci95=half_width)

    points = [block[0] for block in table.distinct_front]
    return confirm_points(table, points, splits, measure, baseline)


def test_numbers_of_both_splits_and_their_drop() -> None:
    confirmation = confirmed(0.1)
    assert [one.point.number for one in confirmation.settings] == [0, 2]
    text = confirmation_text(confirmation)
    assert "validation (tuned on) -> test" in text
    # 70 % of 255 windows are ±7.5 points, as the studies of the tests go.
    assert "70.0%  -> 60.0%  10.0 ±7.9  0.4500  -> 0.5000  -0.0500" in text


def test_the_noise_of_a_drop_is_that_of_both_splits() -> None:
    # 0.7 is ±0.0746 on one split and ±0.025 on the other: ±0.0787 together.
    (_, clear) = confirmed(0.079).settings
    (_, noisy) = confirmed(0.078).settings
    assert clear.acceptance.is_clear is True
    assert noisy.acceptance.is_clear is False
    (_, unknown) = confirmed(0.5, half_width=None).settings
    assert unknown.acceptance.is_clear is None


def test_the_drop_in_words() -> None:
    assert "by 10.0 percentage points, outside the 95 % interval" in confirmation_text(
        confirmed(0.1)
    )
    assert "points, of unknown noise" in confirmation_text(confirmed(0.5, half_width=None))
    assert "falls nowhere" in confirmation_text(confirmed(-0.1))


def test_what_an_interval_leaves_out_is_said_where_splits_are_compared() -> None:
    assert "what sets splits apart, such as a season, is not in it" in confirmation_text(
        confirmed(0.1)
    )
    assert "season" not in confirmation_text(confirmed(0.0, splits=("test", "test")))


def test_a_draft_that_is_as_good_is_reported() -> None:
    good = replace(BASELINE, draft_mse=0.99 * BASELINE.target_mse)
    said = "as accurate as the target on test"
    assert said in confirmation_text(confirmed(0.1, good))
    poor = replace(BASELINE, draft_mse=2 * BASELINE.target_mse)
    assert said not in confirmation_text(confirmed(0.1, poor))


def test_for_a_script() -> None:
    document = confirmation_document(confirmed(0.1))
    setting = document["settings"][1]
    assert setting["trial"] == 2
    assert setting["tuned"]["acceptance_rate"] == 0.7
    assert setting["confirmed"]["mse"] == 0.5
    assert setting["drop"] == pytest.approx(
        {"acceptance_rate": 0.1, "acceptance_ci95": 0.0787, "mse": -0.05, "mse_ci95": None},
        abs=1e-4,
    )
    assert "same" not in setting


def test_a_replay_says_whether_the_numbers_are_the_same() -> None:
    replay = confirmed(0.0, splits=("test", "test"))
    assert [one.is_the_same for one in replay.settings] == [True, False]
    assert "Not the same numbers for trial 2:" in confirmation_text(replay)
    settings = confirmation_document(replay)["settings"]
    assert [setting["same"] for setting in settings] == [True, False]
    assert "drop" not in settings[0]
    assert "±" not in confirmation_text(replay)
    only = replace(replay, settings=replay.settings[:1])
    assert "The same numbers again." in confirmation_text(only)


def test_nothing_to_confirm_is_said_before_models_are_prepared() -> None:
    table = read_table(studies.failing_study())
    config = StudyConfig(name="all-failed", data=DATA)
    with pytest.raises(StudyError, match="no trial has completed yet"):
        confirm_study(config, table, "validation")
    with pytest.raises(StudyError, match="has no completed trial 0"):
        confirm_study(config, table, "test", trial=0)


def test_the_split_that_was_tuned_on_is_the_stores() -> None:
    """The study was tuned on test; the file names validation by now."""
    table = read_table(studies.study_of(*FRONT))
    config = StudyConfig(name="given", data=DATA)
    assert config.data.split == "validation"
    with pytest.raises(InputError, match="--split test: study given was tuned on it"):
        confirm_study(config, table, "test")
