"""One worker: claims trials, measures them and records the results, until the study is done."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spec_opt.config.outgoing import mask
from spec_opt.config.study_file import Setting
from spec_opt.config.values import ObjectiveName
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import SpecOptError, StoreError, WorkError
from spec_opt.measure.measurement import Measurement
from spec_opt.study import trials
from spec_opt.study.claims import ClaimedTrial, Claims, Heartbeat, Idle
from spec_opt.study.study import Study, package_versions, source_commit
from spec_opt.study.trials import Measured
from spec_opt.study.warm_start import WARM_KEY

if TYPE_CHECKING:
    from spec_opt.measure.objective import Objective

log = logging.getLogger(__name__)

LONGEST_ERROR = 500
"""Characters of an exception's text that are kept."""
RELEASE_PATIENCE_S = 5.0
"""Short, because somebody waits for this process to leave."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
"""Between looks at what the others do, when there is nothing else to do."""


class Stop(Protocol):
    """What asks a worker to leave after its running trial; threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to leave."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until asked to leave, `timeout` seconds at most; whether to leave."""


Outcome = Literal["complete", "repeated", "fail", "dropped"]


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
    variant: Variant = AS_WRITTEN


@dataclass(frozen=True)
class WorkerSummary:
    """What a worker did."""

    complete: int
    repeated: int
    """Copied from another trial of the same setting."""
    fail: int
    dropped: int
    """Measured, but the trial had been given up meanwhile."""
    interrupted: bool
    """Stopped before the study was done; a running trial was given back."""
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
    counts: dict[Outcome, int] = {"complete": 0, "repeated": 0, "fail": 0, "dropped": 0}

    def on_end(report: TrialReport) -> None:
        counts[report.outcome] += 1
        if on_trial is not None:
            with suppress(OSError):  # of a stream: what is shown only accompanies the work
                on_trial(report)

    started = time.monotonic()
    try:
        interrupted = _work(claims, objective, stop, on_end)
        if interrupted:
            with suppress(StoreError):  # nothing is ours any more
                claims.leave("interrupted", RELEASE_PATIENCE_S)
    except KeyboardInterrupt:
        interrupted = True
        claims.leave("interrupted", RELEASE_PATIENCE_S)
    except StoreError:
        raise
    except BaseException:
        claims.leave("failed", RELEASE_PATIENCE_S)
        raise
    return WorkerSummary(**counts, interrupted=interrupted, seconds=time.monotonic() - started)


def _work(
    claims: Claims, objective: Objective, stop: Stop, on_end: Callable[[TrialReport], None]
) -> bool:
    """Evaluate trials until the study is done (False) or `stop` is set (True)."""
    pause = FIRST_WAIT_S
    with _Pulse(claims):
        while not stop.is_set():
            claimed = claims.claim()
            if claimed is Idle.DONE:
                return False
            if isinstance(claimed, Idle):
                stop.wait(pause)
                pause = min(2 * pause, LONGEST_WAIT_S, claims.heartbeat.interval)
                continue
            pause = FIRST_WAIT_S
            if trial := _wait_for_others(claims, claimed, stop):
                on_end(_evaluate(claims, objective, trial))
            claims.running_id = None
    return True


def _wait_for_others(claims: Claims, trial: ClaimedTrial, stop: Stop) -> ClaimedTrial | None:
    """The trial once no other worker is measuring its setting; None if it was given up or back."""
    claimed: ClaimedTrial | None = trial
    pause = FIRST_WAIT_S
    while claimed is not None and claimed.waits:
        if stop.wait(pause):
            claims.release(RELEASE_PATIENCE_S)
            return None
        pause = min(2 * pause, LONGEST_WAIT_S, claims.heartbeat.interval)
        claimed = claims.look_again(claimed)
    return claimed


