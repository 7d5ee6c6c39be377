"""The front on another split."""

from dataclasses import replace

from spec_opt.config import Setting
from spec_opt.measurement import Baseline, Measurement
from spec_opt.results.confirmation import (
    Confirmation,
    confirm_front,
    confirmation_document,
    confirmation_text,
)
from spec_opt.results.table import read_table
from tests.results import studies
from tests.tuning.stand_in import BASELINE, measurement

FRONT = (
    (0.5, 1.0, 4, 1.0, 0.47),
    (0.5, 2.0, 4, 1.0, 0.47),
    (0.2, 1.0, 4, 0.7, 0.45),
    (0.3, 1.0, 4, 0.6, 0.46),
)


def confirmed(drop: float, baseline: Baseline = BASELINE) -> Confirmation:
    """Acceptance falls by `drop`, with a standard error of 1 percentage point."""
    table = read_table(studies.study_of(*FRONT))
    known = {(sigma, bias, k): acceptance for sigma, bias, k, acceptance, _ in FRONT}

    def measure(setting: Setting) -> Measurement:
        rate = known[setting.sigma, setting.bias, setting.k] - drop
        return replace(measurement(setting), acceptance_rate=rate, acceptance_se=0.01, mse=0.5)

    return confirm_front(table, "validation", "test", measure, baseline)


def test_each_distinct_result_is_measured_once() -> None:
    confirmation = confirmed(0.1)
    assert [one.point.number for one in confirmation.settings] == [0, 2]
    text = confirmation_text(confirmation)
    assert "validation (tuned on) -> test" in text
    assert "100%  -> 90.0%" in text
    assert "0.4500  -> 0.5000" in text


def test_the_drop_in_words() -> None:
    assert "by 10.0 percentage points, more than two standard errors" in confirmation_text(
        confirmed(0.1)
    )
    assert "no more than two standard errors" in confirmation_text(confirmed(0.01))
    assert "falls nowhere" in confirmation_text(confirmed(-0.1))


def test_a_draft_as_good_there_is_told() -> None:
    good = replace(BASELINE, draft_mse=0.9 * BASELINE.target_mse)
    said = "as accurate as the target there"
    assert said in confirmation_text(confirmed(0.1, good))
    poor = replace(BASELINE, draft_mse=2 * BASELINE.target_mse)
    assert said not in confirmation_text(confirmed(0.1, poor))


def test_for_a_script() -> None:
    document = confirmation_document(confirmed(0.1))
    assert document["settings"][1]["trial"] == 2
    assert document["settings"][1]["tuned"] == {"acceptance_rate": 0.7, "mse": 0.45}
    assert document["settings"][1]["confirmed"]["mse"] == 0.5


def test_nothing_to_confirm() -> None:
    table = read_table(studies.failing_study())
    empty = confirm_front(table, "validation", "test", measurement, BASELINE)
    assert "nothing to confirm" in confirmation_text(empty)
