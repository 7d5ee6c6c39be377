"""The study in the store: created or resumed, kept complete, and looked at.

Which software gave a number: package versions and, in a checkout, the commit.
"""

import importlib.metadata
import json
import logging
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import optuna
from optuna.distributions import check_distribution_compatibility, json_to_distribution
from optuna.study import StudyDirection
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, func, insert, select

import spec_opt
from spec_opt.config.study_file import StudyConfig
from spec_opt.config.values import ObjectiveName
from spec_opt.errors import StudyError
from spec_opt.measure.cost_model import LearntCosts
from spec_opt.measure.measurement import Baseline, Fingerprints
from spec_opt.study.space import distributions, make_sampler
from spec_opt.study.store import (
    METRIC_NAMES_KEY,
    Store,
    lock_names,
    studies,
    study_directions,
    study_system_attributes,
    study_user_attributes,
    trial_params,
    trials,
)
from spec_opt.study.trials import lock_study, reconcile

log = logging.getLogger(__name__)

DIRECTIONS: Final[dict[ObjectiveName, StudyDirection]] = {
    "acceptance_rate": StudyDirection.MAXIMIZE,
    "mse": StudyDirection.MINIMIZE,
    "speedup": StudyDirection.MAXIMIZE,
}
COSTS: Final = "costs"
"""Key of the user attribute that holds what decoding costs."""


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

        def stored(connection: Connection) -> dict[str, LearntCosts]:
            return held.validate_python(
                _stored_attributes(connection, self.study_id).get(COSTS, {})
            )

        known = self.store.read(stored)
        if key in known:
            return known[key]
        learnt = learn()

        def keep(connection: Connection) -> LearntCosts:
            lock_study(connection, self.study_id)
            now = {key: learnt} | stored(connection)
            _set_attribute(connection, self.study_id, COSTS, held.dump_python(now))
            return now[key]

        return self.store.transaction(keep)

    def optuna_study(self) -> optuna.Study:
        """The study as Optuna has it, with the sampler that the study file names."""
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

    Safe when many processes do so at once. On resume the search space may be another one: a grid
    gets the points that it lacks, the other samplers go on in the new space.

    Args:
        inputs: what is known of series and models, as attributes to keep for people.

    Raises:
        StudyError: the study was measured with other models, data or decoding, or its trials
            cannot stand in one study with the search space that is asked for.
        StoreError: the store cannot be reached.
    """
    attributes = {
        "config": config.model_dump(mode="json"),
        "fingerprints": asdict(fingerprints),
        "baseline": asdict(baseline),
        "versions": dict(versions),
        **inputs,
    }

    def work(connection: Connection) -> tuple[int, dict[str, Any]]:
        lock_names(store, connection)
        study_id = _find(connection, config.name)
        if study_id is None:
            return _create(connection, config, attributes), attributes
        stored = _stored_attributes(connection, study_id)
        _check_fit(connection, config, study_id, fingerprints, stored)
        for key in ("config", *inputs):  # files may have moved
            if stored.get(key) != attributes[key]:
                _set_attribute(connection, study_id, key, attributes[key])
        return study_id, stored

    study_id, stored = store.transaction(work)
    study = Study(
        store=store,
        study_id=study_id,
        config=config,
        fingerprints=fingerprints,
        baseline=_baseline(config.name, stored),
        versions=stored["versions"],
    )
    store.transaction(
        lambda connection: reconcile(connection, study_id, config.search, store.now(), None)
    )
    return study


def load_study(store: Store, name: str) -> Study:
    """The study as it stands, to look at; nothing is written.

    Raises:
        StudyError: there is none of that name, or another program made it.
    """

    def work(connection: Connection) -> tuple[int, dict[str, Any]]:
        study_id = _find(connection, name)
        if study_id is None:
            names = ", ".join(connection.execute(select(studies.c.study_name)).scalars())
            raise StudyError(
                f"study {name}: not in store {store.masked_url}, which holds {names or 'none'}; "
                "`spec-opt run` makes it"
            )
        return study_id, _stored_attributes(connection, study_id)

    study_id, stored = store.read(work)
    missing = {"config", "fingerprints", "baseline", "versions"} - stored.keys()
    if missing:
        raise StudyError(
            f"study {name}: holds imported results, or was not made by spec-opt "
            f"(it lacks {sorted(missing)[0]}): there is no run to look at"
        )
    try:
        config = StudyConfig.model_validate_json(json.dumps(stored["config"]))
    except ValidationError:
        raise _unreadable(name, "study file", stored) from None
    return Study(
        store=store,
        study_id=study_id,
        config=config,
        fingerprints=Fingerprints(**stored["fingerprints"]),
        baseline=_baseline(name, stored),
        versions=stored["versions"],
    )


def _baseline(name: str, stored: Mapping[str, Any]) -> Baseline:
    try:
        return TypeAdapter(Baseline).validate_python(stored["baseline"])
    except ValidationError:
        raise _unreadable(name, "baseline", stored) from None


def _unreadable(name: str, what: str, stored: Mapping[str, Any]) -> StudyError:
    made_by = stored["versions"].get("spec-opt", "unknown")
    return StudyError(
        f"study {name}: its {what}, as spec-opt {made_by} stored it, cannot be read by this "
        f"version ({spec_opt.__version__})"
    )


def update_attribute(store: Store, name: str, key: str, change: Callable[[Any], Any]) -> None:
    """Replace a user attribute of a study by `change` of it, which gets None where it is not set.

    No other process can change it meanwhile. `change` may be called again if the connection fails.
    In a store that can only be read it stays as it is, with a warning.

    Raises:
        StudyError: there is no study of that name.
    """
    if store.read_only:
        log.warning("store %s can only be read: new %s are not kept", store.masked_url, key)
        return

    def work(connection: Connection) -> None:
        study_id = _find(connection, name)
        if study_id is None:
            raise StudyError(f"store {store.masked_url}: it holds no study {name!r}")
        lock_study(connection, study_id)
        stored = _stored_attributes(connection, study_id).get(key)
        _set_attribute(connection, study_id, key, change(stored))

    store.transaction(work)


def _find(connection: Connection, name: str) -> int | None:
    query = select(studies.c.study_id).where(studies.c.study_name == name)
    found: int | None = connection.execute(query).scalar()
    return found


def _create(connection: Connection, config: StudyConfig, attributes: Mapping[str, Any]) -> int:
    objectives = config.search.objectives
    created = connection.execute(insert(studies).values(study_name=config.name))
    assert created.inserted_primary_key is not None
    study_id: int = created.inserted_primary_key[0]
    connection.execute(
        insert(study_directions),
        [
            {"study_id": study_id, "objective": i, "direction": DIRECTIONS[objective]}
            for i, objective in enumerate(objectives)
        ],
    )
    names = {"study_id": study_id, "key": METRIC_NAMES_KEY, "value_json": json.dumps(objectives)}
    connection.execute(insert(study_system_attributes), [names])
    for key, value in attributes.items():
        _set_attribute(connection, study_id, key, value)
    return study_id


def _set_attribute(connection: Connection, study_id: int, key: str, value: Any) -> None:
    table = study_user_attributes
    connection.execute(table.delete().where(table.c.study_id == study_id, table.c.key == key))
    row = {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
    connection.execute(insert(table), [row])


def _stored_attributes(connection: Connection, study_id: int) -> dict[str, Any]:
    table = study_user_attributes
    query = select(table.c.key, table.c.value_json).where(table.c.study_id == study_id)
    return {key: json.loads(text) for key, text in connection.execute(query)}


def _check_fit(
    connection: Connection,
    config: StudyConfig,
    study_id: int,
    fingerprints: Fingerprints,
    stored: Mapping[str, Any],
) -> None:
    """Whether new trials may stand beside those that the study holds."""
    remedy = "give the study another name, or use another --storage"
    if not {"config", "fingerprints", "baseline", "versions"} <= stored.keys():
        raise StudyError(
            f"study {config.name}: the store holds imported results of that name, or a study that "
            f"spec-opt did not make; {remedy}"
        )
    asked = asdict(fingerprints)
    changed = [name for name, value in asked.items() if stored["fingerprints"].get(name) != value]
    if changed:
        raise StudyError(
            f"study {config.name}: was measured with another {', '.join(changed)} than this study "
            f"file gives, so its trials cannot be compared with new ones; {remedy}"
        )
    held = select(func.count()).where(study_directions.c.study_id == study_id)
    if connection.execute(held).scalar() != len(config.search.objectives):
        raise StudyError(
            f"study {config.name}: search.objectives = {list(config.search.objectives)} are not "
            f"those that the study was made with; {remedy}"
        )
    table = trial_params.join(trials, trials.c.trial_id == trial_params.c.trial_id)
    query = (
        select(trial_params.c.param_name, trial_params.c.distribution_json)
        .select_from(table)
        .where(trials.c.study_id == study_id)
        .distinct()
    )
    asked_space = distributions(config.search)
    for name, text in connection.execute(query):
        if name not in asked_space:
            continue
        try:
            check_distribution_compatibility(json_to_distribution(text), asked_space[name])
        except ValueError:
            raise StudyError(
                f"study {config.name}: search.{name} or search.sampler changed in a way that "
                f"Optuna cannot keep in one study (only ranges and grids may grow); {remedy}"
            ) from None


PACKAGES = ("torch", "numpy", "optuna")


@cache
def package_versions() -> dict[str, str]:
    """Name to version of what a number may depend on; nothing is imported for it."""
    versions = {"spec-opt": spec_opt.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


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
