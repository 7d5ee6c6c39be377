"""The verdict: does speculation pay, and with which setting?

It is made here and nowhere else, from two kinds of measurement. Speedups are ratios of runs taken
in turns with the target alone; one counts as faster only if it was faster in every run. Errors are
ratios to the target's MSE on the same windows with a 95 % interval; one counts as inside the limit
only if the upper end of its interval is. Whatever these two do not settle is `unknown`, and the
verdict says what would settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spec_opt.config.study_file import Setting
from spec_opt.results.wording import relative

HARDLY_CHEAPER = 1.1
"""A draft that no run showed to be this much faster than its target is no gain, noise or not."""

Decision = Literal["speculate", "draft_alone", "target_alone", "unknown"]


@dataclass(frozen=True)
class Speedup:
    """Time of the target alone over the time of something else, for the same forecasts."""

    value: float
    """The ratio of the medians."""
    low: float
    """In the slowest run."""
    high: float
    """In the fastest run."""
    measured: bool
    """False for the cost model's prediction."""
    batch_size: int
    device: str

    @property
    def is_faster(self) -> bool:
        """In every run."""
        return self.measured and self.low > 1.0

    @property
    def is_slower(self) -> bool:
        """In every run."""
        return self.measured and self.high < 1.0


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


@dataclass(frozen=True)
class Candidate:
    """A way to forecast, held against the target alone: a setting, or the draft alone."""

    setting: Setting | None
    """None for the draft alone."""
    trial: int | None
    error: ErrorRatio
    speedups: tuple[Speedup, ...]
    """One for each batch size that was timed; predicted ones where none was."""

    @property
    def best(self) -> Speedup | None:
        """The best speedup: one that held in every run first, then a measured one."""
        return max(self.speedups, key=_merit, default=None)


@dataclass(frozen=True)
class Verdict:
    """What to do, in one sentence, and why."""

    decision: Decision
    setting: Setting | None
    trial: int | None
    speedup: Speedup | None
    """Of what is decided; for `target_alone` and `unknown`, the best that speculation reached."""
    mse_ratio: float | None
    """MSE of what is decided over the target's."""
    reason: str
    """The whole of it in one or two sentences."""

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"setting": self.setting and self.setting.model_dump()}


def judge(
    settings: Sequence[Candidate], draft: Candidate | None, limit: float, study: str
) -> Verdict:
    """Decide between speculation, the draft alone and the target alone.

    Args:
        settings: the candidates for speculation, the recommended ones and the best predicted.
        draft: the draft alone; None if its error is not known (an imported study).
        limit: how much of the target's MSE may be reached, 1.05 for 5 % more.
        study: its name, for commands to paste.
    """
    paying = [c for c in settings if c.error.is_inside(limit) and c.best and c.best.is_faster]
    if draft is not None and draft.error.is_inside(limit) and _is_cheaper(draft):
        return _use_draft(settings, draft)
    if paying:
        return _speculate(max(paying, key=lambda c: _merit(c.best)), limit)
    if _is_settled(settings, limit) and (draft is None or _is_no_use(draft, limit)):
        return _use_target(settings, draft, limit)
    return _unknown(settings, draft, limit, study)


def _merit(speedup: Speedup | None) -> tuple[bool, bool, float]:
    if speedup is None:
        return False, False, 0.0
    return speedup.is_faster, speedup.measured, speedup.value


def _is_cheaper(draft: Candidate) -> bool:
    return bool(draft.speedups) and all(speedup.is_faster for speedup in draft.speedups)


def _is_no_use(draft: Candidate, limit: float) -> bool:
    """Whether the draft alone is ruled out: it is less accurate than allowed, or not cheaper."""
    timed = [speedup for speedup in draft.speedups if speedup.measured]
    dear = bool(timed) and all(speedup.high < HARDLY_CHEAPER for speedup in timed)
    return draft.error.is_outside(limit) or dear


def _is_settled(settings: Sequence[Candidate], limit: float) -> bool:
    """Whether every candidate is ruled out, by its error or by its time."""
    return bool(settings) and all(
        c.error.is_outside(limit) or (c.speedups and all(s.is_slower for s in c.speedups))
        for c in settings
    )


