"""The acceptance rules, as pure functions: random numbers are passed in.

A draft gives a Gaussian N(mu_q, v_q) per element of a patch, the target N(mu_p, sigma^2 I). A
proposal x is accepted with probability alpha = min(1, bias * r(x)). In all three rules

    ln r = draft_term - target_term / sigma^2 - normaliser(sigma)

where neither term depends on bias or k, nor (for a draft with a variance) on sigma: the prefix
cache relies on this.

Sources: speculative sampling and its residual, Leviathan et al. 2023 (arXiv:2211.17192), section
2.3 and appendix A.1; rule `stride` as the research code STRIDE computes it (docs/method.md).
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Final

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.models.forecaster import Gaussian

THINNING_BOUND: Final = 10_000
"""Most tries of one replacement under rule `exact`. When they are used up, that is counted and
reported, and the last draw is taken, which changes the distribution of a patch by at most
1 / (e * bound) = 4e-5."""

_THINNING_ELEMENTS: Final = 1 << 20
"""Most elements in one batch of thinning tries."""

Edge = tuple[str, *tuple[float, ...]]
"""What an emitted patch depends on besides its prefix and seed: equal edges give equal patches."""

DRAFT_MEAN: Final[Edge] = ("draft mean",)


def target_edge(sigma: float) -> Edge:
    """The edge of the target's patch drawn with `sigma`; of its mean for sigma = 0."""
    return ("target", sigma)


def draft_variance(draft: Gaussian, sigma: float) -> Tensor:
    """The draft's variance [B, P, C]; sigma^2 for a draft that has no variance of its own."""
    if draft.variance is not None:
        return draft.variance
    return torch.full_like(draft.mean, sigma**2)


def target_patch(target_mean: Tensor, sigma: float, draws: Draws) -> Tensor:
    """A draw from the target, mu_p + sigma * eps: [B, P, C] -> [B, P, C]."""
    if sigma == 0.0:
        return target_mean
    _, points, channels = target_mean.shape
    noise = draws.normal(Purpose.TARGET_PATCH, (points, channels))
    return target_mean + sigma * noise.to(target_mean.dtype)


def _sum(per_element: Tensor) -> Tensor:
    """[B, P, C] -> [B], in float64: the sum of hundreds of terms enters an exponential."""
    return per_element.sum(dim=(1, 2), dtype=torch.float64)


