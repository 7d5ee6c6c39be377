"""The verdict: does speculation pay, and with which setting?

It is made here and nowhere else, from two kinds of measurement. Speedups are ratios of runs taken
in turns with the target alone; one counts as faster only if it was faster in every run. Errors are
ratios to the target's MSE on the same windows with a 95 % interval; one counts as inside the limit
only if the upper end of its interval is. Whatever these two do not settle is `unknown`, and the
verdict says what would settle it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from spec_opt.config.study_file import Setting
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.measure.measurement import Baseline, Blocks
from spec_opt.measure.uncertainty import difference_to_target
from spec_opt.results.recommend import best_of_scenarios, bounds_of
from spec_opt.results.speedup import CHEAPER, Speedup, as_fast, disturbance
from spec_opt.results.table import Point, StudyTable, by_acceptance, by_mse
from spec_opt.results.wording import allowed, linear_alone, narrower, relative

Decision = Literal["speculate", "draft_alone", "target_alone", "unknown"]


@dataclass(frozen=True)
class ErrorRatio:
    """An MSE over the target's on the same windows."""

    value: float
    low: float | None
    """The lower end of its 95 % interval; None if the noise is not known."""
    high: float | None

    def is_inside(self, limit: float) -> bool:
        """Whether the whole interval is at most `limit`."""
        return self.high is not None and self.high <= limit

    def is_outside(self, limit: float) -> bool:
        """Whether the whole interval is above `limit`."""
        return self.low is not None and self.low > limit

    @classmethod
    def of(cls, mse: float, target: float, half_width: float | None) -> ErrorRatio:
        """From both MSEs, and half of the 95 % interval of their difference."""
        if half_width is None:
            return cls(mse / target, None, None)
        return cls(mse / target, (mse - half_width) / target, (mse + half_width) / target)

    def __str__(self) -> str:
        return f"{relative(self.value, 1.0)} the target's"


@dataclass(frozen=True)
class Candidate:
    """A way to forecast, compared with the target alone: a setting, or the draft alone."""

    setting: Setting | None
    """None for the draft alone."""
    trial: int | None
    error: ErrorRatio
    speedups: tuple[Speedup, ...]
    """Measured ones, one a batch size; a predicted one where there are none."""
    variant: Variant = AS_WRITTEN

    @property
    def label(self) -> str:
        """Its setting, and its variant if that is not the study file as written."""
        return f"{self.setting or 'the draft alone'} {self.variant}".rstrip()

    @property
    def best(self) -> Speedup | None:
        """The best speedup: one that held in every run first, then a measured one."""
        return max(self.speedups, key=_merit, default=None)

    def pays(self, limit: float) -> bool:
        """Whether it is accurate enough, and faster in every run at some batch size."""
        return self.error.is_inside(limit) and any(s.is_faster for s in self.speedups)

    def is_ruled_out(self, limit: float) -> bool:
        """Whether it is too inaccurate, or nowhere faster."""
        too_slow = bool(self.speedups) and all(s.is_slower for s in self.speedups)
        return too_slow or self.error.is_outside(limit)


@dataclass(frozen=True)
class Verdict:
    """What to do, and why."""

    decision: Decision
    setting: Setting | None
    """To speculate with."""
    trial: int | None
    speedup: Speedup | None
    """Of what is decided; for `target_alone` and `unknown` the best that speculation reached."""
    error: ErrorRatio | None
    """Of what is decided; None where nothing is."""
    reason: str
    """What to do, what it rests on, what disturbed it, and whether a linear model is as good."""
    linear: ErrorRatio | None = None
    """Of a linear model alone, which is no candidate; None if it is not known."""
    dissuades: bool = False
    """Whether no setting pays, though what to do instead is `unknown`."""

    def __repr__(self) -> str:
        """What is decided, and why."""
        return f"<Verdict {self.decision}: {self.reason}>"

    @property
    def mse_ratio(self) -> float | None:
        """MSE of what is decided over the target's."""
        return None if self.error is None else self.error.value

    def cautioned(self, speedups: Iterable[Speedup]) -> Verdict:
        """With a word on the machine, if it was busy when these were measured."""
        caution = disturbance(speedups)
        return self if caution is None else replace(self, reason=f"{self.reason} {caution}")

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "decision": self.decision,
            "setting": self.setting and self.setting.model_dump(),
            "trial": self.trial,
            "speedup": self.speedup and _speedup_document(self.speedup),
            "mse_ratio": self.mse_ratio,
            "mse_ratio_low": self.error and self.error.low,
            "mse_ratio_high": self.error and self.error.high,
            "linear_mse_ratio": self.linear and asdict(self.linear),
            "reason": self.reason,
        }


