"""Samplers by name or by class: made, checked before any work, and failing in good order."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from spec_opt.config.study_file import SearchConfig
from spec_opt.errors import InputError, WorkError
from spec_opt.study.claims import ClaimedTrial, Claims
from spec_opt.study.samplers import check_sampler, make_sampler
from spec_opt.study.store import Store
from tests.study.stand_in import stand_in_study

OWN = """
from optuna.samplers import RandomSampler


class Lowest(RandomSampler):
    def __init__(self, floor=0.0):
        super().__init__()
        self.floor = floor

    def sample_independent(self, study, trial, param_name, param_distribution):
        if trial.number == 2:
            raise ZeroDivisionError("nothing is lower")
        if hasattr(param_distribution, "choices"):
            return param_distribution.choices[0]
        return max(self.floor, param_distribution.low)


def function():
    return 1
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with a sampler of one's own in the working folder."""
    (tmp_path / "own_samplers.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_samplers", raising=False)


def search(sampler: str, **options: Any) -> SearchConfig:
    n_trials = None if sampler == "grid" else 5
    return SearchConfig(sampler=sampler, n_trials=n_trials, options=options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grid", optuna.samplers.GridSampler),
        ("tpe", optuna.samplers.TPESampler),
        ("gp", optuna.samplers.GPSampler),
        ("random", optuna.samplers.RandomSampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
        ("optuna.samplers:NSGAIIISampler", optuna.samplers.NSGAIIISampler),
        ("optuna.samplers:BruteForceSampler", optuna.samplers.BruteForceSampler),
    ],
)
def test_the_sampler_is_the_one_named(name: str, kind: type) -> None:
    check_sampler(search(name))
    assert isinstance(make_sampler(search(name), seed=0), kind)


def test_options_and_seed_reach_the_sampler() -> None:
    made = make_sampler(search("own_samplers:Lowest", floor=0.3), seed=7)
    assert vars(made)["floor"] == 0.3
    numbers = [
        make_sampler(search("optuna.samplers:RandomSampler"), seed=seed)
        .sample_independent(
            optuna.create_study(), None, "x", optuna.distributions.FloatDistribution(0, 1)  # type: ignore[arg-type]
        )
        for seed in (7, 7, 8)
    ]  # fmt: skip
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("optuna.samplers:Nothing", {}, "module optuna.samplers has no 'Nothing'"),
        ("no_such_package:Sampler", {}, "there is no module no_such_package"),
        ("own_samplers:function", {}, "is no class of Optuna's kind"),
        ("tpe", {"n_startup": 5}, r"search\.options\.n_startup: .* it takes .*n_startup_trials"),
        ("nsga2", {"population_size": 1}, "'nsga2': ValueError: `population_size`"),
        ("optuna.samplers:CmaEsSampler", {}, "CmaEsSampler'"),
        ("own_samplers:Lowest", {"floor": "a"}, r"own_samplers\.py:\d+: TypeError"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_work(
    sampler: str, options: dict[str, Any], message: str
) -> None:
    space: dict[str, Any] = {"sigma": {"low": 0.1, "high": 1.0}}
    asked = {"sampler": sampler, "n_trials": 5, "options": options} | space
    with pytest.raises(InputError, match=message) as raised:
        check_sampler(SearchConfig.model_validate(asked))
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_sampler_that_fails_later_gives_its_trial_back(store: Store) -> None:
    study = stand_in_study(store, sampler="own_samplers:Lowest", n_trials=5)
    claims = Claims(study)
    for _ in range(2):
        claimed = claims.claim()
        assert isinstance(claimed, ClaimedTrial)
        claims.finish(claimed, (0.5, 0.4), {"source": "measured"})
    with pytest.raises(WorkError, match=r"own_samplers\.py:\d+: ZeroDivisionError: nothing is"):
        claims.claim()
    trials = study.optuna_study().get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 2 + [TrialState.FAIL]
    assert trials[-1].user_attrs["failure"] == "interrupted"
