"""Draft, verify, accept: the plain decoder, the one that a production user would run.

It is the reference that the prefix cache is held against, and what speed is measured on.
A round, for every window that still lacks patches:

    draft    up to k proposals, each on the context that the ones before it make
    verify   the target's distribution at all those positions, in one batch
    accept   proposals up to the first rejection; the target's patch stands in for the rejected one
    bonus    the target's patch after a round without rejection, if one is still lacking
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from spec_opt.config import Setting
from spec_opt.decoding.acceptance import AcceptanceRule, acceptance_probability
from spec_opt.decoding.autoregressive import RollingBuffer, patches_to_cover
from spec_opt.decoding.noise import Draws, Purpose
from spec_opt.models.forecaster import Forecaster, Gaussian


@dataclass(frozen=True)
class Counters:
    """What happened to each window; DESIGN section 2 defines the words. All int64."""

    accepted: Tensor
    """[B, k]: accepted proposals, by position in the round."""
    tested: Tensor
    """[B, k]: judged proposals, by position in the round."""
    proposed: Tensor
    """[B]"""
    rounds: Tensor
    """[B]"""
    bonus: Tensor
    """[B]"""
    thinning_exhausted: Tensor
    """[B]: replacements for which the bound on tries was met."""

    @classmethod
    def zeros(cls, batch: int, k: int, device: torch.device) -> "Counters":
        """Nothing has happened yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            accepted=zeros(batch, k),
            tested=zeros(batch, k),
            proposed=zeros(batch),
            rounds=zeros(batch),
            bonus=zeros(batch),
            thinning_exhausted=zeros(batch),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Counters"]) -> "Counters":
        """The counters of several batches as those of one."""
        return cls(
            **{
                field.name: torch.cat([vars(part)[field.name] for part in parts])
                for field in fields(cls)
            }
        )


@dataclass(frozen=True)
class Decoded:
    """A batch of forecasts and how they came about."""

    forecast: Tensor
    """[B, H, C]"""
    counters: Counters
    target_evaluations: int
    draft_evaluations: int


@torch.inference_mode()
def decode_speculatively(
    target: Forecaster,
    draft: Forecaster,
    rule: AcceptanceRule,
    setting: Setting,
    context: Tensor,
    windows: Tensor,
    horizon: int,
    seed: int,
) -> Decoded:
    """Forecast a batch of windows by draft and verification.

    Args:
        target, draft: of one patch length, on the device of `context`.
        rule: how proposals are made and judged.
        setting: sigma, bias, k.
        context: [B, L, C].
        windows: int64 [B], what keys each window's random numbers.
        horizon: H, points to forecast.
        seed: of the random numbers.

    Raises:
        DecodingError: a value is not finite.
    """
    decoder = _Decoder(target, draft, rule, setting, context, windows, horizon, seed)
    while decoder.round():
        pass
    return decoder.result(horizon)


@dataclass(frozen=True)
class _Proposals:
    """The n proposals of a round, all windows of its first position before those of the second."""

    member: Tensor
    """[n]: whose it is, as an index into the active windows."""
    slot: Tensor
    """[n]: its position in the round."""
    position: Tensor
    """[n]: its position in the forecast."""
    draft: Gaussian
    """[n, P, C]"""
    draft_term: Tensor
    """[n]: the draft's part of the log-ratio."""