def _speedup_document(speedup: Speedup) -> dict[str, Any]:
    return {
        "value": speedup.value,
        "low": speedup.speedup_low,
        "high": speedup.speedup_high,
        "measured": speedup.measured,
        "batch_size": speedup.batch_size,
        "device": speedup.device,
        "runs": speedup.runs,
    }


def verdict_of(table: StudyTable, reference: str | None = None) -> Verdict:
    """The verdict on a study, from what its store holds.

    Args:
        reference: the study as it was named, for commands to paste; by default its name.
    """
    reference = reference or table.name
    if not table.points:
        return _open(f"no trial has completed; `spec-opt run {reference}` makes them")
    if table.target_mse is None:
        return _open("the trials were imported, and the target's own MSE is not known")
    if not table.speedups and table.timing_until and datetime.now(UTC) < table.timing_until:
        return _open("what is recommended is being timed at the moment")
    timed = {s.trial for s in table.speedups}
    points = {p.number: p for p in table.points if p.number in timed}
    points |= {point.number: point for point in worth_timing(table)}
    settings = [_candidate(table, point) for point in points.values()]
    base, linear = table.baseline, None
    verdict = judge(settings, draft_candidate(table), limit_of(table), reference, narrower(table))
    verdict = verdict.cautioned(s for s in table.speedups if s.device == table.bench_device)
    rival = base.draft_mse if base is not None and verdict.decision == "draft_alone" else None
    finding = linear_alone(table, reference, rival)
    parts = (verdict.reason, *_contradictions(table, verdict), finding)
    if base is not None and base.linear_mse is not None:
        width = base.linear_minus_target_mse_ci95
        linear = ErrorRatio.of(base.linear_mse, base.target_mse, width)
    return replace(verdict, reason=" ".join(filter(None, parts)), linear=linear)


def _contradictions(table: StudyTable, verdict: Verdict) -> list[str]:
    """Where `spec-opt confirm` found otherwise."""
    is_draft = verdict.decision == "draft_alone"
    found = [
        f"On {one.split} it is {one}."
        for one in table.judgements
        if one.outcome == "not confirmed"
        and (one.scenario == "draft_alone" if is_draft else one.trial == verdict.trial is not None)
    ]
    return list(dict.fromkeys(found))


def worth_timing(table: StudyTable) -> list[Point]:
    """The recommended trials, and the one predicted to be the fastest within the limit on the MSE.

    That is one whose whole interval is inside, if there is any. If there is nothing of all this,
    the trial that comes closest to the quality scenario.
    """
    found, bounds, limit = best_of_scenarios(table), bounds_of(table, "quality"), limit_of(table)
    accurate = [p for p in table.points if bounds.is_accurate(p)]
    surely = [p for p in accurate if table.target_mse and _error(table, p).is_inside(limit)]
    predicted = [p for p in surely or accurate if p.result.predicted_speedup is not None]
    found += [min(predicted, key=_by_prediction)] if predicted else []
    if not found:
        found = sorted(accurate, key=by_acceptance)[:1] or sorted(table.points, key=by_mse)[:1]
    return list({point.number: point for point in found}.values())


def _by_prediction(point: Point) -> tuple[float, ...]:
    return (-(point.result.predicted_speedup or 0.0), *by_mse(point))


def limit_of(table: StudyTable) -> float:
    """The highest MSE that the quality scenario allows, over the target's."""
    if table.target_mse is None:
        return table.limits.quality.max_mse_ratio
    return bounds_of(table, "quality").max_mse / table.target_mse


def error_ratio(mse: float, blocks: Blocks | None, baseline: Baseline) -> ErrorRatio:
    """A setting's MSE over the target's; both on the windows of `baseline`."""
    found = None if blocks is None else difference_to_target(blocks, baseline)
    return ErrorRatio.of(mse, baseline.target_mse, None if found is None else found.half_width)