class _Pulse(threading.Thread):
    """Gives signs of life of the running trial, if there is one, while inside."""

    def __init__(self, claims: Claims) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._claims = claims
        self._leave = threading.Event()

    def __enter__(self) -> _Pulse:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self.join(timeout=self._claims.heartbeat.interval)

    def run(self) -> None:
        while not self._leave.wait(self._claims.heartbeat.interval):
            if (trial_id := self._claims.running_id) is None:
                continue
            try:
                self._claims.beat(trial_id)
            except Exception as error:  # noqa: BLE001 - a thread that dies would cost the trial
                log.warning("no sign of life could be given: %s", error)


def _evaluate(claims: Claims, objective: Objective, trial: ClaimedTrial) -> TrialReport:
    started, search = time.monotonic(), claims.study.config.search
    outcome: Outcome
    values: tuple[float, ...] = ()
    error = None
    if trial.stored is not None:
        outcome, values = "repeated", trial.stored.values
        recorded = claims.finish(trial, values, _attributes_of_copy(trial.stored))
    else:
        try:
            of_variant = objective.of(trial.variant)
            measurement = of_variant(trial.setting)
            values = _values(measurement, search.objectives)
            attributes = _attributes(measurement, of_variant)
            if search.varied:
                # Of the draft, which is not that of every trial of the study.
                attributes["draft_path"] = of_variant.draft_path
                attributes["draft_mse"] = of_variant.baseline.draft_mse
        except Exception as cause:
            outcome, error = "fail", describe(cause)
            if _only_a_new_process_helps(cause):
                claims.fail(trial, error, trials.WORKER_DIED)
                raise WorkError(f"{error}; this worker can go on no longer") from cause
            recorded = claims.fail(trial, error)
        else:
            outcome = "complete"
            recorded = claims.finish(trial, values, attributes)
    seconds = time.monotonic() - started
    outcome = outcome if recorded else "dropped"
    ended = (outcome, values, error, seconds)
    return TrialReport(trial.number, trial.setting, *ended, trial.variant)


def _values(measurement: Measurement, objectives: Sequence[ObjectiveName]) -> tuple[float, ...]:
    found = {
        "acceptance_rate": measurement.acceptance_rate,
        "mse": measurement.mse,
        "speedup": measurement.predicted_speedup,
    }
    values = []
    for name in objectives:
        value = found[name]
        if value is None:
            raise WorkError(f"{name}: could not be predicted")
        if not math.isfinite(value):
            raise WorkError(f"{name} = {value} is not finite")
        values.append(value)
    return tuple(values)


def describe(error: BaseException) -> str:
    """An exception as one line: its own text if it is spec-opt's, else with its type."""
    text = mask(" ".join(str(error).split()))
    line = text if isinstance(error, SpecOptError) and text else f"{type(error).__name__}: {text}"
    line = line.removesuffix(": ")
    return line if len(line) <= LONGEST_ERROR else line[: LONGEST_ERROR - 3] + "..."


def _only_a_new_process_helps(error: BaseException) -> bool:
    """Whether CUDA lost its context, so that every later trial in this process would fail."""
    return str(error).startswith("CUDA error") or type(error).__name__ == "AcceleratorError"


def _attributes(measurement: Measurement, objective: Objective) -> dict[str, Any]:
    """What a measured trial carries beside its values."""
    measured = asdict(measurement)
    for name in ("acceptance_rate", "mse"):  # these are the trial's values
        del measured[name]
    fingerprints = asdict(objective.fingerprints)
    return {
        **{name: _as_json(value) for name, value in measured.items()},
        **{f"{name}_fingerprint": value for name, value in fingerprints.items()},
        "mse_baseline": objective.baseline.target_mse,
        "device": objective.device,
        "versions": package_versions(),
        "commit": source_commit(),
        trials.SOURCE_KEY: trials.MEASURED,
    }


def _attributes_of_copy(stored: Measured) -> dict[str, Any]:
    of_its_own = (trials.WORKER_KEY, WARM_KEY)
    attributes = {name: v for name, v in stored.attributes.items() if name not in of_its_own}
    copied = {"repeated_from": stored.number, "evaluation_seconds": 0.0}
    return attributes | copied | {trials.SOURCE_KEY: trials.REPEATED}


def _as_json(value: Any) -> Any:
    """Tuples as lists; a number that is not finite, which JSON does not know, as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
