"""Variants searched with the settings: each draft made once, each pair measured once."""

import json
import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.measure.measurement import Measurement
from spec_opt.measure.objective import MOST_VARIANTS, StudyObjective
from spec_opt.study.claims import ClaimedTrial, Claims
from spec_opt.study.progress import progress
from spec_opt.study.space import (
    GridPoint,
    asks_for_variant,
    grid_variants,
    point_count,
    points_of,
    variant_params,
)
from spec_opt.study.store import Store
from spec_opt.study.study import Study, open_study
from spec_opt.study.worker import run_worker
from tests.study.stand_in import BASELINE, FINGERPRINTS, StandIn, measurement

SMALL: dict[str, Any] = {"sigma": [0.1, 0.2], "bias": [1.0], "k": [1, 2]}
LINEAR = Variant(draft_kind="linear")
TINY = {
    "name": "tiny",
    "data": {
        "source": "synthetic", "context": 48, "horizon": 36, "max_windows": 8,
        "synthetic": {"rows": 400},
    },
    "target": {
        "patch": 12, "d_model": 16, "heads": 2, "feedforward": 16, "layers": 1,
        "training": {"epochs": 1, "max_windows": 32},
    },
    "draft": {"kind": "timer-xl", "training": {"epochs": 1, "max_windows": 32}},
    "decoding": {"device": "cpu"},
}  # fmt: skip


def tiny(search: dict[str, Any] | None = None, **tables: Any) -> StudyConfig:
    """A study that makes its models, within a second."""
    document = TINY | tables | {"search": SMALL | (search or {})}
    return StudyConfig.model_validate_json(json.dumps(document))


def stand_in(store: Store, search: dict[str, Any]) -> Study:
    return open_study(store, tiny(search), FINGERPRINTS, BASELINE, {})


