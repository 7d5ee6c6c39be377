"""Each scenario, its reasons, and what is said where nothing meets it."""

import json
import tomllib
from collections.abc import Sequence

import optuna
import pytest

from spec_opt.config.study_file import (
    BalancedScenario,
    QualityScenario,
    RecommendConfig,
    Setting,
    SpeedScenario,
)
from spec_opt.errors import StudyError
from spec_opt.results.recommend import (
    SCENARIOS,
    Recommendation,
    Scenario,
    recommend,
    recommend_all,
)
from spec_opt.results.render import RecommendFormat, flags, render
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import StudyTable, read_table
from spec_opt.results.verdict import verdict_of, worth_timing
from tests.results import studies

GRID = read_table(studies.grid_study())
WIDE = RecommendConfig(quality=QualityScenario(max_mse_ratio=2.0, min_acceptance=0.0))


def within(table: StudyTable, limits: RecommendConfig) -> StudyTable:
    return table.model_copy(update={"limits": limits})


def text_of(
    recommendations: Sequence[Recommendation],
    table: StudyTable = GRID,
    style: RecommendFormat = "text",
) -> str:
    return render(recommendations, style, table=table, verdict=verdict_of(table))


# sigma, bias, k, acceptance, mse; the target alone has 0.4404.
SMOOTH = (
    (0.05, 1.0, 4, 0.10, 0.4330),
    (0.10, 1.0, 4, 0.58, 0.4340),
    (0.20, 1.0, 4, 0.70, 0.4380),
    (0.30, 1.0, 4, 0.90, 0.4400),
    (0.50, 1.0, 4, 1.00, 0.4700),
    (0.50, 1.0, 2, 1.00, 0.4600),
)


def smooth(**options: object) -> StudyTable:
    return read_table(studies.study_of(*SMOOTH, **options))


def without_predictions() -> StudyTable:
    study = studies.empty_study()
    for sigma, bias, k, acceptance, mse in SMOOTH:
        setting = Setting(sigma=sigma, bias=bias, k=k)
        study.add_trial(studies.complete(setting, acceptance, mse, predicted_speedup=None))
    return read_table(study)


def test_without_a_known_speedup_speed_takes_the_highest_acceptance_at_a_k_that_can_pay() -> None:
    found = recommend(without_predictions(), "speed")
    assert found.trial == 4
    assert found.setting == Setting(sigma=0.5, bias=1.0, k=4)
    assert found.mse_ratio == pytest.approx(0.47 / 0.4404)
    assert (
        "highest acceptance of the 5 trials with k >= 4 (no speedup is known, so the guide's rule)"
        in found.why
    )
    assert "6.7% above the target alone" in found.why
    assert found.close is not None
    assert "Next is trial 3" in found.close


def test_quality_takes_the_lowest_error_within_its_bounds() -> None:
    found = recommend(smooth(), "quality")
    assert found.trial == 2


def test_balanced_weighs_what_each_gives_up() -> None:
    thresholds = RecommendConfig(balanced=BalancedScenario(max_mse=0.48, min_acceptance=0.6))
    # Of the margins 0.4 and 0.042: trial 2 uses 0.75 + 0, trial 3 0.25 + 0.05, trial 4 0 + 0.76.
    assert recommend(within(smooth(), thresholds), "balanced").trial == 3


def test_a_plateau_goes_to_the_mildest_setting_whatever_the_order() -> None:
    for scenario in ("speed", "balanced"):
        found = recommend(GRID, scenario)
        assert found.trial == 43
        assert found.close is not None
        assert "Trials 48, 53, 58, 63, 68, 73, … (7 in all) give exactly the same" in found.close
    rows = [(s, b, k, a, m) for s, b, k, a, m in SMOOTH]
    rows += [(0.9, 1.0, 4, 1.0, 0.47), (0.4, 2.0, 4, 1.0, 0.47), (0.4, 1.0, 4, 1.0, 0.47)]
    for order in (rows, rows[::-1]):
        found = recommend(read_table(studies.study_of(*order)), "speed")
        assert found.setting == Setting(sigma=0.4, bias=1.0, k=4)


