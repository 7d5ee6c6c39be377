import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import TrialState

from spec_opt.config.models import DraftConfig, TargetConfig
from spec_opt.config.study_file import DataConfig, SearchConfig, StudyConfig
from spec_opt.config.values import FloatRange
from spec_opt.errors import LastingStoreError, StoreError, StudyError
from spec_opt.measure.cost_model import Cost, Costs, LearntCosts
from spec_opt.results.table import table_of
from spec_opt.study.progress import progress
from spec_opt.study.store import Store, open_store
from spec_opt.study.study import Study, check_study, load_study, open_study, update_attribute
from tests.study.stand_in import BASELINE, FINGERPRINTS, stand_in_study, study_config

SMALL: dict[str, Any] = {"sigma": (0.1, 0.5), "bias": (1.0,), "k": (1, 2)}


def points(study: Study) -> Counter[tuple[float, float, int]]:
    """How many trials each setting has."""
    trials = study.optuna_study().get_trials(deepcopy=False)
    return Counter((t.params["sigma"], t.params["bias"], t.params["k"]) for t in trials)


def test_a_new_study_holds_its_grid_in_order(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    seen = study.optuna_study()
    assert seen.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert seen.metric_names == ["acceptance_rate", "mse"]
    assert isinstance(seen.sampler, optuna.samplers.GridSampler)
    trials = seen.get_trials()
    assert [t.state for t in trials] == [TrialState.WAITING] * 4
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert [t.user_attrs["grid_point"] for t in trials] == [0, 1, 2, 3]
    assert [t.params for t in trials] == [
        {"sigma": 0.1, "bias": 1.0, "k": 1},
        {"sigma": 0.1, "bias": 1.0, "k": 2},
        {"sigma": 0.5, "bias": 1.0, "k": 1},
        {"sigma": 0.5, "bias": 1.0, "k": 2},
    ]
    assert [t.system_attrs["fixed_params"] for t in trials] == [t.params for t in trials]


def test_the_study_says_what_it_was_made_with(store: Store) -> None:
    attributes = stand_in_study(store, **SMALL).optuna_study().user_attrs
    assert attributes["fingerprints"] == asdict(FINGERPRINTS)
    assert attributes["baseline"] == json.loads(json.dumps(asdict(BASELINE)))
    assert attributes["versions"] == {"torch": "0"}
    assert StudyConfig.model_validate_json(json.dumps(attributes["config"])) == study_config(
        **SMALL
    )


def test_any_optuna_client_can_work_on_the_queue(store: Store) -> None:
    """The points stand in Optuna's own queue: its own loop takes them, parameters and all."""
    study = stand_in_study(store, **SMALL)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        sigma = trial.suggest_float("sigma", 0.1, 0.5)
        k = trial.suggest_int("k", 1, 2)
        return sigma / k, sigma * trial.suggest_float("bias", 1.0, 1.0)

    store.optuna_study(study.name, optuna.samplers.RandomSampler()).optimize(objective, n_trials=4)
    assert set(points(study).values()) == {1}
    assert len(points(study)) == 4


def test_opening_again_adds_nothing(store: Store) -> None:
    first = stand_in_study(store, **SMALL)
    again = stand_in_study(store, **SMALL)
    assert again == first
    assert len(points(again)) == sum(points(again).values()) == 4


def test_a_grid_may_grow(store: Store) -> None:
    stand_in_study(store, **SMALL)
    study = stand_in_study(store, **(SMALL | {"sigma": (0.1, 0.25, 0.5, 1.0)}))
    assert len(points(study)) == sum(points(study).values()) == 8
    assert load_study(store, "stand-in").config.search.sigma == (0.1, 0.25, 0.5, 1.0)


def test_more_trials_may_be_asked_for(store: Store) -> None:
    stand_in_study(store, sampler="tpe", n_trials=3)
    assert stand_in_study(store, sampler="random", n_trials=9).config.search.n_trials == 9


@pytest.mark.parametrize("field", ["target", "draft", "data", "decoding"])
def test_trials_that_cannot_be_compared_do_not_meet(field: str, store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    other = replace(FINGERPRINTS, **{field: "another"})
    message = rf"other \w+ \(no key of \[{field}\] differs, .* another name"
    with pytest.raises(StudyError, match=message):
        open_study(store, study.config, other, BASELINE, {})
    assert sum(points(study).values()) == 4


def test_the_keys_that_keep_trials_apart_are_named(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    data = study.config.data.model_copy(update={"horizon": 7, "max_windows": 5})
    decoding = study.config.decoding.model_copy(update={"seed": 3, "batch_size": 2})
    edited = study.config.model_copy(update={"data": data, "decoding": decoding})
    other = replace(FINGERPRINTS, data="another", decoding="another")
    with pytest.raises(StudyError) as refused:
        open_study(store, edited, other, BASELINE, {})
    horizon = study.config.data.horizon
    assert str(refused.value) == (
        "study stand-in: was measured with other data and another decoding (data.horizon was "
        f"{horizon}, now 7; data.max_windows was not set, now 5; decoding.seed was 0, now 3); "
        "change that back, give the study another name, or use another --storage"
    )
    with pytest.raises(StudyError, match=r"\(data.horizon was .*\); change that back$"):
        table_of(store, study.config).check_fingerprints(other, edited)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"sampler": "tpe", "n_trials": 5}),
        ({"sampler": "tpe", "n_trials": 5}, {}),
        (
            {"sampler": "tpe", "n_trials": 5},
            {"sampler": "tpe", "n_trials": 5, "sigma": FloatRange(low=0.1, high=1.0)},
        ),
    ],
)
def test_spaces_that_optuna_cannot_mix_are_refused(
    before: dict[str, Any], after: dict[str, Any], store: Store
) -> None:
    study = stand_in_study(store, **before)
    sampled = study.optuna_study()
    if before:
        trial = sampled.ask()
        trial.suggest_categorical("sigma", [0.1, 0.25, 0.5, 1.0])
    with pytest.raises(StudyError, match=r"search\.\w+ or search\.sampler changed"):
        stand_in_study(store, **after)


