"""Optuna studies for tests: made up, with the attributes that a worker writes."""

import csv
import math
import random
import warnings
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from spec_opt.config.study_file import Setting
from spec_opt.measure.cost_model import Cost, Costs, LearntCosts
from spec_opt.study.trials import LONG, LONG_PREFIX

OLD_SWEEP = Path(__file__).parent.parent / "files" / "old_sweep.csv"
"""A sweep of 80 settings on 255 windows of ETTh1, in the nine columns of the old scripts."""

WINDOWS = 255
PATCHES = 4
BASELINE = {
    "target_mse": 0.4404,
    "target_mae": 0.4488,
    "target_mse_se": 0.011,
    "draft_mse": 0.4330,
    "draft_mae": 0.4462,
    "draft_mse_se": 0.0105,
    "draft_minus_target_mse_se": 0.002,
    "target_mse_ci95": 0.028,
    "draft_mse_ci95": 0.027,
    "draft_minus_target_mse_ci95": 0.008,
}
FINGERPRINTS = {"target": "t" * 12, "draft": "d" * 12, "data": "a" * 12, "decoding": "e" * 12}
VERSIONS = {"spec_opt": "0.1.0", "torch": "2.13.0", "optuna": "5.0.0"}
SPACE: dict[str, BaseDistribution] = {
    "sigma": FloatDistribution(0.01, 10.0),
    "bias": FloatDistribution(0.1, 100.0),
    "k": IntDistribution(1, 64),
}
TARGET_COST, DRAFT_COST = Cost(1.0, 0.01), Cost(0.1, 0.03)
VERIFICATION_COST = Cost(1.0, 0.01, per_proposal=0.03)
COSTS = Costs(
    TARGET_COST, TARGET_COST, DRAFT_COST, DRAFT_COST, VERIFICATION_COST, VERIFICATION_COST,
    TARGET_COST,
)  # fmt: skip
"""A small batch pays for calls, so a large k is best; a large one for windows."""
LEARNT = LearntCosts(COSTS, 0.05, (1, 64))
PLACE = "cpu, float32, rolling context, batch size 64, 2 threads"
START = datetime(2025, 3, 1, 12, 0, 0)


def empty_study(
    name: str = "made-up",
    *,
    storage: optuna.storages.BaseStorage | str | None = None,
    baseline: dict[str, float] | None = BASELINE,
    config: dict[str, Any] | None = None,
) -> optuna.Study:
    """A study of spec-opt without trials."""
    study = optuna.create_study(
        study_name=name, storage=storage, directions=["maximize", "minimize"]
    )
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study.set_metric_names(["acceptance_rate", "mse"])
    if baseline is not None:
        study.set_user_attr("baseline", baseline)
    study.set_user_attr("fingerprints", FINGERPRINTS)
    study.set_user_attr("versions", VERSIONS)
    study.set_user_attr("config", config or {"name": name, "data": DATA})
    return study


DATA = {"source": "ETTh1", "split": "test", "context": 672, "horizon": 336, "window_stride": 10}


def complete(
    setting: Setting, acceptance: float, mse: float, *, number: int = 0, **changes: Any
) -> FrozenTrial:
    """A complete trial whose counters agree with its acceptance rate."""
    found = attributes(setting, acceptance, mse) | changes
    trial = create_trial(
        state=TrialState.COMPLETE,
        params=setting.model_dump(),
        distributions=SPACE,
        values=[acceptance, mse],
        user_attrs={name: value for name, value in found.items() if name not in LONG},
        system_attrs={f"{LONG_PREFIX}{name}": found[name] for name in LONG if name in found},
    )
    start = START + timedelta(seconds=3 * number)
    trial.datetime_start, trial.datetime_complete = start, start + timedelta(seconds=2.5)
    return trial


def attributes(setting: Setting, acceptance: float, mse: float) -> dict[str, Any]:
    """The user attributes of a measured trial with these results."""
    patches = WINDOWS * PATCHES
    per_round = _patches_per_round(acceptance, setting.k)
    rounds = math.ceil(patches / per_round)
    tested_by_position = [
        round(rounds * acceptance**position) for position in range(min(setting.k, PATCHES))
    ] + [0] * max(0, setting.k - PATCHES)
    accepted_by_position = [round(tested * acceptance) for tested in tested_by_position]
    return {
        "mae": mse * 0.4 + 0.28,
        "acceptance_se": math.sqrt(acceptance * (1 - acceptance) / WINDOWS),
        "acceptance_ci95": 2.6 * math.sqrt(acceptance * (1 - acceptance) / WINDOWS),
        "mse_se": 0.011,
        "mse_ci95": 0.028,
        "mse_baseline": BASELINE["target_mse"],
        "windows": WINDOWS,
        "accepted": sum(accepted_by_position),
        "tested": sum(tested_by_position),
        "proposed": rounds * setting.k,
        "rounds": rounds,
        "bonus": round(rounds * acceptance**setting.k),
        "patches": patches,
        "patches_per_round": per_round,
        "accepted_by_position": accepted_by_position,
        "tested_by_position": tested_by_position,
        "target_evaluations": 300,
        "draft_evaluations": 310,
        "thinning_exhausted": 0,
        "evaluation_seconds": 0.31,
        "predicted_speedup": per_round / (1 + 0.15 * setting.k),
        **{f"{name}_fingerprint": value for name, value in FINGERPRINTS.items()},
        "device": "cpu",
        "versions": VERSIONS,
        "commit": None,
        "worker": "host:1",
        "source": "measured",
        "blocks": blocks(acceptance, mse, f"{setting}"),
    }