def test_a_failing_threshold_is_named_with_its_gap_and_the_cause() -> None:
    found = recommend(GRID, "quality")
    assert found.trial is None
    assert "No trial has MSE <= 0.4624 (1.05 times the target alone, 0.4404)" in found.reason
    assert "0.0132 (2.9%) over the limit" in found.reason
    assert "60.0 percentage points short" in found.reason
    assert "sampled patches carry noise" in found.reason


def test_honest_cautions_on_the_grid() -> None:
    cautions = " ".join(recommend(GRID, "speed").cautions)
    assert "The draft alone is as accurate as the target" in cautions
    assert "up to 0.1 no trial accepts more than 0%, from 0.5 on none accepts less" in cautions
    assert "Bias hardly matters" in cautions
    assert "2.2 percentage points" in cautions


def test_a_slope_is_not_called_a_switch() -> None:
    found = recommend(read_table(studies.continuous_study()), "speed")
    assert "switch" not in found.reason


def with_speeds(*speeds: tuple[float | None, float | None]) -> StudyTable:
    """Trials that accept more and more; predicted and measured speedups of each."""
    study = studies.empty_study()
    for index, (predicted, _) in enumerate(speeds):
        setting = Setting(sigma=0.1 + 0.1 * index, bias=1.0, k=2)
        acceptance, mse = 0.5 + 0.1 * index, 0.44 + 0.01 * index
        study.add_trial(studies.complete(setting, acceptance, mse, predicted_speedup=predicted))
    rows = [
        {"trial": trial, "device": "cpu", "batch_size": 64, "speedup": measured,
         "predicted_speedup": None, "runs": 3}
        for trial, (_, measured) in enumerate(speeds) if measured is not None
    ]  # fmt: skip
    study.set_user_attr("speedups", rows)
    return read_table(study)


@pytest.mark.parametrize(
    ("speeds", "trial", "words"),
    [
        # Whoever accepts more is not the faster one.
        (
            [(0.9, 0.87), (0.95, 0.78)],
            0,
            "the highest measured speedup, 0.87x (batch size 64, cpu)",
        ),
        ([(1.2, None), (0.9, None)], 0, "the highest predicted speedup, 1.20x"),
        # Trial 2 was expected to be slower than trial 1, which turned out to be slow.
        ([(0.8, 0.78), (1.2, 0.7), (1.1, None)], 0, "measured speedup, 0.78x"),
        # A prediction higher than any that was tested.
        ([(0.8, 0.78), (1.2, None)], 1, "predicted speedup, 1.20x"),
        ([(None, None), (None, 0.9)], 1, "measured speedup, 0.90x"),
    ],
)
def test_speed_is_the_highest_speedup(
    speeds: list[tuple[float | None, float | None]], trial: int, words: str
) -> None:
    found = recommend(with_speeds(*speeds), "speed")
    assert found.trial == trial
    assert words in found.why


@pytest.mark.parametrize(
    ("speed", "caution"),
    [
        ((1.2, 0.87), "was measured slower than the target alone: 0.87x at batch size 64."),
        ((0.9, None), "is predicted to be slower than the target alone: 0.90x."),
        ((0.9, 1.2), None),
        ((None, None), None),
    ],
)
def test_it_is_said_where_it_is_slower_than_the_target(
    speed: tuple[float | None, float | None], caution: str | None
) -> None:
    found = recommend(within(with_speeds(speed), WIDE), "quality")
    assert found.trial == 0
    said = [one for one in found.cautions if "slower" in one]
    assert said == ([] if caution is None else [f"sigma=0.1 bias=1 k=2 {caution}"])


def test_a_single_run_is_not_every_run() -> None:
    table = with_speeds((1.2, None), (1.1, None), (1.0, None))
    single = Speedup(0, "cpu", 64, None, 1.17, 1.17, 1.17, 1)
    scattered = Speedup(1, "cpu", 1, None, 1.21, 0.9, 1.6, 9)
    found = recommend(table.model_copy(update={"speedups": (single, scattered)}), "speed")
    assert found.trial == 1
    assert found.why.startswith(
        "Trial 1 has the highest measured speedup, about 1.2x (batch size 1, cpu), of the 2 timed "
        "among the 3 trials with"
    )


