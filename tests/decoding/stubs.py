"""Models with known answers, windows and workloads for them, and statistics for samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import ROLLING, Contexts
from spec_opt.decoding.rules import RULES, AcceptanceRule
from spec_opt.decoding.speculative import Decoded, Workload
from spec_opt.models.forecaster import Forecaster, Gaussian

PatchMap = Callable[[Tensor], Tensor]


@dataclass
class Stub:
    """Mean and variance of the next patch as functions of the last one, `[B, P, C]` each.

    Functions should be sums and products only: then a row's answer does not depend on its batch,
    to the last bit.
    """

    patch: int
    mean: PatchMap
    variance: PatchMap | None = None
    fingerprint: str = "stub"

    def predict(self, context: Tensor) -> Gaussian:
        last = context[:, -self.patch :]
        return Gaussian(self.mean(last), None if self.variance is None else self.variance(last))


@dataclass
class Constant:
    """The same Gaussian after every context: `mean` and `variance` are `[P, C]`."""

    mean: Tensor
    variance: Tensor | None = None
    fingerprint: str = "constant"

    @property
    def patch(self) -> int:
        return len(self.mean)

    def predict(self, context: Tensor) -> Gaussian:
        mean = self.mean.expand(len(context), *self.mean.shape)
        variance = None if self.variance is None else self.variance.expand_as(mean)
        return Gaussian(mean, variance)


@dataclass
class Near:
    """A draft close to a target: its mean plus a small wave, with a fixed variance."""

    target: Forecaster
    gap: float
    variance: float | None
    fingerprint: str = "near"

    @property
    def patch(self) -> int:
        return self.target.patch

    def predict(self, context: Tensor) -> Gaussian:
        mean = self.target.predict(context).mean
        mean = mean + self.gap * torch.sin(7.0 * mean)
        return Gaussian(
            mean, None if self.variance is None else torch.full_like(mean, self.variance)
        )


@dataclass
class Counting:
    """Passes contexts on to a model and records them."""

    model: Forecaster
    contexts: list[bytes] = field(default_factory=list)
    calls: int = 0

    @property
    def patch(self) -> int:
        return self.model.patch

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def predict(self, context: Tensor) -> Gaussian:
        self.calls += 1
        self.contexts.extend(row.contiguous().numpy().tobytes() for row in context)
        return self.model.predict(context)


def random_windows(
    count: int, context: int, horizon: int, channels: int, *, seed: int = 0, stride: int = 1
) -> Windows:
    """Windows on white noise, every `stride`-th row."""
    rows = (count - 1) * stride + context + horizon
    values = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))
    return Windows(values, torch.arange(count) * stride, context, horizon)


@dataclass(frozen=True, eq=False)
class Given(Windows):
    """Windows whose contexts [B, L, C] are given one by one instead of cut from a series."""

    given: Tensor = field(default_factory=lambda: torch.empty(0))

    def contexts(self, index: Tensor | slice | None = None) -> Tensor:
        return self.given if index is None else self.given[index]


def windows_on(context: Tensor, horizon: int, keys: Tensor | None = None) -> Windows:
    """Windows with the contexts [B, L, C], whose random numbers are keyed by `keys` [B]."""
    keys = torch.arange(len(context)) if keys is None else keys
    return Given(context.flatten(0, 1), keys, context.shape[1], horizon, given=context)


def workload(
    target: Forecaster,
    draft: Forecaster,
    rule: str | AcceptanceRule,
    windows: Windows,
    seed: int,
    contexts: Contexts = ROLLING,
) -> Workload:
    rule = RULES[rule] if isinstance(rule, str) else rule
    return Workload(target, draft, rule, windows, seed, contexts)


def decode(work: Workload, setting: Setting) -> Decoded:
    """All windows of a workload, as one batch."""
    return work.speculatively(torch.arange(len(work.windows)), setting)


def decode_alone(
    model: Forecaster, windows: Windows, sigma: float, seed: int, contexts: Contexts = ROLLING
) -> Tensor:
    """One model on all windows, with noise of standard deviation `sigma`: [B, H, C]."""
    work = workload(model, model, "stride" if sigma else "point", windows, seed, contexts)
    setting = Setting(sigma=sigma or 1.0, bias=1.0, k=1)
    return work.target_only(torch.arange(len(windows)), setting)


def normal_cdf(values: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(values.double() / math.sqrt(2.0)))


def kolmogorov(uniforms: Tensor) -> float:
    """The Kolmogorov-Smirnov distance of a sample from the uniform distribution on [0, 1],
    times the square root of its size: above 1.95 with probability 0.001."""
    ordered = uniforms.double().flatten().sort().values
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max()
    return float(distance) * math.sqrt(count)


def two_sample_kolmogorov(first: Tensor, second: Tensor) -> float:
    """The same for two samples: above 1.95 with probability 0.001."""
    first, second = (values.double().flatten().sort().values for values in (first, second))
    places = torch.cat([first, second])
    shares = [torch.searchsorted(s, places, right=True) / len(s) for s in (first, second)]
    distance = (shares[0].double() - shares[1].double()).abs().max()
    return float(distance) * math.sqrt(len(first) * len(second) / (len(first) + len(second)))


CRITICAL = 1.95
"""Critical value of both Kolmogorov-Smirnov statistics at a level of 0.001."""