def test_the_baseline_is_the_one_first_measured(store: Store) -> None:
    study = stand_in_study(store)
    other = replace(BASELINE, target_mse=0.99)
    again = open_study(store, study.config, FINGERPRINTS, other, {})
    assert again.baseline == BASELINE


def test_looking_at_a_study(store_url: str, opened: Callable[..., Store]) -> None:
    study = stand_in_study(opened(store_url), **SMALL)
    seen = load_study(opened(store_url, create=False), "stand-in")
    assert replace(seen, store=study.store) == study


def test_looking_at_a_study_that_is_not_there(store: Store) -> None:
    stand_in_study(store, name="other", **SMALL)
    with pytest.raises(StudyError, match="holds other"):
        load_study(store, "stand-in")


def test_a_study_by_another_program_is_refused(store: Store) -> None:
    optuna.create_study(storage=store.storage, study_name="stand-in")
    with pytest.raises(StudyError, match="not made by spec-opt"):
        load_study(store, "stand-in")
    with pytest.raises(StudyError, match="spec-opt did not make"):
        stand_in_study(store)


def test_two_studies_share_a_store(store: Store) -> None:
    assert len(points(stand_in_study(store, name="a", **SMALL))) == 4
    assert len(points(stand_in_study(store, name="b"))) == 80
    assert len(points(load_study(store, "a"))) == 4


def test_checkpoints_survive_in_the_stored_study_file(store: Store) -> None:
    config = StudyConfig(
        name="stand-in",
        search=SearchConfig(**SMALL),
        data=DataConfig(source="ETTh1", context=672, horizon=96),
        target=TargetConfig(checkpoint=Path("/models/target.pth")),
        draft=DraftConfig(checkpoint=Path("/models/draft.pth")),
    )
    open_study(store, config, FINGERPRINTS, BASELINE, {})
    assert load_study(store, "stand-in").config == config


def test_a_study_file_of_another_version_is_said(store: Store) -> None:
    study = stand_in_study(store).optuna_study()
    study.set_user_attr("config", study.user_attrs["config"] | {"novelty": 1})
    with pytest.raises(StudyError, match="cannot be read by this version"):
        load_study(store, "stand-in")


COSTS = LearntCosts(Costs(*[Cost(1.0, 0.5, 0.25)] * 7), spread=0.1)


def never() -> LearntCosts:
    raise AssertionError("the study holds these costs")


def test_costs_are_learnt_once_a_study(store: Store) -> None:
    study = stand_in_study(store)

    assert study.shared_costs("cpu, batch size 64", lambda: COSTS) == COSTS
    assert stand_in_study(store).shared_costs("cpu, batch size 64", never) == COSTS
    other = replace(COSTS, spread=0.3)
    assert study.shared_costs("cpu, batch size 1", lambda: other) == other
    assert study.shared_costs("cpu, batch size 64", never) == COSTS


def test_of_two_that_learn_at_once_both_take_what_the_first_stored(store: Store) -> None:
    study = stand_in_study(store)

    def second() -> LearntCosts:
        study.shared_costs("cpu", lambda: COSTS)  # another worker, which is faster
        return replace(COSTS, spread=0.4)

    assert study.shared_costs("cpu", second) == COSTS