def test_a_forecast_that_is_the_drafts_is_said_to_be() -> None:
    results = (0.2, 2.0, 4, 1.0, studies.BASELINE["draft_mse"]), (0.1, 1.0, 1, 1.0, 0.44)
    table = read_table(studies.study_of(*results))
    table = table.model_copy(
        update={"speedups": (Speedup(None, "cpu", 1, None, 1.7, 1.6, 1.8, 5),)}
    )
    found = recommend_all(table)
    text = " ".join(text_of(found, table).split())
    assert (
        text.count(
            "With sigma=0.2 bias=2 k=4 every proposal is kept: the forecast is the draft's, which "
            "alone is 1.70x as fast as the target alone at batch size 1."
        )
        == 1
    )
    assert "With sigma=0.1" not in text


def test_speed_keeps_to_its_limit_on_the_error() -> None:
    table = with_speeds((1.1, None), (1.2, None), (1.3, None))
    limits = RecommendConfig(speed=SpeedScenario(max_mse_ratio=1.03))
    found = recommend(within(table, limits), "speed")
    assert found.trial == 1
    assert "MSE <= 0.4536 (1.03 times the target alone, 0.4404)" in found.why


def test_what_is_worth_timing() -> None:
    table = with_speeds((0.9, None), (1.0, None), (1.2, None))
    assert {p.number for p in worth_timing(table)} == {
        *(r.trial for r in recommend_all(table) if r.trial is not None),
        2,
    }
    # Nothing is recommended, and nothing predicted: still the verdict needs a measurement.
    assert len(worth_timing(read_table(studies.rejecting_study()))) == 1
    assert worth_timing(read_table(studies.failing_study())) == []


@pytest.mark.parametrize(
    ("predicted", "measured", "words"),
    [
        (None, None, "predicted speedup not known"),
        (0.8, None, "predicted speedup 0.80x"),
        (0.8, 1.3, "best measured speedup 1.30x"),
    ],
)
def test_a_speedup_is_measured_or_predicted(
    predicted: float | None, measured: float | None, words: str
) -> None:
    table = with_speeds((predicted, measured))
    text = text_of([recommend(within(table, WIDE), "quality")], table)
    assert words in " ".join(text.split())


def test_differences_within_noise_are_called_so() -> None:
    found = recommend(smooth(), "quality")
    assert found.close is not None
    assert "Within the noise" not in found.close
    table = read_table(studies.study_of((0.1, 1.0, 4, 0.80, 0.44), (0.2, 1.0, 4, 0.80, 0.4401)))
    close = recommend(table, "quality").close
    assert close is not None
    assert "Within the noise of measuring it could be as good in both objectives." in close


def test_longer_rounds_within_noise_are_pointed_out() -> None:
    rows = ((0.3, 1.0, 1, 1.0, 0.4330), (0.3, 1.0, 2, 1.0, 0.4331), (0.3, 1.0, 4, 1.0, 0.4332))
    close = recommend(read_table(studies.study_of(*rows)), "quality").close
    assert close is not None
    assert "more patches per round (4.00 instead of 2.00), is trial 2 " in close
    far = (*rows[:1], (0.3, 1.0, 4, 1.0, 0.4530))
    close = recommend(read_table(studies.study_of(*far)), "quality").close
    assert close is not None
    assert "patches per round" not in close


def test_imported_results_have_no_baseline_and_it_is_said() -> None:
    study = studies.empty_study(baseline=None)
    for setting, acceptance, mse in (
        (Setting(sigma=0.25, bias=1.0, k=4), 0.9, 0.50),
        (Setting(sigma=0.1, bias=1.0, k=4), 0.0, 0.45),
    ):
        trial = studies.complete(setting, acceptance, mse)
        trial.user_attrs = {"source": "imported"}
        study.add_trial(trial)
    found = recommend(read_table(study), "quality")
    assert "1.05 times the lowest MSE here, 0.4500" in found.reason
    assert "All of 2 completed trials were imported" in found.reason
    speed = recommend(read_table(study), "speed")
    assert speed.trial == 0
    assert speed.mse_ratio is None


