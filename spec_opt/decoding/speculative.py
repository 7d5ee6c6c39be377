"""The plain decoder: draft, verify, accept, as it would run in production.

The prefix cache is tested against it, and speed is measured on it. One round, for every window
that still lacks patches:

    draft    up to k proposals, each conditioned on the ones before it
    verify   the target's distribution at all their positions, in one batch or one pass
    accept   the proposals before the first rejection; the target's patch replaces the rejected one
    bonus    the target's patch after a round without rejection, unless the forecast is complete

The CPU keeps track of each window's position. A round therefore reads one thing back from the
device, how many proposals were accepted. (Rule `exact` reads more: its thinning loop has to know
which rows are settled.)

docs/method.md defines the terms.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeVar

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import (
    ROLLING,
    Contexts,
    EmittedBuffer,
    pairs,
    patches_to_cover,
    require_finite,
)
from spec_opt.decoding.observer import UNOBSERVED, Observer, Role, Step
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.rules import AcceptanceRule, acceptance_probability, target_patch
from spec_opt.errors import DecodingError
from spec_opt.models.device import is_out_of_memory, send
from spec_opt.models.forecaster import Forecaster, Gaussian

logger = logging.getLogger(__name__)

_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Counters:
    """What happened to each window; all int64. docs/method.md, "What is counted"."""

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
    """[B]: replacements for which thinning used up its tries."""

    @classmethod
    def zeros(cls, batch: int, k: int, device: torch.device) -> "Counters":
        """Counters of `batch` windows before their first round."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        by_position = {name: zeros(batch, k) for name in ("accepted", "tested")}
        others = ("proposed", "rounds", "bonus", "thinning_exhausted")
        return cls(**by_position, **{name: zeros(batch) for name in others})

    @classmethod
    def concatenate(cls, parts: Sequence["Counters"]) -> "Counters":
        """Join the counters of several batches."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Decoded:
    """Forecasts of one batch, and what it took to make them."""

    forecast: Tensor
    """[B, H, C]"""
    counters: Counters
    """On the CPU."""
    target_evaluations: int
    """Next-patch distributions that the target computed, over all windows and positions."""
    draft_evaluations: int
    target_calls: int
    """Batched calls of the target."""
    draft_calls: int


@dataclass(frozen=True)
class Workload:
    """The windows to forecast, and everything but the setting that decides how."""

    target: Forecaster
    draft: Forecaster
    """Same patch length as the target."""
    rule: AcceptanceRule
    windows: Windows
    seed: int
    """Of all random numbers."""
    contexts: Contexts = ROLLING
    """How the models are shown the patches emitted so far."""
    device: torch.device = _CPU
    """Where the models are."""
    observer: Observer = UNOBSERVED
    scripted_acceptance: float | None = None
    """Accept each proposal with this probability, whatever the rule says; to learn costs."""

    @property
    def patches(self) -> int:
        """M, patches per forecast."""
        return patches_to_cover(self.windows.horizon, self.target.patch)

    @torch.inference_mode()
    def speculatively(self, index: Tensor, setting: Setting) -> Decoded:
        """Decode the windows `index` [B] as one batch.

        Raises:
            DecodingError: a forecast is not finite.
        """
        decoder = _Decoder(self, index, setting)
        while decoder.round():
            pass
        return decoder.result()

    def target_only(self, index: Tensor, setting: Setting) -> Tensor:
        """Forecast the windows `index` [B] with the target alone, with the noise of `setting`.

        Returns:
            [B, H, C].

        Raises:
            DecodingError: a forecast is not finite.
        """
        return self._alone("target", index, self.rule.target_sigma(setting.sigma))

    def draft_only(self, index: Tensor) -> Tensor:
        """Forecast the windows `index` [B] with the draft's means: [B, H, C]; raises as above."""
        return self._alone("draft", index, 0.0)

    @torch.inference_mode()
    def _alone(self, role: Role, index: Tensor, sigma: float) -> Tensor:
        """Emit one model's mean plus noise of standard deviation `sigma`, patch by patch."""
        model = self.target if role == "target" else self.draft
        buffer, keys = self.start(index)
        reading = self.contexts.reading(model, buffer)
        rows = torch.arange(len(index))
        for position in range(self.patches):
            positions = torch.full_like(rows, position)
            with self.observer.step(Step(role, "next", position == 0, len(rows))):
                mean = reading.next(rows, positions).mean
            draws = Draws(self.seed, keys, torch.full_like(keys, position))
            buffer.write(rows, positions, target_patch(mean, sigma, draws))
        buffer.require_finite()
        return buffer.forecast(self.windows.horizon)

    def start(self, index: Tensor) -> tuple[EmittedBuffer, Tensor]:
        """The windows `index` [B] on the device: their contexts, nothing emitted, and their keys.

        The keys, int64 [B], select each window's random numbers.
        """
        context = send(self.windows.contexts(index), self.device)
        keys = send(self.windows.starts[index], self.device)
        return EmittedBuffer(context, self.target.patch, self.patches), keys


