"""The study in the store: created or resumed, kept complete, and looked at."""

import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import optuna
from optuna.distributions import check_distribution_compatibility, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, func, insert, select

import spec_opt
from spec_opt.config.outgoing import mask
from spec_opt.config.paths import ANOTHER_STORE
from spec_opt.config.study_file import StudyConfig
from spec_opt.config.values import ObjectiveName
from spec_opt.errors import StudyError
from spec_opt.measure.cost_model import LearntCosts
from spec_opt.measure.measurement import Baseline, Fingerprints
from spec_opt.study.agenda import enqueue_rest, reconcile, withdraw
from spec_opt.study.constraints import hold_against
from spec_opt.study.database import insert_into
from spec_opt.study.ending import note, read_ending
from spec_opt.study.fingerprints import difference
from spec_opt.study.samplers import make_sampler
from spec_opt.study.space import distributions
from spec_opt.study.store import (
    METRIC_NAMES_KEY,
    Store,
    existing_store,
    studies,
    study_directions,
    study_system_attributes,
    study_user_attributes,
    trial_params,
    trials,
)
from spec_opt.study.trials import (
    add_trials,
    attributes_of,
    history,
    lock_study,
    put_attributes,
)
from spec_opt.study.warm_start import first_trials

log = logging.getLogger(__name__)
T = TypeVar("T")

DIRECTIONS: Final[dict[ObjectiveName, StudyDirection]] = {
    "acceptance_rate": StudyDirection.MAXIMIZE,
    "mse": StudyDirection.MINIMIZE,
    "speedup": StudyDirection.MAXIMIZE,
}
SCHEMA_KEY: Final = "schema"
SCHEMA: Final = 1
"""Version of what attributes mean: docs/attributes.md."""
COSTS: Final = "costs"
"""Key of the user attribute that holds what decoding costs."""
MADE_WITH = ("config", "fingerprints", "baseline", "versions")
"""User attributes of every study that spec-opt made."""


@dataclass(frozen=True)
class Study:
    """A study in an opened store."""

    store: Store
    study_id: int
    config: StudyConfig
    fingerprints: Fingerprints
    baseline: Baseline
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.config.name

    def shared_costs(self, key: str, learn: Callable[[], LearntCosts]) -> LearntCosts:
        """What the study holds of the cost of decoding under `key`, or else learns and stores it.

        Workers that learn at the same time all get what the first one stored: predictions of
        different workers can only be compared if they rest on the same costs.
        """
        held = TypeAdapter(dict[str, LearntCosts])
        of = (study_user_attributes, self.study_id)
        known = held.validate_python(
            self.store.read(lambda c: attributes_of(c, *of)).get(COSTS, {})
        )
        if key in known:
            return known[key]
        learnt = held.dump_python({key: learn()})
        change = partial(update_attribute, self.store, self.name, COSTS)
        return held.validate_python(change(lambda now: learnt | (now or {})))[key]

    def optuna_study(self) -> optuna.Study:
        """The study as an Optuna study, with the sampler that the study file names."""
        search = self.config.search
        return self.store.optuna_study(self.name, make_sampler(search, search.seed))


def open_study(
    store: Store,
    config: StudyConfig,
    fingerprints: Fingerprints,
    baseline: Baseline,
    versions: Mapping[str, str],
    inputs: Mapping[str, Any] = MappingProxyType({}),
) -> Study:
    """Create the study, or resume it; every grid point that it lacks is enqueued.

    A new one begins with the best settings of the study that `search.from_study` names. Safe when
    many processes do so at once. A resumed study may have another search space: a grid gets the
    points that it lacks, the other samplers go on in the new space.

    Args:
        store: where it is, or will be.
        config: the study file.
        fingerprints: of what the numbers depend on.
        baseline: target alone and draft alone; a resumed study keeps the one it has.
        versions: of the software, likewise.
        inputs: what is known of series and models, as attributes to keep for people.

    Raises:
        StudyError: the study was measured with other models, data or decoding, or Optuna cannot
            keep its trials and the new search space in one study.
        StoreError: the store cannot be reached.
    """
    attributes = _attributes_of(config, fingerprints, baseline, versions, inputs)
    is_new = store.read(partial(_find, name=config.name)) is None
    first = first_trials(store, config.search) if is_new else []

    def work(connection: Connection) -> tuple[int, dict[str, Any]]:
        objectives = config.search.objectives
        study_id = find_or_create(connection, config.name, objectives, attributes)
        stored = attributes_of(connection, study_user_attributes, study_id)
        _check(connection, config, study_id, stored, fingerprints)
        ending = read_ending(stored)
        if ending is not None and ending.is_passing:
            note(connection, study_id, None)
        lock_study(connection, study_id)
        if stale := withdraw(connection, study_id, config):
            log.info("%d waiting settings withdrawn: the study file no longer asks for them", stale)
        if first and not history(connection, study_id):
            spaces = distributions(config.search, config.written)
            add_trials(connection, study_id, first, spaces, TrialState.WAITING)
        reconcile(connection, study_id, config, None)
        of_target = _stored(Baseline, config.name, "baseline", stored).target_mse
        hold_against(connection, study_id, config.search.constraints, of_target)
        now = {key: attributes[key] for key in ("config", *inputs)}  # files may have moved
        put_attributes(connection, study_user_attributes, {study_id: now})
        return study_id, stored

    study_id, stored = store.transaction(work)
    enqueue_rest(store, study_id, config)
    return _study(store, config, study_id, stored)