def blocks(acceptance: float, mse: float, seed: str, *, own: float = 0.001) -> dict[str, Any]:
    """Errors that all settings share, and `own` ones: MSEs within about `own` are a tie."""
    generator = random.Random(seed)
    count = 20
    dice = [generator.gauss(0, 1) for _ in range(count)]
    mean = math.fsum(dice) / count
    shared = [0.1 * math.cos(2 * math.pi * 3 * i / count) for i in range(count)]
    errors = [mse + shared[i] + own * (dice[i] - mean) for i in range(count)]
    tested = [4 * WINDOWS // count] * count
    return {
        "rows": [120 * i for i in range(count)],
        "windows": [12] * count,
        "width": 110,
        "context": 672,
        "horizon": 336,
        "mse": errors,
        "accepted": [round(acceptance * n) for n in tested],
        "tested": tested,
    }


def _patches_per_round(acceptance: float, k: int) -> float:
    """Expected patches of a round, capped at a forecast's length."""
    return min(sum(acceptance**i for i in range(k + 1)), float(PATCHES))


def old_sweep_rows() -> list[dict[str, float]]:
    with OLD_SWEEP.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def grid_study(name: str = "etth1-grid", **options: Any) -> optuna.Study:
    """The grid of 80 with the results of the old sweep."""
    study = empty_study(name, **options)
    study.add_trials(
        complete(
            Setting(sigma=row["sigma"], bias=row["bias"], k=int(row["k"])),
            row["acceptance_pct"] / 100,
            row["mse"],
            number=number,
            mae=row["mae"],
            grid_point=number,
        )
        for number, row in enumerate(old_sweep_rows())
    )
    return study


def continuous_study(
    trials: int = 300, seed: int = 0, name: str = "etth1-tpe", **options: Any
) -> optuna.Study:
    """Settings drawn from ranges, as a continuous sampler does, in a rule that is smooth."""
    study = empty_study(name, **options)
    study.add_trials(random_trials(trials, seed))
    return study


@cache
def large_study() -> optuna.Study:
    """10,000 trials; made once, so that nobody may change it."""
    return continuous_study(10_000, name="large")


def random_trials(trials: int, seed: int) -> Iterable[FrozenTrial]:
    """Trials whose acceptance rises with sigma and bias, and whose MSE rises with acceptance."""
    generator = random.Random(seed)
    for number in range(trials):
        setting = Setting(
            sigma=math.exp(generator.uniform(math.log(0.05), 0.0)),
            bias=generator.uniform(1.0, 10.0),
            k=generator.randint(1, 8),
        )
        lift = 3.5 * math.log(setting.sigma / 0.25) + 1.2 * math.log(setting.bias)
        acceptance = 1 / (1 + math.exp(-lift + generator.gauss(0, 0.25)))
        mse = 0.4404 + 0.03 * acceptance**2 + 0.002 * setting.k + generator.gauss(0, 0.002)
        yield complete(setting, acceptance, mse, number=number)


def rejecting_study() -> optuna.Study:
    """Nothing is ever accepted."""
    study = empty_study("all-rejected")
    for sigma in (0.05, 0.1):
        for k in (1, 4):
            study.add_trial(complete(Setting(sigma=sigma, bias=1.0, k=k), 0.0, 0.4404 + sigma**2))
    return study


def failing_study() -> optuna.Study:
    """Only failed trials, one of them before it drew a setting, and one still waiting."""
    study = empty_study("all-failed")
    for sigma in (0.1, 0.25):
        study.add_trial(
            create_trial(
                state=TrialState.FAIL,
                params=Setting(sigma=sigma, bias=1.0, k=1).model_dump(),
                distributions=SPACE,
                user_attrs={"error": "DecodingError: forecast is not finite", "worker": "host:1"},
            )
        )
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.enqueue_trial(Setting(sigma=0.1, bias=1.0, k=1).model_dump())
    return study


def single_study() -> optuna.Study:
    study = empty_study("single")
    study.add_trial(complete(Setting(sigma=0.25, bias=2.0, k=4), 0.91, 0.452))
    return study


def three_objectives() -> optuna.Study:
    """Predicted speedup is the third: trial 1 is on the front for its sake alone."""
    study = optuna.create_study(study_name="three", directions=["maximize", "minimize", "maximize"])
    objectives = ["acceptance_rate", "mse", "speedup"]
    study.set_user_attr(
        "config", {"name": "three", "data": DATA, "search": {"objectives": objectives}}
    )
    for k, acceptance, mse, speedup in (
        (4, 0.9, 0.45, 1.1),
        (2, 0.8, 0.46, 1.4),
        (3, 0.6, 0.44, 1.0),
    ):
        trial = complete(Setting(sigma=0.3, bias=1.0, k=k), acceptance, mse)
        trial.values = [acceptance, mse, speedup]
        study.add_trial(trial)
    return study


def study_of(*results: tuple[float, float, int, float, float], **options: Any) -> optuna.Study:
    """A study of trials given as (sigma, bias, k, acceptance, mse)."""
    study = empty_study("given", **options)
    for sigma, bias, k, acceptance, mse in results:
        study.add_trial(complete(Setting(sigma=sigma, bias=bias, k=k), acceptance, mse))
    return study