def test_absolute_limits_take_precedence() -> None:
    limits = QualityScenario(max_mse=0.4390, max_mse_ratio=2.0, min_acceptance=0.6)
    found = recommend(within(smooth(), RecommendConfig(quality=limits)), "quality")
    assert found.trial == 2
    assert "MSE <= 0.4390 (max_mse)" in found.why


def test_the_margin_of_an_edited_study_file_counts() -> None:
    close = studies.BASELINE | {"draft_mse": 0.4424, "draft_minus_target_mse_ci95": 0.001}
    table = read_table(studies.study_of((0.1, 1.0, 2, 0.9, 0.44), baseline=close))
    strict = within(table, RecommendConfig(equivalence_margin=0.001))
    assert "as accurate as the target" in recommend(table, "quality").reason
    assert "as accurate as the target" not in recommend(strict, "quality").reason


def test_thresholds_come_from_the_study_unless_given() -> None:
    stored = {
        "name": "x",
        "data": studies.DATA,
        "recommend": {"quality": {"max_mse": 0.5, "min_acceptance": 0.95}},
    }
    table = smooth(config=stored)
    assert recommend(table, "quality").trial == 5
    assert recommend(within(table, RecommendConfig()), "quality").trial == 2


def test_a_limit_below_the_target_is_pointed_out() -> None:
    limits = RecommendConfig(quality=QualityScenario(max_mse=0.40, min_acceptance=0.6))
    reason = recommend(within(smooth(), limits), "quality").reason
    assert "below the target's own MSE (0.4404)" in reason


def test_no_k_large_enough() -> None:
    found = recommend(
        within(without_predictions(), RecommendConfig(speed=SpeedScenario(min_k=6))), "speed"
    )
    assert found.trial is None
    assert "the largest tried is 4, 2 short" in found.why


def test_nothing_accepted() -> None:
    for found in recommend_all(read_table(studies.rejecting_study())):
        assert found.trial is None
        assert "sigma is too small for the gap" in found.reason
        assert "The draft is not the cause" in found.reason


WEAK = studies.BASELINE | {"draft_mse": 0.60}
NETWORK = {"name": "given", "data": studies.DATA, "draft": {"kind": "timer-xl"}}
FITTED = {"name": "given", "data": studies.DATA, "draft": {"kind": "linear"}}


def test_a_weak_draft_is_named_with_its_remedy() -> None:
    results = (0.1, 1.0, 4, 0.2, 0.45), (0.2, 1.0, 4, 0.3, 0.46)
    study = studies.study_of(*results, baseline=WEAK, config=NETWORK)
    reason = recommend(read_table(study), "quality").reason
    assert "The draft is weak: its own MSE is 36.2% above the target's" in reason
    assert "now teacher_noise 0.05, scale 0.25" in reason
    assert "Acceptance still rises at the largest sigma tried (0.2, 30.0% on average)" in reason


def test_where_both_bounds_fail_the_advice_is_that_for_acceptance() -> None:
    """The lists for acceptance and for error would ask for more and for less noise."""
    results = (0.1, 1.0, 4, 0.2, 0.65), (0.2, 1.0, 4, 0.3, 0.60)
    study = studies.study_of(*results, baseline=WEAK, config=NETWORK)
    advice = " ".join(recommend(read_table(study), "quality").advice)
    assert "Distil it with more teacher_noise" in advice
    assert "less noise" not in advice


def test_an_undertrained_draft_and_high_errors() -> None:
    results = (0.1, 1.0, 4, 0.8, 0.65), (0.2, 1.0, 4, 0.9, 0.60)
    study = studies.study_of(*results, baseline=WEAK, config=NETWORK)
    reason = recommend(read_table(study), "quality").reason
    assert "it is undertrained, or its teacher_noise too high" in reason
    assert "now 10 epochs" in reason


def test_a_fitted_draft_is_not_to_be_distilled_with_other_noise() -> None:
    for acceptance in (0.2, 0.8):
        results = (0.1, 1.0, 4, acceptance, 0.65), (0.2, 1.0, 4, acceptance + 0.1, 0.60)
        study = studies.study_of(*results, baseline=WEAK, config=FITTED)
        advice = " ".join(recommend(read_table(study), "quality").advice)
        assert "[draft] kind = 'timer-xl'" in advice
        assert "teacher_noise" not in advice


