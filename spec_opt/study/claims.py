"""How a worker gets trials and gives them back: each setting to one worker, each result once."""

import logging
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from spec_opt.config.study_file import Setting
from spec_opt.study import trials
from spec_opt.study.space import PARAMETERS, distributions, make_sampler, setting_of
from spec_opt.study.store import Patience
from spec_opt.study.study import Study
from spec_opt.study.trials import (
    FAILED_BY_ITSELF,
    INTERRUPTED,
    WORKER_DIED,
    Claimant,
    NewTrial,
    Outlook,
    reconcile,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heartbeat:
    """Signs of life of a running trial."""

    interval: float = 5.0
    """Seconds between them."""
    grace: float = 30.0
    """Seconds of silence after which a trial is given up and its setting tried again."""


class Idle(Enum):
    """Why there is no trial to claim."""

    WAIT = "others run the last trials, which may come back if their workers die"
    DONE = "every trial of the study has ended"


@dataclass(frozen=True)
class Stored:
    """What the study holds of a setting that it has measured already."""

    number: int
    values: tuple[float, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class ClaimedTrial:
    """A running trial that is ours."""

    trial_id: int
    number: int
    setting: Setting
    stored: Stored | None
    """The measurement to repeat, where the sampler chose a setting for the second time."""


@dataclass(frozen=True)
class _Begun:
    """A trial that runs in our name, perhaps without all its parameters yet."""

    trial_id: int
    number: int
    params: Mapping[str, float]
    """As stored."""
    fixed: Mapping[str, Any]
    """Those that it was enqueued with, where some are not stored."""


class Claims:
    """One worker's dealings with the trials of a study; it holds one trial at a time.

    Args:
        study: what to work on.
        heartbeat: when silent trials are given up.
    """

    def __init__(self, study: Study, heartbeat: Heartbeat | None = None) -> None:
        self.study = study
        self.heartbeat = heartbeat or Heartbeat()
        self.claimant = Claimant(f"{socket.gethostname()}:{os.getpid()}", uuid.uuid4().hex)
        self._distributions = distributions(study.config.search)
        self._last_sigma: float | None = None
        self._sampling = study.store.sampling_study(study.name)

    def claim(self) -> ClaimedTrial | Idle:
        """The next trial to run, or why there is none.

        Raises:
            StoreError: the store cannot be reached.
            StudyError: the study was deleted.
        """
        while True:
            claimed = self.study.store.transaction(self._take_or_create)
            if isinstance(claimed, Idle):
                return claimed
            trial = self._completed(claimed)
            if trial is not None:
                return trial

    def finish(
        self, trial: ClaimedTrial, values: Sequence[float], attributes: Mapping[str, Any]
    ) -> bool:
        """Record a result; False if the trial was given up meanwhile, and the result dropped."""
        return self._end(trial.trial_id, TrialState.COMPLETE, values, attributes)

    def fail(self, trial: ClaimedTrial, error: str, failure: str = FAILED_BY_ITSELF) -> bool:
        """Record that a trial failed, and why; False if it was given up meanwhile."""
        return self._end(trial.trial_id, TrialState.FAIL, (), _failure(error, failure))

    def abandon(self, trial: ClaimedTrial, error: str) -> bool:
        """Record that this worker can go on no longer, by no fault of the setting."""
        return self.fail(trial, error, WORKER_DIED)

    def release(self, patience: Patience | None = None) -> int:
        """Give back whatever trial is ours, as if never tried; how many that were."""
        return self.study.store.transaction(self._release, patience)

    def beat(self, trial_id: int) -> bool:
        """A sign of life; False if the trial is running no longer."""
        store = self.study.store
        return store.transaction(
            lambda connection: trials.beat(connection, trial_id, store.now()),
            Patience(self.heartbeat.interval),
        )

    def _take_or_create(self, connection: Connection) -> _Begun | Idle:
        """A trial that now runs in our name."""
        study_id = self.study.study_id
        held = trials.held_by(connection, study_id, self.claimant)
        if held:
            return _begun(connection, *held[0])
        if self.study.config.search.sampler == "grid":
            taken = self._take(connection)
            if taken is not None:
                return taken
        outlook = self._reconcile(connection, self._grace())
        if outlook.waiting:
            taken = self._take(connection)
            if taken is not None:
                return taken
        return self._create(connection, outlook)

    def _create(self, connection: Connection, outlook: Outlook) -> _Begun | Idle:
        if not outlook.remaining:
            return Idle.DONE if outlook.is_done else Idle.WAIT
        ids = trials.add_trials(
            connection, self.study.study_id, [NewTrial({}, {})], {}, TrialState.RUNNING
        )
        trials.sign(connection, ids[0], self.claimant, self.study.store.now())
        return _Begun(ids[0], outlook.trials, {}, {})

    def _take(self, connection: Connection) -> _Begun | None:
        found = trials.next_waiting(connection, self.study.study_id, self._last_sigma)
        if found is None:
            return None
        trials.take(connection, found[0], self.claimant, self.study.store.now())
        return _begun(connection, *found)

    def _reconcile(self, connection: Connection, grace: float | None) -> Outlook:
        study = self.study
        now = study.store.now()
        return reconcile(connection, study.study_id, study.config.search, now, grace)

    def _grace(self) -> float | None:
        """When to give up silent trials; None while the store's own silence may be the reason."""
        recovered = self.study.store.seconds_since_recovery()
        if recovered is not None and recovered < self.heartbeat.grace:
            return None
        return self.heartbeat.grace

    def _completed(self, begun: _Begun) -> ClaimedTrial | None:
        """The trial with all its parameters; None if it cannot have them, or is ours no longer."""
        stored_params, fixed = begun.params, begun.fixed
        given = {n: fixed[n] for n in PARAMETERS if n in fixed and n not in stored_params}
        missing = [n for n in PARAMETERS if n not in stored_params and n not in given]
        if missing and self.study.config.search.sampler != "grid":
            sampled = self._sample(begun, missing)
            if sampled is None:
                return None
            given |= sampled
        spaces = self._distributions
        try:
            known = {n: spaces[n].to_external_repr(v) for n, v in stored_params.items()}
            setting = setting_of(known | given)
            internal = {n: float(spaces[n].to_internal_repr(v)) for n, v in given.items()}
        except (KeyError, ValueError, TypeError) as error:
            reason = f"enqueued with parameters that do not fit the study: {error}"
            self._end(begun.trial_id, TrialState.FAIL, (), _failure(reason, FAILED_BY_ITSELF))
            return None
        stored = None
        if given or self.study.config.search.sampler != "grid":
            settle = partial(self._settle, begun.trial_id, given, {**stored_params, **internal})
            ours, stored = self.study.store.transaction(settle)
            if not ours:
                return None
        self._last_sigma = stored_params.get("sigma")
        return ClaimedTrial(begun.trial_id, begun.number, setting, stored)

    def _sample(self, begun: _Begun, names: Sequence[str]) -> dict[str, Any] | None:
        """Let the sampler choose parameters; None if the trial was given up meanwhile.

        Seeded by the trial's number, the same whichever worker asks: no two trials share dice, and
        a study that one worker runs is repeatable.
        """
        study, search, trial = self._sampling, self.study.config.search, _as_optuna_has_it(begun)
        seed = np.random.SeedSequence([search.seed, begun.number]).generate_state(1)[0]
        sampler = make_sampler(search, int(seed))
        study.forget_trials()
        sampler.before_trial(study, trial)
        space = sampler.infer_relative_search_space(study, trial)
        try:
            relative = sampler.sample_relative(study, trial, space)
        except UpdateFinishedTrialError:  # NSGA-II writes down the trial's generation
            return None
        return {
            name: relative[name]
            if name in relative and space[name] == self._distributions[name]
            else sampler.sample_independent(study, trial, name, self._distributions[name])
            for name in names
        }

    def _settle(
        self,
        trial_id: int,
        chosen: Mapping[str, Any],
        params: Mapping[str, float],
        connection: Connection,
    ) -> tuple[bool, Stored | None]:
        """Store what was chosen: whether the trial is still ours, and what is known of its setting.

        `params` are all of its parameters, as stored.
        """
        if trial_id not in self._held(connection):
            return False, None
        # Those that a first run of this transaction stored, if only its answer got lost, stay.
        missing = chosen.keys() - trials.stored_params_of(connection, trial_id).keys()
        new = {name: chosen[name] for name in PARAMETERS if name in missing}
        trials.set_params(connection, trial_id, new, self._distributions)
        return True, self._measured(params, connection)

    def _measured(self, params: Mapping[str, float], connection: Connection) -> Stored | None:
        found = trials.find_measured(connection, self.study.study_id, params)
        if found is None:
            return None
        trial_id, number = found
        return Stored(
            number,
            tuple(trials.values_of(connection, trial_id)),
            trials.stored_attributes(connection, trial_id),
        )

    def _held(self, connection: Connection) -> list[int]:
        held = trials.held_by(connection, self.study.study_id, self.claimant)
        return [trial_id for trial_id, _ in held]

    def _end(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float],
        attributes: Mapping[str, Any],
    ) -> bool:
        return self.study.store.transaction(
            lambda connection: trials.finish(
                connection, trial_id, self.claimant, state, values, attributes
            )
        )

    def _release(self, connection: Connection) -> int:
        held = self._held(connection)
        if held:
            # In the order of all other transactions: first the study, then its trials.
            trials.lock_study(connection, self.study.study_id)
        attributes = _failure("interrupted", INTERRUPTED)
        for trial_id in held:
            trials.finish(connection, trial_id, self.claimant, TrialState.FAIL, (), attributes)
        if held:
            self._reconcile(connection, None)
        return len(held)


def _begun(connection: Connection, trial_id: int, number: int) -> _Begun:
    params = trials.stored_params_of(connection, trial_id)
    complete = params.keys() >= set(PARAMETERS)
    fixed = {} if complete else trials.fixed_params_of(connection, trial_id)
    return _Begun(trial_id, number, params, fixed)


def _as_optuna_has_it(begun: _Begun) -> FrozenTrial:
    """A trial that has nothing yet, for a sampler, which asks no more of it than who it is."""
    return FrozenTrial(
        number=begun.number,
        trial_id=begun.trial_id,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _failure(error: str, failure: str) -> dict[str, Any]:
    return {trials.ERROR_KEY: error, trials.FAILURE_KEY: failure}
