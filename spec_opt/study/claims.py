"""How a worker gets trials and gives them back: each setting to one worker, each result once."""

import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection

from spec_opt.config.study_file import Setting
from spec_opt.study import trials
from spec_opt.study.space import PARAMETERS, distributions, make_sampler, setting_of
from spec_opt.study.store import RUNNING_PATIENCE_S, SamplingStudy
from spec_opt.study.study import Study, reconcile
from spec_opt.study.trials import (
    FAILED_BY_ITSELF,
    INTERRUPTED,
    WORKER_DIED,
    Claimant,
    Measured,
    Trial,
)


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
class ClaimedTrial:
    """A running trial that is ours."""

    trial_id: int
    number: int
    setting: Setting
    stored: Measured | None
    """The measurement to copy, where the sampler chose a setting for the second time."""


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
        self._store, self._study_id = study.store, study.study_id
        self._search = study.config.search
        self._spaces = distributions(self._search)
        self._last_sigma: float | None = None

    def claim(self) -> ClaimedTrial | Idle:
        """The next trial to run, or why there is none.

        One transaction lets a trial begin. Parameters that it lacks are then chosen outside of
        any, and stored in a second one.

        Raises:
            StoreError: the store cannot be reached.
            StudyError: the study was deleted.
        """
        while True:
            trial = self._store.transaction(self._begin)
            if isinstance(trial, Idle):
                return trial
            try:
                chosen = self._choose(trial)
            except UpdateFinishedTrialError:  # from NSGA-II, which notes a generation on the trial
                continue
            claimed = self._settle(trial, chosen)
            if claimed is not None:
                return claimed

    def _begin(self, connection: Connection) -> Trial | Idle:
        """Let a trial run in our name: the next waiting one, or a new one for the sampler."""
        held = trials.held_by(connection, self._study_id, self.claimant)
        if held:  # by a first run of this transaction, whose answer got lost
            return trials.claimed(connection, *held[0])
        if self._search.sampler == "grid" and (taken := self._take(connection)):
            return taken
        outlook = reconcile(connection, self._study_id, self._search, self._grace())
        if outlook.waiting and (taken := self._take(connection)):
            return taken
        if outlook.remaining:
            return trials.start_new(connection, self._study_id, self.claimant, outlook.trials)
        return Idle.DONE if outlook.is_done else Idle.WAIT

    def _take(self, connection: Connection) -> Trial | None:
        return trials.take_next(connection, self._study_id, self._last_sigma, self.claimant)

    def _grace(self) -> float | None:
        """When to give up silent trials; None while the store's own silence may be the reason."""
        grace, recovered = self.heartbeat.grace, self._store.seconds_since_recovery()
        return None if recovered is not None and recovered < grace else grace

    def _choose(self, trial: Trial) -> dict[str, Any]:
        """Those of its parameters that are not stored yet: enqueued ones, then sampled ones.

        Raises:
            UpdateFinishedTrialError: the trial was given up meanwhile.
        """
        lacking = [name for name in PARAMETERS if name not in trial.params]
        chosen = {name: trial.fixed[name] for name in lacking if name in trial.fixed}
        to_sample = [name for name in lacking if name not in chosen]
        if to_sample and self._search.sampler != "grid":
            chosen |= self._store.patiently(lambda: self._sample(trial, to_sample))
        return chosen

    def _sample(self, trial: Trial, names: Sequence[str]) -> dict[str, Any]:
        """Let the sampler choose parameters.

        Seeded by the trial's number, the same whichever worker asks: no two trials share dice, and
        a study that one worker runs is repeatable.
        """
        study, spaces = self._sampling_study, self._spaces
        seed = np.random.SeedSequence([self._search.seed, trial.number]).generate_state(1)[0]
        sampler = make_sampler(self._search, int(seed))
        frozen = create_trial(state=TrialState.RUNNING)
        frozen.number, frozen._trial_id = trial.number, trial.trial_id
        study.forget_trials()
        sampler.before_trial(study, frozen)
        space = sampler.infer_relative_search_space(study, frozen)
        relative = sampler.sample_relative(study, frozen, space)
        return {
            name: relative[name]
            if name in relative and space[name] == spaces[name]
            else sampler.sample_independent(study, frozen, name, spaces[name])
            for name in names
        }

    @cached_property
    def _sampling_study(self) -> SamplingStudy:
        return SamplingStudy(self.study.name, self._store.storage)

    def _settle(self, trial: Trial, chosen: Mapping[str, Any]) -> ClaimedTrial | None:
        """Store what was chosen; None if it does not fit, or the trial is ours no longer."""
        spaces = self._spaces
        try:
            known = {name: spaces[name].to_external_repr(v) for name, v in trial.params.items()}
            setting = setting_of({**known, **chosen})
            internal = {name: float(spaces[name].to_internal_repr(v)) for name, v in chosen.items()}
        except (KeyError, ValueError, TypeError) as error:
            self._fail(
                trial.trial_id, f"enqueued with parameters that do not fit the study: {error}"
            )
            return None
        stored = None
        if chosen or self._search.sampler != "grid":
            whole = trial._replace(params={**trial.params, **internal})
            is_ours, stored = self._store.transaction(lambda c: self._record(c, whole, chosen))
            if not is_ours:
                return None
        self._last_sigma = trial.params.get("sigma")
        return ClaimedTrial(trial.trial_id, trial.number, setting, stored)

    def _record(
        self, connection: Connection, trial: Trial, chosen: Mapping[str, Any]
    ) -> tuple[bool, Measured | None]:
        """Whether the trial is still ours, and an earlier measurement of its setting."""
        held = trials.held_by(connection, self._study_id, self.claimant)
        if (trial.trial_id, trial.number) not in held or trial.key is None:
            return False, None
        # A first run of this transaction, whose answer got lost, may have stored them.
        missing = chosen.keys() - trials.stored_params_of(connection, trial.trial_id).keys()
        new = {name: chosen[name] for name in PARAMETERS if name in missing}
        trials.set_params(connection, {trial.trial_id: new}, self._spaces)
        return True, trials.find_measured(connection, self._study_id, trial.key)

    def finish(
        self, trial: ClaimedTrial, values: Sequence[float], attributes: Mapping[str, Any]
    ) -> bool:
        """Record a result; False if the trial was given up meanwhile, and the result dropped."""
        end = (trial.trial_id, self.claimant, TrialState.COMPLETE, values, attributes)
        return self._store.transaction(lambda connection: trials.finish(connection, *end))

    def fail(self, trial: ClaimedTrial, error: str) -> bool:
        """Record that a trial failed, and why; False if it was given up meanwhile."""
        return self._fail(trial.trial_id, error)

    def abandon(self, trial: ClaimedTrial, error: str) -> bool:
        """Record that this worker cannot go on, by no fault of the setting."""
        return self._fail(trial.trial_id, error, WORKER_DIED)

    def _fail(self, trial_id: int, error: str, kind: str = FAILED_BY_ITSELF) -> bool:
        end = (trial_id, self.claimant, TrialState.FAIL, (), trials.failure(kind, error))
        return self._store.transaction(lambda connection: trials.finish(connection, *end))

    def release(self, patience_s: float = RUNNING_PATIENCE_S) -> int:
        """Give back the trials that are ours, as if never tried; how many there were."""
        return self._store.transaction(self._release, patience_s)

    def _release(self, connection: Connection) -> int:
        held = trials.held_by(connection, self._study_id, self.claimant)
        if held:
            # In the order of all other transactions: first the study, then its trials.
            trials.lock_study(connection, self._study_id)
            end = (self.claimant, TrialState.FAIL, (), trials.failure(INTERRUPTED, "interrupted"))
            for trial_id, _ in held:
                trials.finish(connection, trial_id, *end)
            reconcile(connection, self._study_id, self._search, None)
        return len(held)

    def beat(self, trial_id: int) -> bool:
        """Give a sign of life; False if the trial is no longer running."""
        patience_s = self.heartbeat.interval
        return self._store.transaction(lambda c: trials.beat(c, trial_id), patience_s)
