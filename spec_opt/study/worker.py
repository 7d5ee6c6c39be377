"""One worker: claims trials, measures them, records what came out, until the study is done."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spec_opt.config.study_file import Setting
from spec_opt.errors import SpecOptError, WorkError
from spec_opt.measure.measurement import Measurement
from spec_opt.study import trials
from spec_opt.study.claims import ClaimedTrial, Claims, Heartbeat, Idle, Stored
from spec_opt.study.store import Patience
from spec_opt.study.study import Study, package_versions, source_commit

if TYPE_CHECKING:
    from spec_opt.measure.objective import Objective

log = logging.getLogger(__name__)

LONGEST_ERROR = 500
"""Characters of an exception's text that are kept."""
RELEASE_PATIENCE = Patience(5.0)
"""Somebody waits for this process to leave."""

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0
"""Seconds between looks at what the others do, when there is nothing else to do."""


class Stop(Protocol):
    """What tells a worker to leave after its running trial; threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to leave."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until told to leave, `timeout` seconds at most; whether to leave."""


Outcome = Literal["complete", "repeated", "fail", "dropped"]
_Ending = tuple[Outcome, tuple[float, ...], str | None]
"""Outcome, values, error."""


@dataclass(frozen=True)
class TrialReport:
    """A trial that has ended, for whoever watches."""

    number: int
    setting: Setting
    outcome: Outcome
    values: tuple[float, ...]
    """Of the study's objectives, acceptance_rate and mse the first; empty if it failed."""
    error: str | None
    seconds: float


@dataclass(frozen=True)
class WorkerSummary:
    """What a worker did."""

    complete: int
    repeated: int
    """Told at once: the study had measured that setting already."""
    fail: int
    dropped: int
    """Measured, but the trial had been given up meanwhile."""
    interrupted: bool
    """Told to stop before the study was done; a running trial was given back."""
    seconds: float


def run_worker(
    study: Study,
    objective: Objective,
    stop: Stop,
    on_trial: Callable[[TrialReport], None] | None = None,
    heartbeat: Heartbeat | None = None,
) -> WorkerSummary:
    """Work on the study until it is done or `stop` is set.

    KeyboardInterrupt at any moment gives the running trial back and returns, as `stop` does after
    the running trial: look at `interrupted`.

    Raises:
        WorkError: the accelerator is in a state that only a new process can leave; the running
            trial is recorded as orphaned.
        StoreError: the store could not be reached for long.
    """
    claims = Claims(study, heartbeat)
    worker = _Worker(claims, objective, study.config.search.objectives, on_trial)
    started = time.monotonic()
    interrupted = False
    try:
        with _Pulse(claims) as pulse:
            interrupted = worker.work(stop, pulse)
    except KeyboardInterrupt:
        interrupted = True
        claims.release(RELEASE_PATIENCE)
    except SpecOptError:
        raise
    except BaseException:
        claims.release(RELEASE_PATIENCE)
        raise
    counts = worker.counts
    return WorkerSummary(
        complete=counts["complete"],
        repeated=counts["repeated"],
        fail=counts["fail"],
        dropped=counts["dropped"],
        interrupted=interrupted,
        seconds=time.monotonic() - started,
    )