def test_a_baseline_of_another_version(store: Store) -> None:
    """Fields that it adds are passed over; one that it lacks is named as the version's."""
    study = stand_in_study(store, **SMALL).optuna_study()
    stored = asdict(BASELINE)
    study.set_user_attr("baseline", stored | {"target_rmse": 0.6})
    assert load_study(store, "stand-in").baseline == BASELINE
    study.set_user_attr("baseline", {name: stored[name] for name in ("target_mse", "draft_mse")})
    with pytest.raises(StudyError, match="its baseline, as spec-opt"):
        load_study(store, "stand-in")


def test_an_attribute_is_changed_in_one_transaction(store: Store) -> None:
    study = stand_in_study(store, **SMALL)
    for _ in range(2):
        update_attribute(store, "stand-in", "seen", lambda old: [*(old or []), "more"])
    assert study.optuna_study().user_attrs["seen"] == ["more", "more"]
    with pytest.raises(StudyError, match="no study 'other'"):
        update_attribute(store, "other", "seen", lambda old: old)


def test_a_copy_of_a_study_is_a_study_of_its_own(
    store_url: str, opened: Callable[..., Store]
) -> None:
    store = opened(store_url)
    original = stand_in_study(store, "original", **SMALL)
    optuna.copy_study(
        from_study_name="original",
        from_storage=store.storage,
        to_storage=store.storage,
        to_study_name="copy",
    )
    queue = original.optuna_study()
    for _ in range(4):
        queue.tell(queue.ask(), (0.5, 0.4))
    copy = load_study(store, "copy")
    assert (copy.name, copy.config.name) == ("copy", "copy")
    assert progress(copy).name == "copy"
    assert progress(copy).states.waiting == 4
    assert [t.state for t in copy.optuna_study().trials] == [TrialState.WAITING] * 4
    table = table_of(store, study_config("copy", **SMALL))
    assert (table.name, len(table.points)) == ("copy", 0)
    assert table.config is not None
    assert table.config.name == "copy"


def test_a_copy_outlives_its_original(store: Store) -> None:
    stand_in_study(store, "original", **SMALL)
    storage = store.storage
    names = {"from_study_name": "original", "to_study_name": "copy"}
    optuna.copy_study(from_storage=storage, to_storage=storage, **names)
    optuna.delete_study(study_name="original", storage=storage)
    assert len(load_study(store, "copy").optuna_study().trials) == 4
    resumed = stand_in_study(store, "copy", **SMALL)
    assert progress(resumed).states.waiting == 4


def test_a_name_that_is_taken_is_said_before_anything_is_made(
    store_url: str, opened: Callable[..., Store]
) -> None:
    check_study(store_url, study_config())
    store = opened(store_url)
    check_study(store_url, study_config())
    optuna.create_study(storage=store.storage, study_name="stand-in", directions=["maximize"])
    with pytest.raises(StudyError, match="did not make"):
        check_study(store_url, study_config())
    check_study(store_url, study_config("other"))


def test_a_search_that_does_not_fit_is_said_before_anything_is_made(
    store_url: str, opened: Callable[..., Store]
) -> None:
    stand_in_study(opened(store_url), **SMALL)
    check_study(store_url, study_config(sigma=(0.1, 0.7)))
    with pytest.raises(StudyError, match=r"search\.\w+ or search\.sampler"):
        check_study(store_url, study_config(sampler="tpe", n_trials=5))
    with pytest.raises(StudyError, match="objectives"):
        check_study(store_url, study_config(objectives=("acceptance_rate", "mse", "speedup")))


@pytest.mark.postgres
@pytest.mark.parametrize("is_set_up", [True, False])
def test_rights_that_lack_are_said_before_anything_is_made(
    is_set_up: bool, new_database: Callable[[], str]
) -> None:
    url = new_database()
    if is_set_up:
        open_store(url).close()
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE guest LOGIN")
        connection.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
    guest = sqlalchemy.make_url(url).set(username="guest").render_as_string(hide_password=False)
    try:
        with pytest.raises(LastingStoreError, match="permission denied for"):
            check_study(guest, study_config())
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY guest; DROP ROLE guest")
        engine.dispose()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "host.invalid"])
def test_a_server_that_is_not_there_is_said(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_opt.study.store.OPENING_PATIENCE_S", 0.0)
    with pytest.raises(StoreError, match=r"refused|resolve|not known|resolution"):
        check_study(f"postgresql://me@{host}/db", study_config())
