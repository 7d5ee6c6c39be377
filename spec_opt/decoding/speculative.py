"""Draft, verify, accept: the plain decoder, the one that a production user would run.

It is the reference that the prefix cache is held against, and what speed is measured on.
A round, for every window that still lacks patches:

    draft    up to k proposals, each on the context that the ones before it make
    verify   the target's distribution at all those positions, at once
    accept   proposals up to the first rejection; the target's patch stands in for the rejected one
    bonus    the target's patch after a round without rejection, if one is still lacking

Where each window stands is known on the CPU; a round asks the device for one thing only, how many
proposals were accepted. (Rule `exact` asks it more: thinning goes on until all are settled.)

Target alone: one patch after another.

What is decoded, by which models, and how: all that a setting is tried on.

Work in batches that become smaller when the device's memory runs out.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import ROLLING, Contexts, EmittedBuffer, pairs, patches_to_cover
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.rules import AcceptanceRule, acceptance_probability, target_patch
from spec_opt.errors import DecodingError
from spec_opt.models.device import send
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
    """On the CPU."""
    target_evaluations: int
    """Next-patch forecasts that the target computed, over all windows and positions."""
    draft_evaluations: int
    target_calls: int
    draft_calls: int


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
    contexts: Contexts = ROLLING,
) -> Decoded:
    """Forecast a batch of windows by draft and verification.

    Args:
        target, draft: of one patch length, on the device of `context`.
        rule: how proposals are made and judged.
        setting: sigma, bias, k.
        context: [B, L, C].
        windows: int64 [B], what keys each window's random numbers; on the same device.
        horizon: H, points to forecast.
        seed: of the random numbers.
        contexts: how the models are shown what was emitted.

    Raises:
        DecodingError: a value is not finite.
        InputError: a model cannot work with such contexts.
    """
    decoder = _Decoder(target, draft, rule, setting, context, windows, horizon, seed, contexts)
    while decoder.round():
        pass
    return decoder.result(horizon)


@dataclass(frozen=True)
class _Proposals:
    """The n proposals of a round, all windows of its first position before those of the second."""

    rows: Tensor
    """[n], on the CPU: whose it is."""
    position: Tensor
    """[n], on the CPU: its position in the forecast."""
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
        contexts: Contexts,
    ) -> None:
        self.rule, self.setting = rule, setting
        self.windows, self.seed = windows, seed
        self.patches = patches_to_cover(horizon, target.patch)
        self.buffer = EmittedBuffer(context, target.patch, self.patches)
        self.target = contexts.reading(target, self.buffer)
        self.draft = contexts.reading(draft, self.buffer)
        self.emitted = torch.zeros(len(context), dtype=torch.int64)  # on the CPU
        self.counters = Counters.zeros(len(context), setting.k, torch.device("cpu"))
        self.exhausted = torch.zeros(len(context), dtype=torch.int64, device=context.device)

    def round(self) -> bool:
        """One round for all windows that still lack patches; False once there is none."""
        active = torch.nonzero(self.emitted < self.patches).squeeze(1)  # [A]
        if not len(active):
            return False
        # A round never proposes past the horizon, so windows may differ in how many they propose.
        wanted = (self.patches - self.emitted[active]).clamp(max=self.setting.k)  # [A]
        first = self.emitted[active]

        proposals = self._propose(active, wanted)
        target_mean = self.target.verify(active, first, wanted)
        run = self._judge(wanted, proposals, target_mean)  # [A]: accepted before a rejection
        rejected = run < wanted  # [A]

        self._count(active, wanted, run)
        member, slot = pairs(wanted)
        at = torch.nonzero(slot == run[member]).squeeze(1)
        self._replace(proposals, target_mean, at)
        self.emitted[active] += run + rejected
        self._add_bonus(active[~rejected])
        # The patch that ends a round is the target's; a model that has read on has read another.
        for reading in (self.target, self.draft):
            reading.rewritten(active, self.emitted[active] - 1)
        return True

    def _propose(self, active: Tensor, wanted: Tensor) -> _Proposals:
        """Draft one position of the round after the other; proposals go into the buffer."""
        rows_of, positions, terms = [], [], []
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for slot in range(int(wanted.max())):
            rows = active[wanted > slot]
            position = self.emitted[rows] + slot
            draft = self.draft.next(rows, position)
            proposal = self.rule.propose(draft, self.setting.sigma, self._draws(rows, position))
            self.buffer.write(rows, position, proposal)
            rows_of.append(rows)
            positions.append(position)
            terms.append(self.rule.draft_term(proposal, draft, self.setting.sigma))
            means.append(draft.mean)
            if draft.variance is not None:
                variances.append(draft.variance)
        return _Proposals(
            rows=torch.cat(rows_of),
            position=torch.cat(positions),
            draft=Gaussian(torch.cat(means), torch.cat(variances) if variances else None),
            draft_term=torch.cat(terms),
        )

    def _judge(self, wanted: Tensor, proposals: _Proposals, target_mean: Tensor) -> Tensor:
        """How many proposals each active window lets through before one is rejected: [A].

        Decided where the models are; this is the round's one wait for the device.
        """
        proposed = self.buffer.at(proposals.rows, proposals.position)
        log_ratio = self.rule.log_ratio(
            proposals.draft_term,
            self.rule.target_term(proposed, target_mean),
            self.setting.sigma,
            target_mean[0].numel(),
        )
        draws = self._draws(proposals.rows, proposals.position)
        alpha = acceptance_probability(log_ratio, self.setting.bias)
        accepted = draws.uniform(Purpose.ACCEPTANCE) <= alpha
        answer = torch.cat([accepted, self.buffer.finite.unsqueeze(0)]).cpu()
        if not answer[-1]:
            self.buffer.require_finite()
        in_row = torch.zeros(len(wanted), self.setting.k, dtype=torch.int64)
        in_row[pairs(wanted)] = answer[:-1].to(torch.int64)
        return in_row.cumprod(dim=1).sum(dim=1)

    def _count(self, active: Tensor, wanted: Tensor, run: Tensor) -> None:
        slots = torch.arange(self.setting.k)
        tested = torch.minimum(run + 1, wanted)  # the first rejection was judged too
        self.counters.accepted[active] += (slots < run.unsqueeze(1)).to(torch.int64)
        self.counters.tested[active] += (slots < tested.unsqueeze(1)).to(torch.int64)
        self.counters.proposed[active] += wanted
        self.counters.rounds[active] += 1

    def _replace(self, proposals: _Proposals, target_mean: Tensor, at: Tensor) -> None:
        """Put the target's patch where a proposal was rejected: `at`, an index into proposals."""
        if not len(at):
            return
        rows, position = proposals.rows[at], proposals.position[at]
        at = self.buffer.to_device(at)
        variance = proposals.draft.variance
        draft = Gaussian(proposals.draft.mean[at], None if variance is None else variance[at])
        draws = self._draws(rows, position)
        patch, exhausted = self.rule.replace(draft, target_mean[at], self.setting, draws)
        self.buffer.write(rows, position, patch)
        self.exhausted[self.buffer.to_device(rows)] += exhausted.to(torch.int64)

    def _add_bonus(self, unrejected: Tensor) -> None:
        """One patch of the target for windows whose round had no rejection and that lack one."""
        rows = unrejected[self.emitted[unrejected] < self.patches]
        if not len(rows):
            return
        position = self.emitted[rows]
        target_mean = self.target.bonus(rows, position)
        patch = self.rule.bonus(target_mean, self.setting, self._draws(rows, position))
        self.buffer.write(rows, position, patch)
        self.counters.bonus[rows] += 1
        self.emitted[rows] += 1

    def _draws(self, rows: Tensor, positions: Tensor) -> Draws:
        to_device = self.buffer.to_device
        return Draws(self.seed, self.windows[to_device(rows)], to_device(positions))

    def result(self, horizon: int) -> Decoded:
        """The forecasts, once every window has all its patches."""
        self.buffer.require_finite()
        self.counters.thinning_exhausted.copy_(self.exhausted)
        return Decoded(
            forecast=self.buffer.forecast(horizon),
            counters=self.counters,
            target_evaluations=self.target.evaluations,
            draft_evaluations=self.draft.evaluations,
            target_calls=self.target.calls,
            draft_calls=self.draft.calls,
        )