def _use_draft(settings: Sequence[Candidate], draft: Candidate) -> Verdict:
    speedup = max(draft.speedups, key=_merit)
    return Verdict(
        "draft_alone",
        setting=None,
        trial=None,
        speedup=speedup,
        mse_ratio=draft.error.value,
        reason=f"{_no_speculation(settings)}Use the draft alone: {_times(speedup.value)} as fast "
        f"as the target alone{_at(speedup)}, MSE {_against_target(draft.error)}.",
    )


def _speculate(chosen: Candidate, limit: float) -> Verdict:
    speedup = chosen.best
    assert speedup is not None
    losing = sorted(s.batch_size for s in chosen.speedups if s.is_slower)
    but = f" At batch size {_listed(losing)} it is slower than the target." if losing else ""
    return Verdict(
        "speculate",
        setting=chosen.setting,
        trial=chosen.trial,
        speedup=speedup,
        mse_ratio=chosen.error.value,
        reason=f"Speculate with {chosen.setting}: {_times(speedup.value)} as fast as the target "
        f"alone{_at(speedup)}, MSE {_against_target(chosen.error)} "
        f"(limit {100 * (limit - 1):g}%).{but}",
    )


def _use_target(settings: Sequence[Candidate], draft: Candidate | None, limit: float) -> Verdict:
    best = _best_of(settings)
    inaccurate = best is None or not best.is_slower
    because = "no setting within the MSE limit is faster" if inaccurate else ""
    if draft is not None and draft.error.is_outside(limit):
        about_draft = f"the draft alone has an MSE {_against_target(draft.error)}"
    else:
        about_draft = "the draft alone is not faster" if draft is not None else ""
    reasons = "; ".join(part for part in (because, about_draft) if part)
    return Verdict(
        "target_alone",
        setting=None,
        trial=None,
        speedup=best,
        mse_ratio=1.0,
        reason=f"{_no_speculation(settings)}Use the target alone: {reasons}.",
    )


def _unknown(
    settings: Sequence[Candidate], draft: Candidate | None, limit: float, study: str
) -> Verdict:
    best = _best_of(settings)
    return Verdict(
        "unknown",
        setting=None,
        trial=None,
        speedup=best,
        mse_ratio=None,
        reason=f"Whether speculation pays is not known: {_missing(settings, draft, limit, study)}.",
    )


def _missing(
    settings: Sequence[Candidate], draft: Candidate | None, limit: float, study: str
) -> str:
    """What keeps the verdict open, and what would settle it."""
    if not settings:
        return "no setting qualifies, so none was timed; see the remedies below"
    timed = [s for c in settings for s in c.speedups if s.measured]
    if not timed:
        return f"nothing was timed; `spec-opt bench {study}` settles it"
    noisy = [s for s in timed if not s.is_faster and not s.is_slower]
    if noisy:
        widest = max(noisy, key=lambda s: s.value)
        return (
            f"the best timings scatter about 1 ({widest.low:.2f}x to {widest.high:.2f}x"
            f"{_at(widest)}); `spec-opt bench {study} --repeats 15` on an idle machine settles it"
        )
    return (
        f"the noise of the errors reaches over the limit of {100 * (limit - 1):g}% above the "
        "target's MSE; more windows (data.max_windows, or window_stride = 1) settle it"
    )


def _no_speculation(settings: Sequence[Candidate]) -> str:
    best = _best_of(settings)
    if best is None or not best.measured:
        return ""
    if best.value >= 1.0:
        return ""
    return f"Don't speculate here: {best.value:.2f}x at best. "


def _best_of(settings: Sequence[Candidate]) -> Speedup | None:
    return max((s for c in settings for s in c.speedups), key=_merit, default=None)


def _times(value: float) -> str:
    return f"{value:.3g}x" if value >= 10 else f"{value:.2f}x"


def _at(speedup: Speedup) -> str:
    return f" at batch size {speedup.batch_size}"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _against_target(error: ErrorRatio) -> str:
    return f"{relative(error.value, 1.0)} the target's"