@dataclass(frozen=True)
class _Proposals:
    """The n proposals of a round: those at its first position for all windows, then the second."""

    rows: Tensor
    """[n], on the CPU: the window of each."""
    position: Tensor
    """[n], on the CPU: its position in the forecast."""
    draft: Gaussian
    """[n, P, C]"""
    draft_term: Tensor
    """[n]: the draft's part of the log-ratio."""


class _Decoder:
    """One batch in progress: what each window has emitted, and its counters."""

    def __init__(self, workload: Workload, index: Tensor, setting: Setting) -> None:
        self.workload, self.setting = workload, setting
        self.rule, self.patches = workload.rule, workload.patches
        self.observer = workload.observer
        self.windows = workload.windows.starts[index]  # on the CPU, as the keys on the device
        self.buffer, self.keys = workload.start(index)
        self.target = workload.contexts.reading(workload.target, self.buffer)
        self.draft = workload.contexts.reading(workload.draft, self.buffer)
        self.emitted = torch.zeros(len(index), dtype=torch.int64)  # on the CPU
        self.counters = Counters.zeros(len(index), setting.k, _CPU)
        self.exhausted = torch.zeros_like(self.keys)  # where the buffer is

    def round(self) -> bool:
        """Run one round for all windows that still lack patches; False if there were none."""
        active = torch.nonzero(self.emitted < self.patches).squeeze(1)  # [A]
        if not len(active):
            return False
        # A round never proposes past the horizon, so windows may differ in how many they propose.
        wanted = (self.patches - self.emitted[active]).clamp(max=self.setting.k)  # [A]

        proposals = self._propose(active, wanted)
        target_mean = self._verify(active, wanted)
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
            reading.invalidate(active, self.emitted[active] - 1)
        return True

    def _propose(self, active: Tensor, wanted: Tensor) -> _Proposals:
        """Draft the positions of the round in turn; the proposals go into the buffer."""
        terms: list[Tensor] = []
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for slot in range(int(wanted.max())):
            rows = active[wanted > slot]
            position = self.emitted[rows] + slot
            with self.observer.step(Step("draft", "next", self.draft.calls == 0, len(rows))):
                draft = self.draft.next(rows, position)
            with self.observer.judging():
                draws = self._draws(rows, position)
                proposal = self.rule.propose(draft, self.setting.sigma, draws)
                terms.append(self.rule.draft_term(proposal, draft, self.setting.sigma))
            self.buffer.write(rows, position, proposal)
            means.append(draft.mean)
            if draft.variance is not None:
                variances.append(draft.variance)
        member, slots = pairs(wanted)
        draft = Gaussian(torch.cat(means), torch.cat(variances) if variances else None)
        return _Proposals(
            active[member], self.emitted[active[member]] + slots, draft, torch.cat(terms)
        )

    def _verify(self, active: Tensor, wanted: Tensor) -> Tensor:
        """The target's means at all proposals of the round: [n, P, C]."""
        first, proposals = self.target.calls == 0, int(wanted.sum())
        with self.observer.step(Step("target", "verify", first, len(active), proposals)):
            return self.target.verify(active, self.emitted[active], wanted)

    def _judge(self, wanted: Tensor, proposals: _Proposals, target_mean: Tensor) -> Tensor:
        """How many proposals of each active window are accepted before one is rejected: [A].

        Decided on the device; this is the round's one wait for it.
        """
        with self.observer.judging():
            alpha = self._acceptance_probability(proposals, target_mean)
            answer = torch.cat([alpha, self.buffer.total.unsqueeze(0)]).cpu()
            require_finite(answer[-1])
            accepted = self._is_accepted(answer[:-1], proposals)
        in_row = torch.zeros(len(wanted), self.setting.k, dtype=torch.int64)
        in_row[pairs(wanted)] = accepted.to(torch.int64)
        return in_row.cumprod(dim=1).sum(dim=1)

    def _is_accepted(self, alpha: Tensor, proposals: _Proposals) -> Tensor:
        """Whether each proposal is accepted, all on the CPU; random numbers only where in doubt."""
        accepted = alpha >= 1.0
        doubtful = torch.nonzero(~accepted).squeeze(1)
        if len(doubtful):
            rows, position = proposals.rows[doubtful], proposals.position[doubtful]
            draws = Draws(self.workload.seed, self.windows[rows], position)
            accepted[doubtful] = draws.uniform(Purpose.ACCEPTANCE) <= alpha[doubtful]
        return accepted

    def _acceptance_probability(self, proposals: _Proposals, target_mean: Tensor) -> Tensor:
        """alpha of each proposal: [n]."""
        proposed = self.buffer.at(proposals.rows, proposals.position)
        log_ratio = self.rule.log_ratio(
            proposals.draft_term,
            self.rule.target_term(proposed, target_mean),
            self.setting.sigma,
            target_mean[0].numel(),
        )
        alpha = acceptance_probability(log_ratio, self.setting.bias)
        scripted = self.workload.scripted_acceptance
        return alpha if scripted is None else torch.full_like(alpha, scripted)

    def _count(self, active: Tensor, wanted: Tensor, run: Tensor) -> None:
        slots = torch.arange(self.setting.k)
        tested = torch.minimum(run + 1, wanted)  # the first rejection was judged too
        self.counters.accepted[active] += (slots < run.unsqueeze(1)).to(torch.int64)
        self.counters.tested[active] += (slots < tested.unsqueeze(1)).to(torch.int64)
        self.counters.proposed[active] += wanted
        self.counters.rounds[active] += 1

    def _replace(self, proposals: _Proposals, target_mean: Tensor, at: Tensor) -> None:
        """Write the target's patch over the rejected proposals `at`, an index into them."""
        if not len(at):
            return
        rows, position = proposals.rows[at], proposals.position[at]
        at = self.buffer.to_device(at)
        draft, target_mean = proposals.draft.map(lambda part: part[at]), target_mean[at]
        with self.observer.judging():
            draws = self._draws(rows, position)
            if self.workload.scripted_acceptance is None:
                patch, exhausted = self.rule.replace(draft, target_mean, self.setting, draws)
                self.exhausted[self.buffer.to_device(rows)] += exhausted
            else:  # there may be no residual to draw from
                patch = self.rule.bonus(target_mean, self.setting, draws)
        self.buffer.write(rows, position, patch)

    def _add_bonus(self, unrejected: Tensor) -> None:
        """Add the target's patch to windows whose round had no rejection, if one is lacking."""
        rows = unrejected[self.emitted[unrejected] < self.patches]
        if not len(rows):
            return
        position = self.emitted[rows]
        with self.observer.step(Step("target", "bonus", False, len(rows))):
            target_mean = self.target.bonus(rows, position)
        with self.observer.judging():
            patch = self.rule.bonus(target_mean, self.setting, self._draws(rows, position))
        self.buffer.write(rows, position, patch)
        self.counters.bonus[rows] += 1
        self.emitted[rows] += 1

    def _draws(self, rows: Tensor, positions: Tensor) -> Draws:
        to_device = self.buffer.to_device
        return Draws(self.workload.seed, self.keys[to_device(rows)], to_device(positions))

    def result(self) -> Decoded:
        """The forecasts, once every window has all its patches."""
        self.buffer.require_finite()
        self.counters.thinning_exhausted.copy_(self.exhausted)
        return Decoded(
            forecast=self.buffer.forecast(self.workload.windows.horizon),
            counters=self.counters,
            target_evaluations=self.target.evaluations,
            draft_evaluations=self.draft.evaluations,
            target_calls=self.target.calls,
            draft_calls=self.draft.calls,
        )


Answer = TypeVar("Answer")


class Batches:
    """Splits work into batches of at most `size` items, smaller ones when memory runs out.

    The result for an item must not depend on its batch.
    """

    def __init__(self, size: int) -> None:
        self._requested, self.size = size, size

    def run(
        self, items: Tensor, work: Callable[[Tensor], Answer]
    ) -> Iterator[tuple[Tensor, Answer]]:
        """Call `work` on batches of `items` [n]; yields each batch with its answer.

        When the device runs out of memory, `work` is called again with half as many items, and the
        size stays halved. `work` must not have side effects before it fails.

        Raises:
            DecodingError: a single item does not fit into memory.
        """
        first = 0
        while first < len(items):
            batch = items[first : first + self.size]
            try:
                answer = work(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
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
        # Warn once only: the numbers stay the same.
        level = logging.WARNING if self.size == self._requested else logging.INFO
        self.size = (failed + 1) // 2
        logger.log(
            level,
            "the device's memory does not suffice for batches of %d windows: going on with %d",
            failed,
            self.size,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