@torch.inference_mode()
def decode_autoregressively(
    model: Forecaster,
    context: Tensor,
    windows: Tensor,
    horizon: int,
    sigma: float,
    seed: int,
    contexts: Contexts = ROLLING,
) -> Tensor:
    """Forecast with one model alone.

    Args:
        model: gives the next patch; its mean is used.
        context: [B, L, C], on the model's device.
        windows: int64 [B], what keys each row's random numbers; on the same device.
        horizon: H, points to forecast.
        sigma: standard deviation of the noise on each emitted patch; 0 emits means.
        seed: of that noise.
        contexts: how the model is shown what it emitted.

    Returns:
        [B, H, C].

    Raises:
        DecodingError: a value is not finite.
        InputError: the model cannot work with such contexts.
    """
    patches = patches_to_cover(horizon, model.patch)
    buffer = EmittedBuffer(context, model.patch, patches)
    reading = contexts.reading(model, buffer)
    rows = torch.arange(len(context))
    for position in range(patches):
        positions = torch.full_like(rows, position)
        mean = reading.next(rows, positions).mean
        draws = Draws(seed, windows, torch.full_like(windows, position))
        buffer.write(rows, positions, target_patch(mean, sigma, draws))
    buffer.require_finite()
    return buffer.forecast(horizon)