def draft_error_ratio(baseline: Baseline) -> ErrorRatio:
    """The MSE of the draft alone over the target's."""
    half_width = baseline.draft_minus_target_mse_ci95
    return ErrorRatio.of(baseline.draft_mse, baseline.target_mse, half_width)


def draft_candidate(table: StudyTable) -> Candidate | None:
    """The draft alone; None if its error is not known, or it is the target once more."""
    prints = table.fingerprints
    if table.baseline is None or (prints is not None and prints.draft == prints.target):
        return None
    error = draft_error_ratio(table.baseline)
    return Candidate(None, None, error, table.measured_speedups(None))


def _error(table: StudyTable, point: Point) -> ErrorRatio:
    if table.baseline is not None:
        return error_ratio(point.result.mse, point.result.blocks, table.baseline)
    assert table.target_mse is not None
    return ErrorRatio.of(point.result.mse, table.target_mse, None)


def _candidate(table: StudyTable, point: Point) -> Candidate:
    predicted, speedups = point.result.predicted_speedup, table.measured_speedups(point.number)
    if not speedups and predicted is not None:
        batch_size = 1 if table.config is None else table.config.decoding.batch_size
        device = point.device or "unknown"
        speedups = (Speedup(point.number, device, batch_size, predicted, None),)
    error = _error(table, point)
    return Candidate(point.setting, point.number, error, speedups, point.variant)


def judge(
    settings: Sequence[Candidate], draft: Candidate | None, limit: float, study: str, narrower: str
) -> Verdict:
    """Decide between speculation, the draft alone and the target alone.

    Args:
        settings: the candidates for speculation: what is recommended, and what was timed.
        draft: the draft alone; None if it is no alternative (see `draft_candidate`).
        limit: the highest MSE allowed, over the target's: 1.05 for 5 % more.
        study: its name, for commands to paste.
        narrower: what may narrow the intervals of errors.
    """
    paying = [candidate for candidate in settings if candidate.pays(limit)]
    # Faster in every run, and by more than one would expect of an equal model.
    is_cheaper = draft is not None and any(
        s.is_faster and s.value >= CHEAPER for s in draft.speedups
    )
    if draft is not None and is_cheaper and draft.error.is_inside(limit):
        return _use_draft(settings, draft, paying)
    if paying:
        return _speculate(_fastest(paying), limit)
    settled = bool(settings) and all(c.is_ruled_out(limit) for c in settings)
    if settled and (draft is None or _is_no_use(draft, limit)):
        verdict = _use_target(settings, draft, limit)
    else:
        verdict = _unknown(settings, draft, limit, study, narrower)
    alone = as_fast(draft.speedups) if draft is not None else ""
    return (
        replace(verdict, reason=f"{verdict.reason} The draft alone is {alone}.")
        if alone
        else verdict
    )


def _merit(speedup: Speedup | None) -> tuple[bool, bool, float]:
    if speedup is None:
        return False, False, 0.0
    return speedup.is_faster, speedup.measured, speedup.value


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    return max(candidates, key=lambda candidate: _merit(candidate.best))


def _best_of(settings: Sequence[Candidate]) -> Speedup | None:
    return _fastest(settings).best if settings else None


def _is_no_use(draft: Candidate, limit: float) -> bool:
    """Whether the draft alone is ruled out: it is less accurate than allowed, or hardly faster."""
    timed = [speedup for speedup in draft.speedups if speedup.is_reliable]
    dear = bool(timed) and all(speedup.value < CHEAPER for speedup in timed)
    return draft.error.is_outside(limit) or dear


def _use_draft(
    settings: Sequence[Candidate], draft: Candidate, paying: Sequence[Candidate]
) -> Verdict:
    speedup = draft.best
    assert speedup is not None
    reason = (
        f"{_dissuasion(settings)}Use the draft alone: {_times(speedup)}, MSE {draft.error}."
        f"{_elsewhere(draft)}"
    )
    better = [c for c in paying if c.error.value < draft.error.value]
    if better:
        chosen = _fastest(better)
        assert chosen.best is not None
        reason += (
            f" Speculating with {chosen.label} is {_times(chosen.best)}, with an MSE "
            f"{chosen.error}."
        )
    return Verdict("draft_alone", None, None, speedup, draft.error, reason)


