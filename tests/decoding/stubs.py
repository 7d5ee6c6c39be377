"""Models whose every answer is known, windows to run them on, and what tests of samples need."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spec_opt.data.windows import Windows
from spec_opt.models.forecaster import Forecaster, Gaussian

PatchMap = Callable[[Tensor], Tensor]


@dataclass
class Stub:
    """Mean and variance of the next patch as functions of the last one, `[B, P, C]` each.

    Functions should be sums and products only: then a row's answer is the same to the last bit,
    whatever else is in the batch.
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
    """A draft that is close to a target: its mean plus a small wave, and a fixed variance."""

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
    """Passes contexts on, and remembers each."""

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


def normal_cdf(values: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(values.double() / math.sqrt(2.0)))


def kolmogorov(uniforms: Tensor) -> float:
    """The Kolmogorov-Smirnov distance of a sample from the uniform distribution on [0, 1],
    times the root of its size: beyond 1.95 with probability 0.001."""
    ordered = uniforms.double().flatten().sort().values
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max()
    return float(distance) * math.sqrt(count)


def two_sample_kolmogorov(first: Tensor, second: Tensor) -> float:
    """The same for two samples: beyond 1.95 with probability 0.001."""
    first, second = (values.double().flatten().sort().values for values in (first, second))
    places = torch.cat([first, second])
    shares = [torch.searchsorted(s, places, right=True) / len(s) for s in (first, second)]
    distance = (shares[0].double() - shares[1].double()).abs().max()
    return float(distance) * math.sqrt(len(first) * len(second) / (len(first) + len(second)))


CRITICAL = 1.95
"""For both Kolmogorov-Smirnov statistics, at a level of 0.001."""