@dataclass(frozen=True)
class Workload:
    """Windows, and what forecasts them in lockstep batches."""

    target: Forecaster
    draft: Forecaster
    rule: AcceptanceRule
    contexts: Contexts
    windows: Windows
    seed: int
    device: torch.device
    """Where the models are."""

    @property
    def patches(self) -> int:
        """M, patches per forecast."""
        return patches_to_cover(self.windows.horizon, self.target.patch)

    def speculatively(self, index: Tensor, setting: Setting) -> Decoded:
        """Decode the windows `index` [B] as one batch.

        Raises:
            DecodingError: a value is not finite.
        """
        return decode_speculatively(
            self.target,
            self.draft,
            self.rule,
            setting,
            send(self.windows.contexts(index), self.device),
            send(self.windows.starts[index], self.device),
            self.windows.horizon,
            self.seed,
            self.contexts,
        )

    def target_only(self, index: Tensor, setting: Setting) -> Tensor:
        """The same windows with the target alone and the same emission: [B, H, C].

        Raises:
            DecodingError: a value is not finite.
        """
        return self._alone(self.target, index, self.rule.target_sigma(setting.sigma))

    def draft_only(self, index: Tensor) -> Tensor:
        """The same windows with the draft's means alone: [B, H, C].

        Raises:
            DecodingError: a value is not finite.
        """
        return self._alone(self.draft, index, 0.0)

    def _alone(self, model: Forecaster, index: Tensor, sigma: float) -> Tensor:
        return decode_autoregressively(
            model,
            send(self.windows.contexts(index), self.device),
            send(self.windows.starts[index], self.device),
            self.windows.horizon,
            sigma,
            self.seed,
            self.contexts,
        )


logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Batches:
    """Batches of at most `size` items. What comes of an item does not depend on its batch."""

    def __init__(self, size: int) -> None:
        self._asked, self.size = size, size

    def run(
        self, items: Tensor, work: Callable[[Tensor], Answer]
    ) -> Iterator[tuple[Tensor, Answer]]:
        """Each batch of `items` [n] and what `work` makes of it.

        When memory runs out, `work` is called again with half as many items; it must have changed
        nothing by then. The size stays halved.

        Raises:
            DecodingError: memory does not suffice for a single item.
        """
        first = 0
        while first < len(items):
            batch = items[first : first + self.size]
            try:
                answer = work(batch)
            except torch.cuda.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise DecodingError(
                        "the device has too little memory for a single window: "
                        "free some, or choose precision = 'bfloat16' or a smaller context"
                    ) from error
                self._halve(len(batch))
            else:
                yield batch, answer
                first += len(batch)

    def _halve(self, failed: int) -> None:
        # Said once: what follows is the same story, and the numbers stay the same.
        level = logging.WARNING if self.size == self._asked else logging.INFO
        self.size = (failed + 1) // 2
        logger.log(
            level,
            "the device's memory does not suffice for batches of %d windows: going on with %d",
            failed,
            self.size,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