def _speculate(chosen: Candidate, limit: float) -> Verdict:
    assert chosen.best is not None
    return Verdict(
        "speculate",
        chosen.setting,
        chosen.trial,
        chosen.best,
        chosen.error,
        f"Speculate with {chosen.label}: {_times(chosen.best)}, MSE {chosen.error} "
        f"({allowed(limit)}).{_elsewhere(chosen)}",
    )


def _use_target(settings: Sequence[Candidate], draft: Candidate | None, limit: float) -> Verdict:
    best = _best_of(settings)
    reasons = []
    if best is None or not best.is_slower:
        most = f"{relative(limit, 1.0)} the target's"
        reasons.append(f"no setting with an MSE of at most {most} is faster")
    if draft is not None:
        too_inaccurate = draft.error.is_outside(limit)
        about = f"has an MSE {draft.error}" if too_inaccurate else "is not faster"
        reasons.append(f"the draft alone {about}")
    because = f": {', and '.join(reasons)}" if reasons else ""
    reason = f"{_dissuasion(settings)}Use the target alone{because}."
    return Verdict("target_alone", None, None, best, ErrorRatio(1.0, None, None), reason)


def _unknown(
    settings: Sequence[Candidate], draft: Candidate | None, limit: float, study: str, narrower: str
) -> Verdict:
    best = _best_of(settings)
    doubtful = [c for c in settings if not c.pays(limit) and not c.is_ruled_out(limit)]
    if doubtful or draft is None:
        return _open(_doubt(doubtful, limit, study, narrower), best)
    reason = (
        f"{_dissuasion(settings)}Whether the draft alone will do is not known: "
        f"{_doubt([draft], limit, study, narrower)}."
    )
    return Verdict("unknown", None, None, best, None, reason, dissuades=bool(settings))


def _open(why: str, speedup: Speedup | None = None) -> Verdict:
    so_far = f" ({speedup} at best so far)" if speedup and speedup.measured else ""
    reason = f"Whether speculation pays is not known{so_far}: {why}."
    return Verdict("unknown", None, None, speedup, None, reason)


def _doubt(doubtful: Sequence[Candidate], limit: float, study: str, narrower: str) -> str:
    """All that leaves open whether any of these pays, each with what would help."""
    found = _doubt_of_speed(doubtful, study), _doubt_of_error(_fastest(doubtful), limit, narrower)
    return "; and ".join(filter(None, found))


def _doubt_of_speed(doubtful: Sequence[Candidate], study: str) -> str | None:
    timed = [s for c in doubtful for s in c.speedups if s.measured]
    if any(not any(s.measured for s in c.speedups) for c in doubtful):
        what = "some settings were not" if timed else "nothing was"
        return f"{what} timed; `spec-opt bench {study}` measures it"
    if any(not s.is_reliable for s in timed):
        return f"it was timed too few times; `spec-opt bench {study}` measures it"
    fastest = _fastest(doubtful).best
    if fastest is None or fastest.is_faster:
        return None
    return (
        f"timings scatter about 1 ({fastest.range or fastest} at batch size {fastest.batch_size}); "
        f"`spec-opt bench {study} --repeats 15` on an idle machine measures it again"
    )


def _doubt_of_error(candidate: Candidate, limit: float, narrower: str) -> str | None:
    error, name = candidate.error, candidate.label
    if error.is_inside(limit):
        return None
    if error.high is None:
        return f"the noise of the MSE of {name} is not known; {narrower}"
    return (
        f"the MSE of {name} is {error}, ±{100 * (error.high - error.value):.1f}% by these "
        f"windows, {allowed(limit)}; {narrower}"
    )


def _dissuasion(settings: Sequence[Candidate]) -> str:
    """That no setting is faster, where that was measured."""
    best = _best_of(settings)
    if best is None or not best.measured or best.value >= 1.0:
        return ""
    return f"Don't speculate here: {best} at best. "


def _times(speedup: Speedup) -> str:
    return f"{speedup} as fast as the target alone at batch size {speedup.batch_size}"


def _elsewhere(chosen: Candidate) -> str:
    """Batch sizes at which it loses."""
    losing = sorted(s.batch_size for s in chosen.speedups if s.is_slower)
    if not losing:
        return ""
    return f" It is slower than the target at batch size {', '.join(map(str, losing))}."