class _Decoder:
    """The state of one batch: what each window has emitted, and its counters."""

    def __init__(
        self,
        target: Forecaster,
        draft: Forecaster,
        rule: AcceptanceRule,
        setting: Setting,
        context: Tensor,
        windows: Tensor,
        horizon: int,
        seed: int,
    ) -> None:
        self.target, self.draft, self.rule, self.setting = target, draft, rule, setting
        self.windows, self.seed = windows, seed
        self.patches = patches_to_cover(horizon, target.patch)
        self.buffer = RollingBuffer(context, target.patch, self.patches)
        self.emitted = torch.zeros(len(context), dtype=torch.int64, device=context.device)
        self.counters = Counters.zeros(len(context), setting.k, context.device)
        self.target_evaluations = self.draft_evaluations = 0

    def round(self) -> bool:
        """One round for all windows that still lack patches; False once there is none."""
        active = torch.nonzero(self.emitted < self.patches).squeeze(1)  # [A]
        if not len(active):
            return False
        # A round never proposes past the horizon, so windows may differ in how many they propose.
        wanted = (self.patches - self.emitted[active]).clamp(max=self.setting.k)  # [A]

        proposals = self._propose(active, wanted)
        rows = active[proposals.member]
        target_mean = self._target_mean(rows, proposals.position)
        accepted = self._judge(rows, proposals, target_mean)

        in_row = torch.zeros(len(active), self.setting.k, dtype=torch.int64, device=active.device)
        in_row[proposals.member, proposals.slot] = accepted.to(torch.int64)
        run = in_row.cumprod(dim=1).sum(dim=1)  # [A]: accepted before the first rejection
        rejected = run < wanted  # [A]
        first_rejection = torch.nonzero(proposals.slot == run[proposals.member]).squeeze(1)

        self._count(active, wanted, run)
        self._replace(rows, proposals, target_mean, first_rejection)
        self.emitted[active] += run + rejected
        self._add_bonus(active[~rejected])
        return True

    def _propose(self, active: Tensor, wanted: Tensor) -> _Proposals:
        """Draft one position of the round after the other; proposals go into the buffer."""
        members, slots, positions, terms = [], [], [], []
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for slot in range(int(wanted.max())):
            member = torch.nonzero(wanted > slot).squeeze(1)
            rows = active[member]
            position = self.emitted[rows] + slot
            draft = self.draft.predict(self.buffer.contexts(rows, position))
            draws = Draws(self.seed, self.windows[rows], position)
            proposal = self.rule.propose(draft, self.setting.sigma, draws)
            self.buffer.write(rows, position, proposal)
            self.draft_evaluations += len(rows)
            members.append(member)
            slots.append(torch.full_like(member, slot))
            positions.append(position)
            terms.append(self.rule.draft_term(proposal, draft, self.setting.sigma))
            means.append(draft.mean)
            if draft.variance is not None:
                variances.append(draft.variance)
        return _Proposals(
            member=torch.cat(members),
            slot=torch.cat(slots),
            position=torch.cat(positions),
            draft=Gaussian(torch.cat(means), torch.cat(variances) if variances else None),
            draft_term=torch.cat(terms),
        )

    def _target_mean(self, rows: Tensor, position: Tensor) -> Tensor:
        """The target's next patch at each (row, position): [n, P, C]."""
        self.target_evaluations += len(rows)
        return self.target.predict(self.buffer.contexts(rows, position)).mean

    def _judge(self, rows: Tensor, proposals: _Proposals, target_mean: Tensor) -> Tensor:
        """Which proposals the rule lets through, each on its own: bool [n]."""
        proposed = self.buffer.patches(rows, proposals.position)
        log_ratio = self.rule.log_ratio(
            proposals.draft_term,
            self.rule.target_term(proposed, target_mean),
            self.setting.sigma,
            target_mean[0].numel(),
        )
        draws = Draws(self.seed, self.windows[rows], proposals.position)
        return draws.uniform(Purpose.ACCEPTANCE) <= acceptance_probability(
            log_ratio, self.setting.bias
        )

    def _count(self, active: Tensor, wanted: Tensor, run: Tensor) -> None:
        slots = torch.arange(self.setting.k, device=active.device)
        tested = torch.minimum(run + 1, wanted)  # the first rejection was judged too
        self.counters.accepted[active] += (slots < run.unsqueeze(1)).to(torch.int64)
        self.counters.tested[active] += (slots < tested.unsqueeze(1)).to(torch.int64)
        self.counters.proposed[active] += wanted
        self.counters.rounds[active] += 1

    def _replace(
        self, rows: Tensor, proposals: _Proposals, target_mean: Tensor, at: Tensor
    ) -> None:
        """Put the target's patch where a proposal was rejected: `at`, an index into proposals."""
        if not len(at):
            return
        variance = proposals.draft.variance
        draft = Gaussian(proposals.draft.mean[at], None if variance is None else variance[at])
        rows, position = rows[at], proposals.position[at]
        draws = Draws(self.seed, self.windows[rows], position)
        patch, exhausted = self.rule.replace(draft, target_mean[at], self.setting, draws)
        self.buffer.write(rows, position, patch)
        self.counters.thinning_exhausted[rows] += exhausted.to(torch.int64)

    def _add_bonus(self, unrejected: Tensor) -> None:
        """One patch of the target for windows whose round had no rejection and that lack one."""
        rows = unrejected[self.emitted[unrejected] < self.patches]
        if not len(rows):
            return
        position = self.emitted[rows]
        target_mean = self._target_mean(rows, position)
        draws = Draws(self.seed, self.windows[rows], position)
        self.buffer.write(rows, position, self.rule.bonus(target_mean, self.setting, draws))
        self.counters.bonus[rows] += 1
        self.emitted[rows] += 1

    def result(self, horizon: int) -> Decoded:
        """The forecasts, once every window has all its patches."""
        return Decoded(
            forecast=self.buffer.forecast(horizon),
            counters=self.counters,
            target_evaluations=self.target_evaluations,
            draft_evaluations=self.draft_evaluations,
        )
