"""The verdict: each decision from the measured numbers that call for it."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest

from spec_opt.config.study_file import (
    BalancedScenario,
    QualityScenario,
    RecommendConfig,
    Setting,
    SpeedScenario,
)
from spec_opt.measure.measurement import Fingerprints
from spec_opt.results.judgement import Judgement
from spec_opt.results.recommend import recommend_all
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import StudyTable, read_table
from spec_opt.results.verdict import Candidate, ErrorRatio, judge, verdict_of, worth_timing
from tests.results import studies

SETTING = Setting(sigma=0.2, bias=2.0, k=4)
EQUAL = ErrorRatio(1.0, 0.99, 1.01)
BETTER = ErrorRatio(0.986, 0.98, 0.99)
WORSE = ErrorRatio(1.2, 1.15, 1.25)
NOISY = ErrorRatio(1.02, 0.9, 1.14)
UNKNOWN_NOISE = ErrorRatio(1.0, None, None)
MORE = "more windows may settle it"


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
    assert judge(settings, alone, 1.05, "etth1", MORE).decision == decision


def test_the_first_sentence_says_what_to_do() -> None:
    verdict = judge([setting(EQUAL, SLOWER)], draft(BETTER, MUCH_FASTER), 1.05, "etth1", MORE)

    assert verdict.reason == (
        "Don't speculate here: 0.93x at best. Use the draft alone: 12x as fast as the target "
        "alone at batch size 64, MSE 1.4% below the target's."
    )


def test_names_the_setting_and_where_it_loses() -> None:
    verdict = judge([setting(EQUAL, FASTER, SLOWER)], None, 1.05, "etth1", MORE)

    assert (verdict.setting, verdict.trial, verdict.speedup) == (SETTING, 7, FASTER)
    assert "Speculate with sigma=0.2 bias=2 k=4: 1.60x" in verdict.reason
    assert "slower than the target at batch size 64" in verdict.reason


@pytest.mark.parametrize(
    ("settings", "alone", "words"),
    [
        ([setting(EQUAL)], None, "nothing was timed; `spec-opt bench etth1`"),
        ([setting(EQUAL, timed(1.6, 1.5, 1.7, runs=2))], None, "timed too few times"),
        ([setting(EQUAL, UNCLEAR)], None, "timings scatter about 1 (0.95x to 1.08x"),
        ([setting(NOISY, FASTER)], None, "2.0% above the target's, ±12.0% by these windows"),
        (
            [setting(UNKNOWN_NOISE, FASTER)],
            None,
            "the noise of the MSE of sigma=0.2 bias=2 k=4 is not known",
        ),
        ([setting(EQUAL, SLOWER)], draft(NOISY, MUCH_FASTER), MORE),
    ],
)
def test_what_is_not_known_comes_with_what_would_settle_it(
    settings: list[Candidate], alone: Candidate | None, words: str
) -> None:
    verdict = judge(settings, alone, 1.05, "etth1", MORE)
    assert verdict.decision == "unknown"
    assert words in verdict.reason


def test_all_that_is_open_is_said_at_once() -> None:
    too_few = timed(1.0, 1.0, 1.0, runs=1)
    reason = judge([setting(NOISY, too_few)], None, 1.05, "etth1", MORE).reason
    assert reason == (
        "Whether speculation pays is not known (1.00x at best so far): it was timed too few "
        "times; `spec-opt bench etth1` measures it; and the MSE of sigma=0.2 bias=2 k=4 is 2.0% "
        "above the target's, ±12.0% by these windows, at most 5% allowed; more windows may settle "
        "it."
    )


@pytest.mark.parametrize("settings", [setting(EQUAL, SLOWER), setting(NOISY, UNCLEAR)])
def test_how_fast_the_draft_alone_is_said_though_it_is_not_advised(settings: Candidate) -> None:
    alone = draft(WORSE, MUCH_FASTER, timed(1.7, 1.6, 1.8, 1))
    assert judge([settings], alone, 1.05, "etth1", MORE).reason.endswith(
        " The draft alone is 1.70x as fast as the target alone at batch size 1, 12x at batch size "
        "64."
    )


def test_what_is_known_of_speculation_is_said_though_the_draft_is_in_doubt() -> None:
    reason = judge([setting(EQUAL, SLOWER)], draft(NOISY, MUCH_FASTER), 1.05, "etth1", MORE).reason
    assert reason.startswith(
        "Don't speculate here: 0.93x at best. Whether the draft alone will do is not known: the "
        "MSE of the draft alone is 2.0% above the target's, ±12.0% by these windows, "
        "at most 5% allowed"
    )


def test_a_document_has_plain_values() -> None:
    document = judge([setting(EQUAL, FASTER)], None, 1.05, "etth1", MORE).document()

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


def benched(*speedups: Speedup, baseline: dict[str, float] | None = None) -> StudyTable:
    """A trial as accurate as the target; the draft alone is far less so, by default."""
    mse = studies.BASELINE["target_mse"]
    study = studies.empty_study(baseline=baseline)
    study.set_user_attr("baseline", (baseline or WEAK) | {"target_blocks": TARGET_BLOCKS})
    study.add_trial(studies.complete(SETTING, 0.9, 1.01 * mse, predicted_speedup=1.8))
    study.set_user_attr("speedups", [asdict(speedup) for speedup in speedups])
    return read_table(study)


WEAK = studies.BASELINE | {"draft_mse": 0.60}
TARGET_BLOCKS = studies.blocks(0.9, studies.BASELINE["target_mse"], "target", own=0.0)["mse"]


@pytest.mark.parametrize(("hours", "says"), [(1, "is being timed"), (-1, "nothing was timed")])
def test_while_it_is_timed_no_bench_is_advised(hours: int, says: str) -> None:
    until = datetime.now(UTC) + timedelta(hours=hours)
    assert says in verdict_of(benched().model_copy(update={"timing_until": until})).reason


def of(trial: int | None, value: float, low: float, high: float, device: str = "cpu") -> Speedup:
    return Speedup(trial, device, 64, None, value, low, high, 5)


def test_a_study_is_judged_by_what_its_store_holds() -> None:
    assert verdict_of(benched()).reason.endswith(
        "nothing was timed; `spec-opt bench made-up` measures it."
    )
    faster = verdict_of(benched(of(0, 1.6, 1.5, 1.7), of(None, 9.0, 8.0, 9.5)), "x.toml")
    assert (faster.decision, faster.trial) == ("speculate", 0)
    assert faster.mse_ratio == pytest.approx(1.01)
    slower = verdict_of(benched(of(0, 0.6, 0.5, 0.7), of(None, 9.0, 8.0, 9.5)))
    assert slower.decision == "target_alone"
    good = studies.BASELINE | {"draft_minus_target_mse_ci95": 0.001}
    draft_alone = benched(of(0, 0.6, 0.5, 0.7), of(None, 9.0, 8.0, 9.5), baseline=good)
    assert verdict_of(draft_alone).decision == "draft_alone"


def test_of_the_fastest_those_surely_inside_the_limit_are_timed() -> None:
    mse, study = studies.BASELINE["target_mse"], studies.empty_study()
    for index, (own, predicted) in enumerate(((0.0, 1.2), (0.1, 1.6))):
        setting = Setting(sigma=0.1 + 0.1 * index, bias=1.0, k=2)
        blocks = studies.blocks(0.1, mse, str(setting), own=own)
        trial = studies.complete(setting, 0.1, mse, predicted_speedup=predicted, blocks=blocks)
        study.add_trial(trial)
    study.set_user_attr("baseline", WEAK | {"target_blocks": TARGET_BLOCKS})
    impossible = QualityScenario(max_mse_ratio=1.05, min_acceptance=1.0)
    nothing = BalancedScenario(max_mse_ratio=1.1, min_acceptance=1.0)
    slow = SpeedScenario(max_mse_ratio=0.5)
    limits = RecommendConfig(speed=slow, quality=impossible, balanced=nothing)
    assert [
        point.number
        for point in worth_timing(read_table(study).model_copy(update={"limits": limits}))
    ] == [0]


def test_devices_are_not_mixed() -> None:
    table = benched(
        of(0, 1.6, 1.5, 1.7, "NVIDIA H100"), of(0, 0.6, 0.5, 0.7), of(None, 9.0, 8.0, 9.5)
    )
    found = verdict_of(table)
    assert found.decision == "target_alone"
    assert found.speedup is not None
    assert found.speedup.device == "cpu"


@pytest.mark.parametrize(
    ("series", "words"),
    [
        ({}, "more windows may settle it (data.window_stride, new `name`)."),
        ({"windows": 255, "all_windows": 2545}, "more windows may settle it (data.window_stride"),
        (
            {"windows": 2545, "all_windows": 2545},
            "all 2,545 windows of the validation split are used and do not settle it; a longer "
            "split may (data.splits = [0.5, 0.3, 0.2], for example, and a new `name`)",
        ),
        (
            {"windows": 2545, "all_windows": 2545, "validation": 8000},
            "are used and do not settle it; a longer series may",
        ),
    ],
)
def test_more_windows_are_asked_for_only_where_there_are_more(
    series: dict[str, int], words: str
) -> None:
    close = {"linear_mse": 0.42, "linear_minus_target_mse_ci95": 0.05}
    close["draft_minus_target_mse_ci95"] = 0.06
    table = benched(of(0, 0.6, 0.5, 0.7), baseline=studies.BASELINE | close)
    split = {"split": "validation", "rows": 17_420, "validation": 2880}
    found = verdict_of(table.model_copy(update={"series": split | series})).reason
    assert words in found
    known = recommend_all(table.model_copy(update={"series": split | series}))[0].cautions
    assert ("more windows" in " ".join((found, *known))) == ("more windows" in words)


def test_results_of_older_versions_settle_nothing() -> None:
    """They do not say how often a setting was timed, nor anything of the draft."""
    study = studies.single_study()
    old = {"trial": 0, "device": "cpu", "batch_size": 8, "speedup": 1.3, "predicted_speedup": 1.4}
    study.set_user_attr("speedups", [old])
    assert verdict_of(read_table(study)).decision == "unknown"


def test_the_target_as_its_own_draft_is_no_alternative() -> None:
    """However noise makes it look."""
    good = studies.BASELINE | {"draft_mse": studies.BASELINE["target_mse"]}
    table = benched(of(0, 0.6, 0.5, 0.7), of(None, 1.3, 0.9, 1.9), baseline=good)
    assert verdict_of(table).decision == "unknown"
    same = Fingerprints(target="t", draft="t", data="d", decoding="e")
    assert verdict_of(table.model_copy(update={"fingerprints": same})).decision == "target_alone"


def test_imported_results_have_no_target_to_compare_with() -> None:
    study = studies.empty_study(baseline=None)
    trial = studies.complete(SETTING, 0.9, 0.45)
    trial.user_attrs = {"source": "imported"}
    study.add_trial(trial)
    assert "the target's own MSE is not known" in verdict_of(read_table(study)).reason
    assert verdict_of(read_table(studies.failing_study())).decision == "unknown"


def test_a_confirmation_that_failed_is_said() -> None:
    table = benched(of(0, 1.6, 1.5, 1.7), of(None, 9.0, 8.0, 9.5))
    failed = Judgement(
        "quality", "test", 0, "not confirmed", "MSE 5.8% above the target's, at most 5% allowed",
        1.058, None, None, 1.05, 0.9,
    )  # fmt: skip
    reason = verdict_of(table.model_copy(update={"judgements": (failed,)})).reason
    assert reason.endswith(
        "On test it is not confirmed: MSE 5.8% above the target's, at most 5% allowed."
    )