def _attributes_of(
    config: StudyConfig,
    fingerprints: Fingerprints,
    baseline: Baseline,
    versions: Mapping[str, str],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """What a new study keeps of the study file, and of what its numbers were made with."""
    document = config.model_dump(mode="json")
    if config.search.from_study is not None:  # its URL may hold a password
        document["search"]["from_study"] = mask(config.search.from_study)
    return {
        "config": document,
        "fingerprints": asdict(fingerprints),
        "baseline": asdict(baseline),
        "versions": dict(versions),
        **inputs,
    }


def check_study(url: str, config: StudyConfig, fingerprints: Fingerprints | None = None) -> None:
    """Raise what opening store and study would; nothing is written.

    Args:
        url: of the store.
        config: the study file.
        fingerprints: of models, data and decoding, once they are known.

    Raises:
        StoreURLError, StoreError: the store cannot be used.
        StudyError: the name is taken, or the search space or the fingerprints do not fit the study
            of that name.
    """

    def work(connection: Connection) -> bool:
        study_id = _find(connection, config.name)
        if study_id is not None:
            stored = attributes_of(connection, study_user_attributes, study_id)
            _check(connection, config, study_id, stored, fingerprints)
        return study_id is None

    store = existing_store(url)
    with store or nullcontext():
        if store is None or store.read(work):
            first_trials(store, config.search)


def load_study(store: Store, name: str) -> Study:
    """The study in the store, to look at; nothing is written.

    Raises:
        StudyError: there is none of that name, or another program made it.
    """

    def work(connection: Connection) -> tuple[int, dict[str, Any]]:
        study_id = _find(connection, name)
        if study_id is None:
            names = ", ".join(connection.execute(select(studies.c.study_name)).scalars())
            raise StudyError(
                f"study {name}: not in store {store.place}, which holds {names or 'none'}; "
                f"`spec-opt run` makes it; {ANOTHER_STORE}"
            )
        return study_id, attributes_of(connection, study_user_attributes, study_id)

    study_id, stored = store.read(work)
    missing = [key for key in MADE_WITH if key not in stored]
    if missing:
        raise StudyError(
            f"study {name}: holds imported results, or was not made by spec-opt "
            f"(it lacks {missing[0]}): there is no run to look at"
        )
    return _study(store, _stored_config(name, stored), study_id, stored)


def _study(store: Store, config: StudyConfig, study_id: int, stored: Mapping[str, Any]) -> Study:
    baseline = _stored(Baseline, config.name, "baseline", stored)
    fingerprints = _stored(Fingerprints, config.name, "fingerprints", stored)
    return Study(store, study_id, config, fingerprints, baseline, stored["versions"])


def _stored(kind: type[T], name: str, key: str, stored: Mapping[str, Any]) -> T:
    try:
        return TypeAdapter(kind).validate_python(stored[key])
    except ValidationError:
        raise _unreadable(name, key, stored) from None


def _stored_config(name: str, stored: Mapping[str, Any]) -> StudyConfig:
    try:
        return config_of(name, stored["config"])
    except (ValidationError, TypeError):
        raise _unreadable(name, "study file", stored) from None


def config_of(name: str, stored: Any) -> StudyConfig:
    """The study file of the study of that name, as it is stored.

    Raises:
        ValidationError, TypeError: it cannot be read.
    """
    # A copy of a study under another name holds the name of the original; and a study that is
    # there may be looked at, however large.
    search = {"max_settings": 2**31 - 1, **stored.get("search", {})}
    document = {**stored, "name": name, "search": search}
    return StudyConfig.model_validate_json(json.dumps(document))


def _unreadable(name: str, what: str, stored: Mapping[str, Any]) -> StudyError:
    made_by = stored["versions"].get("spec-opt", "unknown")
    return StudyError(
        f"study {name}: its {what}, as spec-opt {made_by} stored it, cannot be read by this "
        f"version ({spec_opt.__version__})"
    )


def update_attribute(store: Store, name: str, key: str, change: Callable[[Any], Any]) -> Any:
    """Replace a user attribute of a study by `change` of it, which gets None where it is not set.

    Returns the new one. No other process can change it meanwhile. `change` may be called again if
    the connection fails. In a store that can only be read it stays as it is, with a warning.

    Raises:
        StudyError: there is no study of that name.
    """
    if store.read_only:
        log.warning("store %s can only be read: new %s are not kept", store.masked_url, key)
        return None

    def work(connection: Connection) -> Any:
        study_id = _find(connection, name)
        if study_id is None:
            raise StudyError(f"store {store.masked_url}: it holds no study {name!r}")
        lock_study(connection, study_id)
        changed = change(attributes_of(connection, study_user_attributes, study_id).get(key))
        put_attributes(connection, study_user_attributes, {study_id: {key: changed}})
        return changed

    return store.transaction(work)


def _find(connection: Connection, name: str) -> int | None:
    query = select(studies.c.study_id).where(studies.c.study_name == name)
    found: int | None = connection.execute(query).scalar()
    return found


def find_or_create(
    connection: Connection,
    name: str,
    objectives: Sequence[ObjectiveName],
    attributes: Mapping[str, Any],
) -> int:
    """The id of the study of that name; a new one gets these objectives and user attributes."""
    row = insert_into(connection, studies).values(study_name=name)
    # On Postgres this waits for whoever is creating it at the moment.
    created = row.on_conflict_do_nothing(index_elements=["study_name"])
    study_id: int | None = connection.execute(created.returning(studies.c.study_id)).scalar()
    if study_id is not None:
        directions = [
            {"study_id": study_id, "objective": i, "direction": DIRECTIONS[objective]}
            for i, objective in enumerate(objectives)
        ]
        connection.execute(insert(study_directions), directions)
        names = {METRIC_NAMES_KEY: objectives}
        put_attributes(connection, study_system_attributes, {study_id: names})
        own = {**attributes, SCHEMA_KEY: SCHEMA}
        put_attributes(connection, study_user_attributes, {study_id: own})
        return study_id
    found = _find(connection, name)
    assert found is not None
    return found


def _check(
    connection: Connection,
    config: StudyConfig,
    study_id: int,
    stored: Mapping[str, Any],
    fingerprints: Fingerprints | None,
) -> None:
    """Raise unless a study in the store can go on with this study file."""
    if not stored.keys() >= {*MADE_WITH}:
        raise _misfit(
            config.name,
            "the store holds imported results of that name, or a study that spec-opt did not make",
        )
    objectives = config.search.objectives
    held = select(func.count()).where(study_directions.c.study_id == study_id)
    if connection.execute(held).scalar() != len(objectives):
        made = f"search.objectives = {list(objectives)} are not those that the study was made with"
        raise _misfit(config.name, made)
    for name in _changed_parameters(connection, config, study_id):
        raise _misfit(
            config.name,
            f"search.{name} or search.sampler changed in a way that Optuna cannot keep in one "
            "study (only ranges and grids may grow)",
        )
    if fingerprints is not None:
        given = asdict(fingerprints), config.model_dump(mode="json")
        if differs := difference((stored["fingerprints"], stored["config"]), given):
            raise _misfit(config.name, differs, "change that back, ")


def _misfit(name: str, problem: str, remedy: str = "") -> StudyError:
    return StudyError(
        f"study {name}: {problem}; {remedy}give the study another name, or use another --storage"
    )


def _changed_parameters(
    connection: Connection, config: StudyConfig, study_id: int
) -> Iterator[str]:
    """Parameters whose stored distributions Optuna cannot mix with those asked for."""
    query = (
        select(trial_params.c.param_name, trial_params.c.distribution_json)
        .join(trials, trials.c.trial_id == trial_params.c.trial_id)
        .where(trials.c.study_id == study_id)
        .distinct()
    )
    asked = distributions(config.search, config.written)
    for name, text in connection.execute(query):
        try:
            if name in asked:
                check_distribution_compatibility(json_to_distribution(text), asked[name])
        except ValueError:
            yield name


PACKAGES = ("torch", "numpy", "optuna")


@cache
def package_versions() -> dict[str, str]:
    """Name to version of the software that gives the numbers; nothing is imported for it."""
    versions = {"spec-opt": spec_opt.__version__, "python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in PACKAGES}


@cache
def source_commit() -> str | None:
    """The commit of the checkout that spec-opt runs from; None for an installed package."""
    checkout = Path(spec_opt.__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
