"""The verdict: each decision from the measured numbers that call for it."""

import pytest

from spec_opt.config.study_file import Setting
from spec_opt.results.table import Speedup
from spec_opt.results.verdict import Candidate, ErrorRatio, judge

SETTING = Setting(sigma=0.2, bias=2.0, k=4)
EQUAL = ErrorRatio(1.0, 0.99, 1.01)
BETTER = ErrorRatio(0.986, 0.98, 0.99)
WORSE = ErrorRatio(1.2, 1.15, 1.25)
NOISY = ErrorRatio(1.02, 0.9, 1.14)


def timed(value: float, low: float, high: float, batch_size: int = 64, runs: int = 5) -> Speedup:
    return Speedup(7, "cpu", batch_size, 1.0, value, low, high, runs)


def predicted(value: float) -> Speedup:
    return Speedup(7, "cpu", 64, value, None)


FASTER, SLOWER, UNCLEAR = timed(1.6, 1.5, 1.7, 1), timed(0.93, 0.9, 0.96), timed(1.0, 0.95, 1.08)
MUCH_FASTER = timed(12.0, 11.0, 13.0)


def setting(error: ErrorRatio, *speedups: Speedup) -> Candidate:
    return Candidate(SETTING, 7, error, speedups)


def draft(error: ErrorRatio, *speedups: Speedup) -> Candidate:
    return Candidate(None, None, error, speedups)


@pytest.mark.parametrize(
    ("settings", "alone", "decision"),
    [
        ([setting(EQUAL, SLOWER)], draft(BETTER, MUCH_FASTER), "draft_alone"),
        # A draft that is as accurate and cheaper beats speculation with it.
        ([setting(EQUAL, FASTER)], draft(BETTER, MUCH_FASTER), "draft_alone"),
        ([setting(EQUAL, FASTER)], draft(WORSE, MUCH_FASTER), "speculate"),
        ([setting(EQUAL, FASTER, SLOWER)], draft(WORSE, MUCH_FASTER), "speculate"),
        ([setting(EQUAL, FASTER)], draft(NOISY, MUCH_FASTER), "speculate"),
        ([setting(EQUAL, FASTER)], None, "speculate"),
        ([setting(EQUAL, SLOWER)], draft(WORSE, MUCH_FASTER), "target_alone"),
        # Faster, but too inaccurate.
        ([setting(WORSE, FASTER)], draft(WORSE, MUCH_FASTER), "target_alone"),
        # A pair that was swapped: the "draft" is the larger one.
        ([setting(EQUAL, SLOWER)], draft(EQUAL, timed(0.4, 0.38, 0.42)), "target_alone"),
        # The same file twice: a draft as dear as its target is no reason to wait.
        ([setting(EQUAL, SLOWER)], draft(EQUAL, timed(1.0, 0.97, 1.04)), "target_alone"),
        ([setting(EQUAL, SLOWER)], draft(EQUAL, timed(1.03, 1.01, 1.06)), "target_alone"),
        # A single run that was disturbed does not make a slow setting a tie.
        ([setting(EQUAL, timed(0.6, 0.5, 1.1))], draft(WORSE, MUCH_FASTER), "target_alone"),
        ([setting(EQUAL, UNCLEAR)], draft(WORSE, MUCH_FASTER), "unknown"),
        ([setting(NOISY, FASTER)], draft(WORSE, MUCH_FASTER), "unknown"),
        ([setting(EQUAL, SLOWER)], draft(NOISY, MUCH_FASTER), "unknown"),
        ([setting(EQUAL, timed(1.6, 1.5, 1.7, runs=2))], draft(WORSE, MUCH_FASTER), "unknown"),
        ([setting(EQUAL, predicted(1.8))], draft(WORSE, MUCH_FASTER), "unknown"),
        ([setting(EQUAL)], draft(BETTER), "unknown"),
        ([], draft(WORSE, MUCH_FASTER), "unknown"),
    ],
)
def test_decides_by_what_was_measured(
    settings: list[Candidate], alone: Candidate | None, decision: str
) -> None:
    assert judge(settings, alone, 1.05, "etth1").decision == decision


def test_the_first_sentence_says_what_to_do() -> None:
    verdict = judge([setting(EQUAL, SLOWER)], draft(BETTER, MUCH_FASTER), 1.05, "etth1")

    assert verdict.reason == (
        "Don't speculate here: 0.93x at best. Use the draft alone: 12x as fast as the target "
        "alone at batch size 64, MSE 1.4% below the target's."
    )


def test_names_the_setting_and_where_it_loses() -> None:
    verdict = judge([setting(EQUAL, FASTER, SLOWER)], None, 1.05, "etth1")

    assert (verdict.setting, verdict.trial, verdict.speedup) == (SETTING, 7, FASTER)
    assert "Speculate with sigma=0.2 bias=2 k=4: 1.60x" in verdict.reason
    assert "slower than the target at batch size 64" in verdict.reason


def test_what_is_not_known_comes_with_what_would_settle_it() -> None:
    assert "`spec-opt bench etth1`" in judge([setting(EQUAL)], None, 1.05, "etth1").reason
    assert "idle machine" in judge([setting(EQUAL, UNCLEAR)], None, 1.05, "etth1").reason
    assert "more windows" in judge([setting(NOISY, FASTER)], None, 1.05, "etth1").reason


def test_a_document_has_plain_values() -> None:
    document = judge([setting(EQUAL, FASTER)], None, 1.05, "etth1").document()

    assert document["setting"] == {"sigma": 0.2, "bias": 2.0, "k": 4}
    assert document["speedup"] == {
        "value": 1.6,
        "low": 1.5,
        "high": 1.7,
        "measured": True,
        "batch_size": 1,
        "device": "cpu",
        "runs": 5,
    }