class AcceptanceRule(ABC):
    """How proposals are made and judged, and what replaces a rejected one."""

    draws_patches: ClassVar[bool] = False
    """Whether patches hold random numbers; if not, only acceptance depends on them."""

    @abstractmethod
    def propose(self, draft: Gaussian, sigma: float, draws: Draws) -> Tensor:
        """The proposal [B, P, C]."""

    @abstractmethod
    def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
        """The draft's part of ln r: [B], float64."""

    @abstractmethod
    def target_term(self, proposal: Tensor, target_mean: Tensor) -> Tensor:
        """The target's part of ln r, to be divided by sigma^2: [B], float64."""

    def normaliser(self, sigma: float, size: int) -> float:
        """The rest of ln r: the logarithm of sigma, for `size` = P * C elements."""
        del sigma, size
        return 0.0

    def log_ratio(self, draft_term: Tensor, target_term: Tensor, sigma: float, size: int) -> Tensor:
        """ln r: [B], float64."""
        return draft_term - target_term / sigma**2 - self.normaliser(sigma, size)

    @abstractmethod
    def target_sigma(self, sigma: float) -> float:
        """The standard deviation of the noise on the target's own patches."""

    def bonus(self, target_mean: Tensor, setting: Setting, draws: Draws) -> Tensor:
        """The target's patch after k acceptances [B, P, C]."""
        return target_patch(target_mean, self.target_sigma(setting.sigma), draws)

    def replace(
        self, draft: Gaussian, target_mean: Tensor, setting: Setting, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """The patch that replaces a rejected proposal; here the target's, as for a bonus.

        Returns:
            The patch [B, P, C], and whether thinning used up its tries: bool [B].
        """
        del draft
        patch = self.bonus(target_mean, setting, draws)
        return patch, torch.zeros(len(patch), dtype=torch.bool, device=patch.device)

    @abstractmethod
    def proposal_edge(self, sigma: float, stochastic: bool) -> Edge:
        """What a proposal depends on; `stochastic`: the draft has a variance of its own."""

    def bonus_edge(self, setting: Setting) -> Edge:
        """What a bonus patch depends on."""
        return target_edge(self.target_sigma(setting.sigma))

    def replacement_edge(self, setting: Setting) -> Edge:
        """What a replacement depends on."""
        return self.bonus_edge(setting)


class SamplingRule(AcceptanceRule):
    """Proposals are samples of the draft, the target's patches samples of the target."""

    draws_patches = True

    def propose(self, draft: Gaussian, sigma: float, draws: Draws) -> Tensor:
        _, points, channels = draft.mean.shape
        noise = draws.normal(Purpose.PROPOSAL, (points, channels)).to(draft.mean.dtype)
        return draft.mean + draft_variance(draft, sigma).sqrt() * noise

    def target_term(self, proposal: Tensor, target_mean: Tensor) -> Tensor:
        return 0.5 * _sum((proposal - target_mean).square())

    def target_sigma(self, sigma: float) -> float:
        return sigma

    def proposal_edge(self, sigma: float, stochastic: bool) -> Edge:
        return ("draft sample",) if stochastic else ("draft sample", sigma)


class StrideRule(SamplingRule):
    """The research code's rule: compares squared distances and leaves out the normalisers.

    The draft's variance enters as its mean over the patch, and a rejected proposal is replaced by a
    plain draw from the target. Not lossless; a larger sigma always accepts more.
    """

    def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
        mean_variance = draft_variance(draft, sigma).to(torch.float64).mean(dim=(1, 2))
        return _sum((proposal - draft.mean).square()) / (2.0 * mean_variance)


class ExactRule(SamplingRule):
    """Speculative sampling proper: the full density ratio, and the residual after a rejection.

    With bias <= 1 an emitted patch has the target's own distribution, whatever the draft.
    """

    def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
        variance = draft_variance(draft, sigma)
        return 0.5 * _sum((proposal - draft.mean).square() / variance + variance.log())

    def normaliser(self, sigma: float, size: int) -> float:
        return size * math.log(sigma)

    def replace(
        self, draft: Gaussian, target_mean: Tensor, setting: Setting, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """A draw from the residual, by thinning.

        Accepted proposals have the density min(q, bias p), which leaves p (1 - min(bias, q / p))
        of p for bias <= 1: draw from p and keep the draw with that probability. A larger bias
        accepts more than p holds; the residual for bias 1 is used then.
        """
        batch, points, channels = target_mean.shape
        patch = torch.empty_like(target_mean)
        waiting = torch.arange(batch, device=target_mean.device)
        tried = 0
        while len(waiting) and tried < THINNING_BOUND:
            at_once = max(1, _THINNING_ELEMENTS // (len(waiting) * points * channels))
            # As many tries as each row has had so far (1, 1, 2, 4, ...), so that few are wasted.
            at_once = min(at_once, max(1, tried), THINNING_BOUND - tried)
            each = waiting.repeat_interleave(at_once)
            attempts = torch.arange(tried, tried + at_once, device=each.device).repeat(len(waiting))
            drawn, kept = self._try(draft, target_mean, setting, draws, each, attempts)
            kept = kept.view(len(waiting), at_once)
            settled = kept.any(dim=1)
            chosen = torch.where(settled, kept.to(torch.int8).argmax(dim=1), at_once - 1)
            first = torch.arange(len(waiting), device=each.device) * at_once
            patch[waiting] = drawn[first + chosen]
            waiting = waiting[~settled]
            tried += at_once
        exhausted = torch.zeros(batch, dtype=torch.bool, device=target_mean.device)
        exhausted[waiting] = True
        return patch, exhausted

    def _try(
        self,
        draft: Gaussian,
        target_mean: Tensor,
        setting: Setting,
        draws: Draws,
        rows: Tensor,
        attempts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """A draw from p for each of `rows` [n], [n, P, C], and whether thinning keeps it."""
        _, points, channels = target_mean.shape
        target_mean, draws = target_mean[rows], draws.rows(rows)
        noise = draws.normal(Purpose.TARGET_PATCH, (points, channels), attempts)
        drawn = target_mean + setting.sigma * noise.to(target_mean.dtype)
        log_ratio = self.log_ratio(
            self.draft_term(drawn, draft.map(lambda part: part[rows]), setting.sigma),
            self.target_term(drawn, target_mean),
            setting.sigma,
            points * channels,
        )
        # q / p = 1 / r
        keep = 1.0 - torch.exp(-log_ratio).clamp(max=min(setting.bias, 1.0))
        # NaN compares as false and is therefore kept: decoding then stops instead of trying on.
        return drawn, ~(draws.uniform(Purpose.THINNING, attempts) >= keep)

    def replacement_edge(self, setting: Setting) -> Edge:
        return ("residual", setting.sigma, min(setting.bias, 1.0))


class PointRule(AcceptanceRule):
    """For point forecasts: proposes and emits means; sigma is the tolerated gap.

    ln r = -mean((mu_q - mu_p)^2) / (2 sigma^2), the mean over the patch and its channels.
    """

    def propose(self, draft: Gaussian, sigma: float, draws: Draws) -> Tensor:
        del sigma, draws
        return draft.mean

    def draft_term(self, proposal: Tensor, draft: Gaussian, sigma: float) -> Tensor:
        del draft, sigma
        return torch.zeros(len(proposal), dtype=torch.float64, device=proposal.device)

    def target_term(self, proposal: Tensor, target_mean: Tensor) -> Tensor:
        size = target_mean[0].numel()
        return 0.5 * _sum((proposal - target_mean).square()) / size

    def target_sigma(self, sigma: float) -> float:
        del sigma
        return 0.0

    def proposal_edge(self, sigma: float, stochastic: bool) -> Edge:
        del sigma, stochastic
        return DRAFT_MEAN


RULES: Final[dict[str, AcceptanceRule]] = {
    "stride": StrideRule(),
    "exact": ExactRule(),
    "point": PointRule(),
}


def acceptance_probability(log_ratio: Tensor, bias: float) -> Tensor:
    """alpha = min(1, bias * r), computed in logarithms to avoid overflow: float64 [B]."""
    return torch.exp((log_ratio + math.log(bias)).clamp(max=0.0))
