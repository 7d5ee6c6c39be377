"""The front on another split."""

from dataclasses import replace
from pathlib import Path

import pytest

from spec_opt.config.study_file import (
    DataConfig,
    QualityScenario,
    RecommendConfig,
    Setting,
    StudyConfig,
)
from spec_opt.config.values import Split
from spec_opt.errors import InputError, StudyError
from spec_opt.measure.measurement import Baseline, Blocks, Measurement
from spec_opt.results.confirmation import (
    Confirmation,
    confirm_points,
    confirm_study,
    confirmation_document,
    confirmation_text,
    keep_judgements,
    to_confirm,
)
from spec_opt.results.recommend import SCENARIOS
from spec_opt.results.table import read_table
from spec_opt.study.store import open_store
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
    splits: tuple[Split, Split] = ("test", "validation"),
    half_width: float | None = 0.025,
    ratio: float = 1.0,
    own: float | None = 0.0001,
) -> Confirmation:
    """Measured again: acceptance falls by `drop`, the MSE is `ratio` times the target's.

    The blocks of a measurement scatter about those of the target by `own`; None: there are none.
    """
    table = read_table(studies.study_of(*FRONT))
    known = {(sigma, bias, k): acceptance for sigma, bias, k, acceptance, _ in FRONT}
    target = Blocks(**studies.blocks(0.5, baseline.target_mse, "target", own=0.0))
    if own is not None:
        baseline = replace(baseline, target_blocks=target.mse)

    def measure(setting: Setting) -> Measurement:
        rate = known[setting.sigma, setting.bias, setting.k] - drop
        mse = 0.47 if splits[0] == splits[1] else ratio * baseline.target_mse
        blocks = Blocks(**studies.blocks(rate, mse, str(setting), own=own or 0.0))
        again = replace(measurement(setting), acceptance_rate=rate, mse=mse, blocks=blocks)
        return replace(again, acceptance_ci95=half_width)

    points = to_confirm(table)
    return confirm_points(table, points, splits, lambda p: measure(p.setting), baseline)


def judged(confirmation: Confirmation) -> dict[str, str]:
    return {one.scenario: str(one) for one in confirmation.judgements}


def test_each_scenario_is_judged_by_its_own_limit() -> None:
    found = judged(confirmed(0.0, ratio=1.058))
    assert found["quality"] == "not confirmed: MSE 5.8% above the target's, at most 5% allowed"
    assert found["speed"] == "confirmed"
    assert judged(confirmed(0.0, ratio=1.03))["quality"] == "confirmed"


def test_what_is_inside_its_limit_within_noise_only_is_not_settled() -> None:
    found = judged(confirmed(0.0, ratio=1.04, own=0.03))["quality"]
    assert found.startswith("not settled: MSE 4.0% above the target's, by these windows ±")
    unknown = judged(confirmed(0.0, ratio=1.04, own=None))["quality"]
    assert unknown == "not settled: MSE 4.0% above the target's, at most 5% allowed"


def test_the_acceptance_that_was_asked_for_is_judged_too() -> None:
    assert (
        judged(confirmed(0.3))["quality"] == "not confirmed: 40.0% accepted, at least 60.0% wanted"
    )
    found = judged(confirmed(0.08, half_width=0.05))["quality"]
    assert found == "not settled: 62.0% accepted, at least 60.0% wanted"


def test_an_absolute_limit_stays_absolute() -> None:
    limits = RecommendConfig(quality=QualityScenario(max_mse=0.46))
    table = read_table(studies.study_of(*FRONT)).model_copy(update={"limits": limits})

    def measure(setting: Setting) -> Measurement:
        return replace(measurement(setting), acceptance_rate=0.7, mse=0.465)

    points = to_confirm(table)
    baseline = replace(BASELINE, target_mse=0.5)
    splits: tuple[Split, Split] = ("test", "train")
    found = confirm_points(table, points, splits, lambda p: measure(p.setting), baseline)
    assert "at least 8% below asked" in judged(found)["quality"]


def test_the_draft_alone_is_judged_too() -> None:
    poor = replace(BASELINE, draft_mse=2 * BASELINE.target_mse)
    assert judged(confirmed(0.0, poor))["draft_alone"] == (
        "not confirmed: MSE 100.0% above the target's, at most 5% allowed"
    )
    good = replace(BASELINE, draft_mse=BASELINE.target_mse, draft_minus_target_mse_ci95=0.001)
    assert judged(confirmed(0.0, good))["draft_alone"] == "confirmed"


def test_the_judgements_come_first_and_then_both_splits() -> None:
    text = confirmation_text(confirmed(0.1, ratio=1.058), 80)
    lines = text.splitlines()
    assert lines[0] == "given: tuned on test, measured again on validation"
    assert lines[2].startswith("- speed (sigma=")
    joined = " ".join(text.split())
    assert "not confirmed: MSE 5.8% above the target's, at most 5% allowed" in joined
    assert "The speed is not judged here: `spec-opt bench` measures it." in joined
    assert joined.split(" - ")[1].endswith(
        ": MSE and acceptance confirmed: MSE 5.8% above the target's, at most 10% allowed"
    )
    assert "what sets splits apart, such as a season, is not in it" in " ".join(text.split())
    assert max(map(len, lines)) <= 80
    # 70 % of 255 windows are ±7.5 points, as the studies of the tests go.
    row = next(line.split() for line in lines if line.split()[:1] == ["2"])
    assert [row[-4], row[-3], row[-2:]] == ["70.0%", "60.0%", ["10.0", "±7.9"]]
    assert "falls nowhere" not in confirmation_text(confirmed(-0.1, ratio=1.058))


def test_judgements_are_kept_with_the_study(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    studies.empty_study("given", storage=store.storage)
    keep_judgements(store, confirmed(0.0, ratio=1.058))
    keep_judgements(store, confirmed(0.0, ratio=1.03))
    keep_judgements(store, confirmed(0.0, ratio=1.058, splits=("test", "train")))
    kept = read_table(store.optuna_study("given")).judgements
    assert [(j.split, j.outcome) for j in kept if j.scenario == "quality"] == [
        ("validation", "confirmed"),
        ("train", "not confirmed"),
    ]


def test_for_a_script() -> None:
    document = confirmation_document(confirmed(0.1))
    setting = document["settings"][1]
    assert setting["mse_ratio"]["value"] == 1.0
    assert [one["scenario"] for one in document["judgements"]] == [*SCENARIOS, "draft_alone"]
    assert setting["trial"] == 2
    assert setting["tuned"]["acceptance_rate"] == 0.7
    assert setting["confirmed"]["mse"] == 0.44
    assert setting["drop"] == pytest.approx(
        {"acceptance_rate": 0.1, "acceptance_ci95": 0.0787, "mse": 0.01, "mse_ci95": None},
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