@pytest.mark.parametrize(
    ("rule", "acceptance", "mse", "words"),
    [
        ("exact", 0.01, 0.44, "Rule 'exact' tests all elements"),
        ("point", 0.90, 0.60, "With rule 'point' sigma is the gap"),
    ],
)
def test_advice_knows_the_rule(rule: str, acceptance: float, mse: float, words: str) -> None:
    config = {"name": "x", "data": studies.DATA, "decoding": {"rule": rule}}
    study = studies.study_of((0.1, 1.0, 4, acceptance, mse), config=config)
    assert words in recommend(read_table(study), "balanced").reason


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (studies.empty_study(), "no completed trial yet"),
        (studies.failing_study(), "3 trials failed, the last with: DecodingError"),
    ],
)
def test_studies_without_results(study: optuna.Study, words: str) -> None:
    for found in recommend_all(read_table(study)):
        assert found.trial is None
        assert words in found.reason
        assert found.cautions == ()


def test_json_is_the_documented_contract() -> None:
    whole = json.loads(text_of(recommend_all(GRID), style="json"))
    assert (whole["study"], whole["verdict"]["decision"]) == ("etth1-grid", "unknown")
    both = whole["recommendations"]
    assert [document["scenario"] for document in both] == list(SCENARIOS)
    speed, quality, _ = both
    assert speed["trial"] == 43
    assert speed["setting"] == {"sigma": 0.5, "bias": 1.0, "k": 4}
    assert speed["acceptance_rate"] == 1.0
    assert speed["mse"] == pytest.approx(0.4756, abs=1e-4)
    assert quality["trial"] is None
    assert quality["setting"] is None
    assert quality["reason"]
    (one,) = json.loads(text_of([recommend(GRID, "balanced")], style="json"))["recommendations"]
    assert one["scenario"] == "balanced"


def test_scenarios_of_one_choice_are_one_text() -> None:
    text = text_of(recommend_all(GRID))
    assert "Maximize speed, balanced: sigma=0.5 bias=1 k=4" in text
    assert text.count("sigma=0.5 bias=1 k=4\n") == 1


def test_toml_reads_back() -> None:
    one = tomllib.loads(text_of([recommend(GRID, "speed")], style="toml"))
    assert one == {"decoding": {"sigma": 0.5, "bias": 1.0, "k": 4}}
    three = tomllib.loads(text_of(recommend_all(GRID), style="toml"))
    assert three["balanced"]["decoding"]["k"] == 4
    assert "quality" not in three


def test_flags_are_those_of_the_old_script() -> None:
    assert flags(Setting(sigma=0.25, bias=2.0, k=4)) == (
        "--spec_sigma 0.25 --spec_accept_bias 2 --spec_k 4"
    )
    text = text_of([recommend(GRID, "speed")], style="flags")
    assert text == "--spec_sigma 0.5 --spec_accept_bias 1 --spec_k 4"
    assert text_of(recommend_all(GRID), style="flags").count("--spec_sigma") == 2


def test_flags_keep_every_digit() -> None:
    setting = Setting(sigma=0.1 + 0.2, bias=1.25e-05, k=1)
    words = flags(setting).split()
    assert float(words[1]) == setting.sigma
    assert float(words[3]) == setting.bias


@pytest.mark.parametrize("style", ["toml", "flags"])
def test_no_setting_is_an_error_for_a_script(style: RecommendFormat) -> None:
    with pytest.raises(StudyError, match="quality: No trial has MSE"):
        text_of([recommend(GRID, "quality")], style=style)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_text_of_one_scenario_fits_a_terminal(scenario: Scenario) -> None:
    text = text_of([recommend(GRID, scenario)], style="text")
    assert max(map(len, text.splitlines())) <= 96


def test_text_of_all_says_common_things_once() -> None:
    text = text_of(recommend_all(GRID), style="text")
    assert text.count("The draft alone is as accurate") == 1
    assert text.index("Know before you use it") > text.index("Maintain quality: ")