class Noting(StandIn):
    """Notes the variant and the setting of each measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[GridPoint] = []
        self._variant = AS_WRITTEN

    def of(self, variant: Variant) -> "Noting":
        self._variant = variant
        return self

    def __call__(self, setting: Setting) -> Measurement:
        self.noted.append(GridPoint(self._variant, setting))
        return measurement(setting)


class TestSpace:
    def test_a_study_without_variants_has_the_one_as_written(self) -> None:
        config = tiny()
        assert grid_variants(config) == (AS_WRITTEN,)
        assert variant_params(config, AS_WRITTEN) == {}
        assert [point.setting.k for point in points_of(config)] == [1, 2, 1, 2]
        assert points_of(tiny({"sampler": "random", "n_trials": 3})) == ()

    def test_all_values_with_all_others_but_each_draft_once(self) -> None:
        config = tiny({"draft_kind": ["timer-xl", "linear"], "draft_epochs": [1, 2]})
        assert grid_variants(config) == (AS_WRITTEN, Variant(draft_epochs=2), LINEAR)
        assert variant_params(config, AS_WRITTEN) == {"draft_kind": "timer-xl", "draft_epochs": 1}
        assert variant_params(config, LINEAR) == {"draft_kind": "linear"}
        assert point_count(config) == len(points_of(config)) == 12

    def test_one_at_a_time_is_the_file_and_each_value_alone(self) -> None:
        search = {
            "combine": "one-at-a-time",
            "teacher_noise": [0.1],
            "draft_epochs": [1, 2],
            "draft_kind": ["linear"],
        }
        config = tiny(search)
        noisy, longer = Variant(teacher_noise=0.1), Variant(draft_epochs=2)
        assert grid_variants(config) == (AS_WRITTEN, LINEAR, noisy, longer)
        assert variant_params(config, longer) == {
            "draft_kind": "timer-xl",
            "teacher_noise": 0.05,
            "draft_epochs": 2,
        }

    def test_what_is_asked_for(self) -> None:
        grid = tiny({"draft_epochs": [1, 2]})
        assert asks_for_variant(grid, Variant(draft_epochs=2))
        assert not asks_for_variant(grid, Variant(draft_epochs=3))
        drawn = {"sampler": "random", "n_trials": 3}
        config = tiny(drawn | {"teacher_noise": {"low": 0.0, "high": 0.2}})
        assert asks_for_variant(config, Variant(teacher_noise=0.1))
        assert not asks_for_variant(config, Variant(teacher_noise=0.3))
        assert not asks_for_variant(config, LINEAR)
        assert point_count(config) is None


class TestTrials:
    def test_a_grid_measures_each_point_once_and_grows(self, store: Store) -> None:
        search = {"draft_kind": ["timer-xl", "linear"], "draft_epochs": [1, 2]}
        objective = Noting()
        study = stand_in(store, search)
        run_worker(study, objective, threading.Event())
        assert Counter(objective.noted) == Counter(points_of(study.config))
        seen = progress(study)
        assert (seen.total, seen.missing, seen.distinct, seen.settings) == (12, 0, 12, 12)

        grown = stand_in(store, search | {"draft_epochs": [1, 2, 3], "teacher_noise": [0.05]})
        more = Noting()
        run_worker(grown, more, threading.Event())
        assert {point.variant for point in more.noted} == {Variant(draft_epochs=3)}
        assert len(more.noted) == 4

    def test_a_plain_study_goes_on_with_variants(self, store: Store) -> None:
        run_worker(stand_in(store, {}), Noting(), threading.Event())
        objective = Noting()
        run_worker(stand_in(store, {"draft_scale": [0.25, 0.5]}), objective, threading.Event())
        assert {point.variant for point in objective.noted} == {Variant(draft_scale=0.5)}

    def test_a_worker_keeps_to_its_draft_and_others_take_others(self, store: Store) -> None:
        study = stand_in(store, {"draft_epochs": [1, 2, 3]})
        workers = [Claims(study) for _ in range(2)]
        taken: list[list[Variant]] = [[], []]
        for _ in range(4):
            held = [claims.claim() for claims in workers]
            for claims, claimed, mine in zip(workers, held, taken, strict=True):
                assert isinstance(claimed, ClaimedTrial)
                mine.append(claimed.variant)
                assert claims.finish(claimed, (0.5, 0.4), {"source": "measured"})
        assert [len(set(mine)) for mine in taken] == [1, 1]
        assert taken[0][0] != taken[1][0]

    def test_trials_hold_their_draft(self, store: Store) -> None:
        study = stand_in(store, {"draft_kind": ["timer-xl", "linear"], "draft_epochs": [1, 2]})
        run_worker(study, Noting(), threading.Event())
        trials = study.optuna_study().get_trials()
        found = {json.dumps(t.user_attrs.get("variant")) for t in trials}
        assert found == {"null", '{"draft_epochs": 2}', '{"draft_kind": "linear"}'}
        linear = next(t for t in trials if t.params["draft_kind"] == "linear")
        assert "draft_epochs" not in linear.params
        assert linear.user_attrs["draft_path"] == "draft.safetensors"
        assert linear.user_attrs["draft_mse"] == BASELINE.draft_mse

    @pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
    def test_a_sampler_measures_no_pair_twice(self, sampler: str, store: Store) -> None:
        search = {
            "sampler": sampler,
            "n_trials": 25,
            "sigma": [0.1],
            "draft_kind": ["timer-xl", "linear"],
            "draft_epochs": [1, 2],
            "rule": ["stride", "point"],
        }
        study, objective = stand_in(store, search), Noting()
        run_worker(study, objective, threading.Event())
        assert progress(study).settings == 12
        assert len(set(objective.noted)) == len(objective.noted) <= 12
        for trial in study.optuna_study().get_trials():
            assert trial.state == optuna.trial.TrialState.COMPLETE
            assert ("draft_epochs" in trial.params) == (trial.params["draft_kind"] == "timer-xl")

    def test_settings_that_fail_are_given_up_for_their_draft_alone(self, store: Store) -> None:
        class Failing(Noting):
            def of(self, variant: Variant) -> Noting:
                if variant == LINEAR:
                    raise ValueError("no such draft")
                return super().of(variant)

        search = {"draft_kind": ["timer-xl", "linear"], "max_attempts": 1, "sigma": [0.1]}
        study = stand_in(store, search)
        run_worker(study, Failing(), threading.Event())
        given_up = progress(study).given_up
        assert {g.variant for g in given_up} == {LINEAR}
        assert len(given_up) == 2
        assert progress(study).states.complete == 2


class TestModels:
    """With models that are made."""

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Path:
        """Kept over the tests of this class."""
        folder: Path = tmp_path_factory.getbasetemp() / "variants-cache"
        monkeypatch.setenv("SPEC_OPT_CACHE", str(folder))
        return folder / "models"

    @pytest.mark.parametrize(
        ("variant", "tables"),
        [
            (LINEAR, {"draft": {"kind": "linear"}}),
            (
                Variant(draft_epochs=2, draft_scale=0.5, rule="point"),
                {
                    "draft": {
                        "kind": "timer-xl",
                        "training": {"epochs": 2, "max_windows": 32},
                        "scale": dict.fromkeys(("d_model", "heads", "feedforward", "layers"), 0.5),
                    },
                    "decoding": {"device": "cpu", "rule": "point"},
                },
            ),
        ],
    )
    def test_a_variant_is_the_study_that_has_its_draft(
        self, variant: Variant, tables: dict[str, Any]
    ) -> None:
        keys = {"draft_kind": ["timer-xl", "linear"], "draft_epochs": [1, 2], "draft_scale": [0.5]}
        searching, plain = (
            StudyObjective.prepare(tiny(keys)),
            StudyObjective.prepare(tiny(**tables)),
        )
        of_variant = searching.of(variant)
        for setting in (Setting(sigma=0.3, bias=2.0, k=k) for k in (1, 3)):
            found, expected = of_variant(setting), plain(setting)
            assert found.blocks == expected.blocks
            assert (found.acceptance_rate, found.mse) == (expected.acceptance_rate, expected.mse)
        assert of_variant.fingerprints == plain.fingerprints
        assert of_variant.draft_path == plain.draft_path
        assert of_variant.baseline.draft_mse == plain.baseline.draft_mse
        assert of_variant.baseline.target_mse == searching.baseline.target_mse

    def test_few_are_kept_and_share_the_memory(self) -> None:
        objective = StudyObjective.prepare(tiny({"rule": ["stride", "point", "exact"]}))
        plain = StudyObjective.prepare(tiny())
        own, whole = (o.evaluator.cache_statistics.limit_bytes for o in (objective, plain))
        assert MOST_VARIANTS * own <= 1.5 * whole
        point, exact = (objective.of(Variant(rule=rule)) for rule in ("point", "exact"))
        assert point.evaluator.cache_statistics.limit_bytes == own
        assert objective.of(Variant(rule="point")) is point
        objective.of(LINEAR)
        assert objective.of(Variant(rule="point")) is point
        objective.of(Variant(draft_kind="linear", rule="point"))  # exact goes
        assert objective.of(Variant(rule="point")) is point
        assert objective.of(Variant(rule="exact")) is not exact
        assert objective.of(AS_WRITTEN) is objective

    def test_two_workers_make_each_draft_once(
        self, store: Store, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = tiny({"teacher_noise": [0.05, 0.3], "draft_kind": ["timer-xl", "linear"]})
        caplog.set_level(logging.INFO, "spec_opt")
        objectives = [StudyObjective.prepare(config) for _ in range(2)]
        study = open_study(store, config, objectives[0].fingerprints, objectives[0].baseline, {})
        threads = [
            threading.Thread(target=run_worker, args=(study, objective, threading.Event()))
            for objective in objectives
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert progress(study).missing == 0
        kept = Counter(m for m in caplog.messages if m.startswith("kept the draft"))
        assert set(kept.values()) <= {1}
        paths = {t.user_attrs["draft_path"] for t in study.optuna_study().get_trials()}
        assert len(paths) == 3
        assert all(Path(path).parent == cache for path in paths)
        assert {p.suffix for p in cache.iterdir()} == {".safetensors", ".lock"}
