"""How a worker gets trials and gives them back: each setting to one worker, each result once."""

import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection

from spec_opt.config.study_file import Setting
from spec_opt.config.user_code import naming_the_users_line
from spec_opt.config.variants import VARIANT_KEYS, Variant
from spec_opt.errors import SpecOptError, WorkError
from spec_opt.study import queue, trials
from spec_opt.study.agenda import reconcile
from spec_opt.study.constraints import put_violations
from spec_opt.study.ending import Ending, Reason, note, stored_ending
from spec_opt.study.samplers import choose, make_sampler
from spec_opt.study.silence import Patience, Watch, beat
from spec_opt.study.space import (
    PARAMETERS,
    distributions,
    parameters,
    params_of,
    setting_of,
    text_of,
    variant_of,
    variant_params,
)
from spec_opt.study.store import RUNNING_PATIENCE_S, SamplingStudy, trial_user_attributes
from spec_opt.study.study import Study
from spec_opt.study.trials import INTERRUPTED, VARIANT_KEY, Claimant, Key, Measured, Trial

SAMPLING_ATTEMPTS = 5
"""How often the sampler chooses for one trial while others measure the settings that it chose."""


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
    variant: Variant
    key: Key
    stored: Measured | None = None
    """The measurement to copy, where the study has already measured the setting."""
    waits: bool = False
    """Whether another worker is measuring the setting: `look_again` says when it has ended."""


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
        self._config, self._search = study.config, study.config.search
        self._spaces = distributions(self._search, self._config.written)
        self._watch = Watch()
        self._last = queue.Last()
        self.running_id: int | None = None
        """The trial that runs in our name, from its beginning on: it needs signs of life while a
        sampler chooses, which may take longer than others wait."""

    def claim(self) -> ClaimedTrial | Idle:
        """The next trial to run, or why there is none.

        One transaction lets a trial begin. Parameters that it lacks are then chosen outside of
        any, and stored in a second one.

        Raises:
            StoreError: the store cannot be reached.
            StudyError: the study was deleted.
        """
        while True:
            self.running_id = None
            trial = self._store.transaction(self._begin)
            if isinstance(trial, Idle):
                return trial
            self.running_id = trial.trial_id
            try:
                claimed = self._choose(trial)
            except UpdateFinishedTrialError:  # from NSGA-II, which notes a generation on the trial
                continue
            if claimed is not None:
                return claimed

    def _begin(self, connection: Connection) -> Trial | Idle:
        """Let a trial run in our name: the next waiting one, or a new one for the sampler."""
        held = trials.held_by(connection, self._study_id, self.claimant)
        if held:  # by a first run of this transaction, whose answer got lost
            variant = trials.stored_variant(connection, held[0][0])
            return trials.claimed(connection, *held[0], variant)
        if self._search.sampler == "grid" and (taken := self._take(connection)):
            return taken
        outlook = reconcile(connection, self._study_id, self._config, self._patience())
        if outlook.waiting and (taken := self._take(connection)):
            return taken
        if outlook.remaining:
            return queue.start_new(connection, self._study_id, self.claimant, outlook.trials)
        if outlook.is_done:
            self._note_end(connection, outlook.end)
            return Idle.DONE
        return Idle.WAIT

    def _note_end(self, connection: Connection, reason: Reason) -> None:
        """Store why the study ended, unless a plateau is known to be the reason."""
        known = None if self._search.stop is None else stored_ending(connection, self._study_id)
        if known is None or not known.is_plateau_of(self._search):
            note(connection, self._study_id, Ending(reason))

    def leave(self, reason: Reason, patience_s: float = RUNNING_PATIENCE_S) -> None:
        """Give back the trials that are ours; if nobody else works, note why the work ended."""

        def work(connection: Connection) -> None:
            self._release(connection)
            outlook = reconcile(connection, self._study_id, self._config, None)
            if outlook.is_done or not outlook.running:
                self._note_end(connection, outlook.end if outlook.is_done else reason)

        self._store.transaction(work, patience_s)

    def _take(self, connection: Connection) -> Trial | None:
        by_variant = bool(self._search.varied)
        about = (self._study_id, self._last, self.claimant)
        return queue.take_next(connection, *about, by_variant=by_variant)

    def _patience(self) -> Patience | None:
        """When to give up silent trials; None while the store's own silence may be the reason."""
        grace, recovered = self.heartbeat.grace, self._store.seconds_since_recovery()
        return None if recovered is not None and recovered < grace else Patience(self._watch, grace)

    def _choose(self, trial: Trial) -> ClaimedTrial | None:
        """The trial with all its parameters: stored ones, enqueued ones, then sampled ones.

        While others are measuring what the sampler chose, it chooses again. None if the parameters
        do not fit, or the trial was given up meanwhile.

        Raises:
            UpdateFinishedTrialError: the trial was given up meanwhile.
        """
        lacking = [name for name in parameters(self._search) if name not in trial.params]
        enqueued = {name: trial.fixed[name] for name in lacking if name in trial.fixed}
        to_sample = [name for name in lacking if name not in enqueued]
        if not to_sample or self._search.sampler == "grid":
            return self._settle(trial, enqueued, may_wait=True)
        for attempt in range(1, SAMPLING_ATTEMPTS):
            sampled = self._sample(trial, to_sample, attempt)
            claimed = self._settle(trial, enqueued | sampled, may_wait=False)
            if claimed is None or not claimed.waits:
                return claimed
        sampled = self._sample(trial, to_sample, SAMPLING_ATTEMPTS)
        return self._settle(trial, enqueued | sampled, may_wait=True)

    def _sample(self, trial: Trial, names: Sequence[str], attempt: int) -> dict[str, Any]:
        """Let the sampler choose parameters.

        Seeded by the numbers of trial and attempt, whichever worker asks: no two trials share
        random numbers, and a study that one worker runs is repeatable.

        Raises:
            WorkError: the sampler failed; the trial is given back.
        """
        seeds = np.random.SeedSequence([self._search.seed, trial.number, attempt - 1])
        sampler = make_sampler(self._search, int(seeds.generate_state(1)[0]))
        frozen = create_trial(state=TrialState.RUNNING)
        frozen.number, frozen._trial_id = trial.number, trial.trial_id
        study, spaces = self._sampling_study, self._spaces

        def ask() -> dict[str, Any]:
            study.forget_trials()
            return choose(sampler, study, frozen, names, spaces)

        try:
            return self._store.patiently(ask)
        except (SpecOptError, UpdateFinishedTrialError):
            raise
        except Exception:
            self.release()
            with naming_the_users_line(WorkError, f"search.sampler = '{self._search.sampler}'"):
                raise

    @cached_property
    def _sampling_study(self) -> SamplingStudy:
        return SamplingStudy(self.study.name, self._store.storage)

    def _settle(
        self, trial: Trial, chosen: Mapping[str, Any], *, may_wait: bool
    ) -> ClaimedTrial | None:
        """Store what was chosen; None if it does not fit, or the trial is ours no longer."""
        spaces = self._spaces
        # Of a variant that is no longer searched, the trial holds the whole.
        gone = {*VARIANT_KEYS} - spaces.keys()
        stored = {name: v for name, v in trial.params.items() if name not in gone}
        try:
            known = {name: spaces[name].to_external_repr(v) for name, v in stored.items()}
            values = {**known, **chosen}
            setting, variant = setting_of(values), variant_of(self._config, values)
            if trial.variant:
                variant = Variant.model_validate_json(trial.variant)
            key = self._key(setting, variant)
            claimed = ClaimedTrial(trial.trial_id, trial.number, setting, variant, key)
        except (KeyError, ValueError, TypeError) as error:
            self.fail(trial, f"enqueued with parameters that do not fit the study: {error}")
            return None
        self._last = queue.Last(key[-1], trial.params.get("sigma"))
        if self._search.sampler == "grid" and not chosen:
            return claimed  # of each grid point one trial waits or runs
        return self._store.transaction(lambda c: self._record(c, claimed, chosen, may_wait))

    def _key(self, setting: Setting, variant: Variant) -> Key:
        values = params_of(setting)
        sigma, bias, k = (float(self._spaces[n].to_internal_repr(values[n])) for n in PARAMETERS)
        return sigma, bias, k, text_of(variant)

    def _record(
        self,
        connection: Connection,
        trial: ClaimedTrial,
        chosen: Mapping[str, Any],
        may_wait: bool,
    ) -> ClaimedTrial | None:
        """Store what was chosen, and see who else has the setting; None if the trial was given up.

        If another worker is measuring it and the trial may not wait for that, nothing is stored.
        """
        # Of two workers that chose the same, the second is to see the first.
        trials.lock_study(connection, self._study_id)
        held = trials.held_by(connection, self._study_id, self.claimant)
        if (trial.trial_id, trial.number) not in held:
            return None
        other = trials.find_other(connection, self._study_id, trial.key, trial.trial_id)
        waits = other is not None and other.state is TrialState.RUNNING
        if waits and not may_wait:
            return replace(trial, waits=True)
        if chosen:
            self._put_chosen(connection, trial, chosen)
        if may_wait:
            trials.mark_waiting(connection, trial.trial_id, waits)
        stored = None if other is None or waits else trials.measured(connection, other)
        return replace(trial, waits=waits, stored=stored)

    def _put_chosen(
        self, connection: Connection, trial: ClaimedTrial, chosen: Mapping[str, Any]
    ) -> None:
        """Store parameters, without those that have no effect in this variant."""
        effective = {*PARAMETERS, *variant_params(self._config, trial.variant)}
        kept = {name: value for name, value in chosen.items() if name in effective}
        trials.set_params(connection, {trial.trial_id: kept}, self._spaces)
        if given := trial.variant.given:
            about = {trial.trial_id: {VARIANT_KEY: given}}
            trials.put_attributes(connection, trial_user_attributes, about)

    def look_again(self, trial: ClaimedTrial) -> ClaimedTrial | None:
        """A trial that waits, as it is now; None if it was given up.

        When the other trial has ended, this one has its measurement to copy, or is to be measured.
        """

        def look(connection: Connection) -> ClaimedTrial | None:
            # The other worker may have died, and perhaps nobody else looks.
            reconcile(connection, self._study_id, self._config, self._patience())
            return self._record(connection, trial, {}, may_wait=True)

        return self._store.transaction(look)

    def finish(
        self, trial: ClaimedTrial, values: Sequence[float], attributes: Mapping[str, Any]
    ) -> bool:
        """Record a result; False if the trial was given up meanwhile, and the result dropped."""
        end = (trial.trial_id, self.claimant, TrialState.COMPLETE, values, attributes)
        limits, of_target = self._search.constraints, self.study.baseline.target_mse

        def record(connection: Connection) -> bool:
            recorded = trials.finish(connection, *end)
            if recorded:
                put_violations(connection, limits, {trial.trial_id: values}, of_target)
            return recorded

        return self._store.transaction(record)

    def fail(
        self, trial: ClaimedTrial | Trial, error: str, kind: str = trials.FAILED_BY_ITSELF
    ) -> bool:
        """Record that a trial failed, and why; False if it was given up meanwhile.

        Args:
            kind: `WORKER_DIED` if this worker cannot go on, by no fault of the setting.
        """
        end = (trial.trial_id, self.claimant, TrialState.FAIL, (), trials.failure(kind, error))
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
            reconcile(connection, self._study_id, self._config, None)
        return len(held)

    def beat(self, trial_id: int) -> bool:
        """Give a sign of life; False if the trial is no longer running."""
        patience_s = self.heartbeat.interval
        return self._store.transaction(lambda c: beat(c, trial_id), patience_s)