class _Pulse:
    """Sends signs of life of the running trial, in a thread of its own, whatever happens."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._trial_id: int | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> _Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join(timeout=self._claims.heartbeat.interval)

    def watch(self, trial_id: int | None) -> None:
        self._trial_id = trial_id

    def _run(self) -> None:
        while not self._leave.wait(self._claims.heartbeat.interval):
            trial_id = self._trial_id
            if trial_id is None:
                continue
            try:
                self._claims.beat(trial_id)
            except Exception as error:  # noqa: BLE001 - a thread that dies would cost the trial
                log.warning("no sign of life could be given: %s", error)


class _Worker:
    def __init__(
        self,
        claims: Claims,
        objective: Objective,
        objectives: Sequence[str],
        on_trial: Callable[[TrialReport], None] | None,
    ) -> None:
        self.counts: dict[Outcome, int] = dict.fromkeys(
            ("complete", "repeated", "fail", "dropped"), 0
        )
        self._claims = claims
        self._objective, self._objectives = objective, objectives
        self._on_trial = on_trial
        self._always = _attributes_of_worker(objective)

    def work(self, stop: Stop, pulse: _Pulse) -> bool:
        """Until done (False) or stopped (True)."""
        pause = FIRST_WAIT
        while not stop.is_set():
            claimed = self._claims.claim()
            if claimed is Idle.DONE:
                return False
            if isinstance(claimed, Idle):
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_WAIT, self._claims.heartbeat.interval)
                continue
            pause = FIRST_WAIT
            pulse.watch(claimed.trial_id)
            report = self._evaluate(claimed)
            pulse.watch(None)
            self.counts[report.outcome] += 1
            if self._on_trial is not None:
                self._on_trial(report)
        return True

    def _evaluate(self, trial: ClaimedTrial) -> TrialReport:
        started = time.monotonic()
        if trial.stored is not None:
            outcome, values, error = self._repeat(trial, trial.stored)
        else:
            outcome, values, error = self._measure(trial)
        seconds = time.monotonic() - started
        return TrialReport(trial.number, trial.setting, outcome, values, error, seconds)

    def _repeat(self, trial: ClaimedTrial, stored: Stored) -> _Ending:
        attributes = dict(stored.attributes) | {
            trials.SOURCE_KEY: trials.REPEATED,
            "repeated_from": stored.number,
            "evaluation_seconds": 0.0,
        }
        attributes.pop(trials.WORKER_KEY, None)
        done = self._claims.finish(trial, stored.values, attributes)
        return ("repeated" if done else "dropped"), stored.values, None

    def _measure(self, trial: ClaimedTrial) -> _Ending:
        try:
            measurement = self._objective(trial.setting)
            values = self._values(measurement)
        except Exception as error:
            reason = describe(error)
            if _only_a_new_process_helps(error):
                self._claims.abandon(trial, reason)
                raise WorkError(f"{reason}; this worker can go on no longer") from error
            done = self._claims.fail(trial, reason)
            return ("fail" if done else "dropped"), (), reason
        attributes = _attributes_of_measurement(measurement) | self._always
        done = self._claims.finish(trial, values, attributes)
        return ("complete" if done else "dropped"), values, None

    def _values(self, measurement: Measurement) -> tuple[float, ...]:
        found = {
            "acceptance_rate": measurement.acceptance_rate,
            "mse": measurement.mse,
            "speedup": measurement.predicted_speedup,
        }
        values = []
        for name in self._objectives:
            value = found[name]
            if value is None:
                raise WorkError(f"{name}: could not be predicted")
            if not math.isfinite(value):
                raise WorkError(f"{name} = {value} is not finite")
            values.append(value)
        return tuple(values)


def describe(error: BaseException) -> str:
    """An exception as one line: its own text if it is spec-opt's, else with its type."""
    text = " ".join(str(error).split())
    line = text if isinstance(error, SpecOptError) and text else f"{type(error).__name__}: {text}"
    line = line.removesuffix(": ")
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 3] + "..."


def _only_a_new_process_helps(error: BaseException) -> bool:
    """Whether CUDA lost its context: every later trial here would fail, and none by its fault."""
    return str(error).startswith("CUDA error") or type(error).__name__ == "AcceleratorError"


def _attributes_of_measurement(measurement: Measurement) -> dict[str, Any]:
    attributes = asdict(measurement)
    for name in ("acceptance_rate", "mse"):  # these are the trial's values
        del attributes[name]
    return {name: _as_json(value) for name, value in attributes.items()}


def _as_json(value: Any) -> Any:
    """Tuples as lists; a number that is not finite, which JSON does not know, as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def _attributes_of_worker(objective: Objective) -> dict[str, Any]:
    """What every trial of this worker carries."""
    fingerprints = objective.fingerprints
    return {
        "mse_baseline": objective.baseline.target_mse,
        "target_fingerprint": fingerprints.target,
        "draft_fingerprint": fingerprints.draft,
        "data_fingerprint": fingerprints.data,
        "decoding_fingerprint": fingerprints.decoding,
        "device": objective.device,
        "versions": package_versions(),
        "commit": source_commit(),
        trials.SOURCE_KEY: trials.MEASURED,
    }
