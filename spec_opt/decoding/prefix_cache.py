"""All settings over one tree of decoded prefixes: each model is called once per prefix.

Random numbers are keyed by (seed, window, position), so what the models compute depends only on
the decoded prefix. A trial walks its windows through the tree, once for each seed, and most answers
are already stored there. Each step emits exactly one patch per window (an accepted proposal, a
replacement or a bonus patch), so all windows are at the same depth and a step is one batch.

A walk equals `Workload.speculatively` for the same seed, to rounding; tests compare the two.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import require_finite
from spec_opt.decoding.observer import Role
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.prefix_tree import NONE, Answer, Patches, PrefixTree
from spec_opt.decoding.rules import DRAFT_MEAN, Edge, acceptance_probability, target_edge
from spec_opt.decoding.speculative import Batches, Counters, Workload
from spec_opt.models.device import memory_to_spare
from spec_opt.models.forecaster import Gaussian

_MOST_BYTES: Final = 4 * 2**30
_NODES_PER_STEP: Final = 2
"""Most nodes that a step adds per window: the proposal and its replacement."""
_EDGES: Final = 3
"""Most kinds of edges in a walk: proposal, replacement, bonus."""
_ALONE: Final[dict[Role, tuple[Edge, Answer]]] = {
    "target": (target_edge(0.0), Answer.TARGET_MEAN),
    "draft": (DRAFT_MEAN, Answer.DRAFT_MEAN),
}


@dataclass(frozen=True)
class CacheStatistics:
    """How often the models were needed, and how often the cache had the answer."""

    target_requests: int
    target_evaluations: int
    draft_requests: int
    draft_evaluations: int
    prefixes: int
    bytes: int
    limit_bytes: int
    evictions: int

    @property
    def hit_rate(self) -> float:
        """Share of the requests, to both models, that the cache answered."""
        requests = self.target_requests + self.draft_requests
        evaluations = self.target_evaluations + self.draft_evaluations
        return 1.0 - evaluations / requests if requests else 0.0


@dataclass(frozen=True)
class Walk:
    """The outcome of all W windows under one setting; tensors on the workload's device."""

    counters: Counters
    errors: Tensor
    """[W, 2], float64: squared and absolute error, summed over the H points and C channels."""
    forecast: Tensor | None
    """[W, H, C], if requested."""


def default_limit(device: torch.device) -> int:
    """Bytes for prefixes: 4 GiB, or less where the device has less to spare."""
    return min(_MOST_BYTES, memory_to_spare(device))


class PrefixCache:
    """All windows of a workload, and every prefix that was decoded with it.

    Args:
        workload: models, windows, rule, seed, context mode, device.
        batch_size: contexts per model call.
        limit_bytes: memory for the prefixes; by default 4 GiB, or less where the device has less
            to spare. The columns' spare room, at most half as much again, comes on top. When the
            limit is reached, only the all-draft prefixes are kept, which every setting shares; when
            that is not enough, none.
    """

    def __init__(
        self, workload: Workload, *, batch_size: int = 64, limit_bytes: int | None = None
    ) -> None:
        windows, self._device = workload.windows, workload.device
        self._workload, self._rule = workload, workload.rule
        self._values = windows.values.to(self._device)
        self._starts = windows.starts.to(self._device)
        self._batches = Batches(batch_size)
        self._limit = default_limit(self._device) if limit_bytes is None else limit_bytes
        self._tree = self._new_tree()
        self._stochastic = False  # whether the draft gives a variance; known after its first call
        self._requests: dict[Role, int] = {"target": 0, "draft": 0}
        self._evaluations: dict[Role, int] = {"target": 0, "draft": 0}
        self._evictions = 0
        self._uniform: dict[int, list[Tensor]] = {}
        """By seed, [W] for each position: decides on acceptance, under all settings."""

    def _new_tree(self) -> PrefixTree:
        patch_shape = self._workload.target.patch, self._values.shape[1]
        return PrefixTree(len(self._starts), patch_shape, self._device)

    @property
    def statistics(self) -> CacheStatistics:
        """How often the models were needed so far, and what is stored now."""
        return CacheStatistics(
            target_requests=self._requests["target"],
            target_evaluations=self._evaluations["target"],
            draft_requests=self._requests["draft"],
            draft_evaluations=self._evaluations["draft"],
            prefixes=len(self._tree),
            bytes=self._tree.bytes,
            limit_bytes=self._limit,
            evictions=self._evictions,
        )

    @torch.inference_mode()
    def walk(self, setting: Setting, seed: int | None = None, *, forecast: bool = False) -> Walk:
        """Decode all windows under one setting, by default with the workload's seed.

        Raises:
            DecodingError: a forecast is not finite.
        """
        seed = self._workload.seed if seed is None else seed
        parts = [self._walk(roots, setting, seed, forecast=forecast) for roots in self._chunks()]
        forecasts = [part.forecast for part in parts if part.forecast is not None]
        return Walk(
            counters=Counters.concatenate([part.counters for part in parts]),
            errors=torch.cat([part.errors for part in parts]),
            forecast=torch.cat(forecasts) if forecasts else None,
        )

    @torch.inference_mode()
    def alone(self, role: Role) -> Tensor:
        """Squared and absolute error of one model's means, per window: [W, 2], float64."""
        # Rule `point` proposes the draft's means too; the draft's term is 0 there, as it is here.
        edge, answer = _ALONE[role]

        def make(missing: Tensor) -> Patches:
            return Patches(self._tree.answer(answer, missing))

        errors = []
        for nodes in self._chunks():
            path = []
            for depth in range(self._workload.patches):
                self._ask(role, nodes, depth)
                nodes = self._extend(nodes, edge, depth, make)
                path.append(nodes)
            errors.append(self._errors(path))
        return torch.cat(errors)

    def _walk(self, roots: Tensor, setting: Setting, seed: int, *, forecast: bool) -> Walk:
        """Walk `roots` [B] through the tree; a round is a run of at most `wanted` proposals."""
        tree, patches = self._tree, self._workload.patches
        counters = Counters.zeros(len(roots), setting.k, self._device)
        nodes, path = roots, []
        slot = torch.zeros_like(roots)  # [B]: proposals accepted so far in the round
        wanted = torch.zeros_like(roots)  # [B]: proposals that the round makes
        for depth in range(patches):
            starting = slot == 0
            wanted = torch.where(starting, min(setting.k, patches - depth), wanted)
            counters.rounds.add_(starting)
            counters.proposed.add_(wanted * starting)

            self._ask("target", nodes, depth)
            nodes = nodes.clone()
            judged = torch.nonzero(slot < wanted).squeeze(1)
            complete = torch.nonzero(slot == wanted).squeeze(1)

            nodes[judged], accepted = self._judge(nodes[judged], depth, setting, seed)
            at = slot[judged]
            counters.tested[judged, at] += 1
            counters.accepted[judged, at] += accepted.to(torch.int64)
            slot[judged] = torch.where(accepted, at + 1, 0)

            nodes[complete] = self._add_bonus(nodes[complete], depth, setting, seed)
            counters.bonus[complete] += 1
            slot[complete] = 0

            counters.thinning_exhausted.add_(tree.exhausted.rows[nodes])
            path.append(nodes)
        decoded = None
        if forecast:
            decoded = torch.cat([tree.patch.rows[nodes] for nodes in path], dim=1)
            decoded = decoded[:, : self._workload.windows.horizon]
        return Walk(counters, self._errors(path), decoded)

    def _judge(
        self, nodes: Tensor, depth: int, setting: Setting, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Propose at `nodes` [n] and judge: the resulting prefixes [n], and which were accepted."""
        tree, rule = self._tree, self._rule
        proposals = self._propose(nodes, depth, setting, seed)
        unknown = torch.nonzero(tree.target_term.rows[proposals].isnan()).squeeze(1)
        if len(unknown):
            asked = proposals[unknown]
            tree.target_term.rows[asked] = rule.target_term(
                tree.patch.rows[asked], tree.answer(Answer.TARGET_MEAN, nodes[unknown])
            )
        log_ratio = rule.log_ratio(
            tree.draft_term.rows[proposals],
            tree.target_term.rows[proposals],
            setting.sigma,
            self._workload.target.patch * self._values.shape[1],
        )
        alpha = acceptance_probability(log_ratio, setting.bias)
        accepted = self._uniforms(seed)[depth][tree.window.rows[nodes]] <= alpha
        result = proposals.clone()
        result[~accepted] = self._replace(nodes[~accepted], depth, setting, seed)
        return result, accepted

    def _propose(self, nodes: Tensor, depth: int, setting: Setting, seed: int) -> Tensor:
        self._ask("draft", nodes, depth)

        def make(missing: Tensor) -> Patches:
            draft, draws = self._draft(missing), self._draws(missing, depth, seed)
            proposal = self._rule.propose(draft, setting.sigma, draws)
            return Patches(proposal, self._rule.draft_term(proposal, draft, setting.sigma))

        edge = self._rule.proposal_edge(setting.sigma, stochastic=self._stochastic)
        return self._extend(nodes, self._with_seed(edge, seed), depth, make)

    def _replace(self, nodes: Tensor, depth: int, setting: Setting, seed: int) -> Tensor:
        def make(missing: Tensor) -> Patches:
            mean = self._tree.answer(Answer.TARGET_MEAN, missing)
            draws = self._draws(missing, depth, seed)
            patch, exhausted = self._rule.replace(self._draft(missing), mean, setting, draws)
            return Patches(patch, exhausted=exhausted)

        edge = self._with_seed(self._rule.replacement_edge(setting), seed)
        return self._extend(nodes, edge, depth, make)

    def _add_bonus(self, nodes: Tensor, depth: int, setting: Setting, seed: int) -> Tensor:
        def make(missing: Tensor) -> Patches:
            mean = self._tree.answer(Answer.TARGET_MEAN, missing)
            return Patches(self._rule.bonus(mean, setting, self._draws(missing, depth, seed)))

        edge = self._with_seed(self._rule.bonus_edge(setting), seed)
        return self._extend(nodes, edge, depth, make)

    def _with_seed(self, edge: Edge, seed: int) -> Edge:
        """The edge under one seed; under rule `point` all seeds have the same patches."""
        return (*edge, seed) if self._rule.draws_patches else edge

    def _draft(self, nodes: Tensor) -> Gaussian:
        mean = self._tree.answer(Answer.DRAFT_MEAN, nodes)
        if not self._stochastic:
            return Gaussian(mean, None)
        return Gaussian(mean, self._tree.answer(Answer.DRAFT_VARIANCE, nodes))

    def _extend(
        self, nodes: Tensor, edge: Edge, depth: int, make: Callable[[Tensor], Patches]
    ) -> Tensor:
        """The prefixes one patch longer than `nodes` [n]; missing ones are made and stored."""
        children = self._tree.children(nodes, edge)
        missing = torch.nonzero(children == NONE).squeeze(1)
        if len(missing):
            parents = nodes[missing]
            made = make(parents)
            require_finite(made.patch)
            errors = self._against_truth(parents, depth, made.patch)
            children[missing] = self._tree.add_children(parents, edge, made, errors)
        return children

    def _against_truth(self, nodes: Tensor, depth: int, patch: Tensor) -> Tensor:
        """Squared and absolute error of `patch` after `nodes`, within the horizon: [n, 2]."""
        windows, length = self._workload.windows, self._workload.target.patch
        points = min(length, windows.horizon - depth * length)
        first = self._starts_of(nodes) + windows.context + depth * length
        truth = self._values.unfold(0, points, 1)[first].transpose(1, 2)
        error = (patch[:, :points] - truth).to(torch.float64)
        return torch.stack([error.square().sum(dim=(1, 2)), error.abs().sum(dim=(1, 2))], dim=1)

    def _errors(self, path: Sequence[Tensor]) -> Tensor:
        """Squared and absolute error of forecasts with the patches `path`, M times [B]: [B, 2]."""
        return self._tree.errors.rows[torch.stack(list(path), dim=1)].sum(dim=1)

    def _ask(self, role: Role, nodes: Tensor, depth: int) -> None:
        """Have a model's answer at `nodes` [n], all at `depth`."""
        target = role == "target"
        answer = Answer.TARGET_MEAN if target else Answer.DRAFT_MEAN
        self._requests[role] += len(nodes)

        def forecast(batch: Tensor) -> Gaussian:
            return self._forecast(role, batch, depth)

        missing = self._tree.without(answer, nodes)
        for batch, (mean, variance) in self._batches.run(missing, forecast):
            self._tree.set_answer(answer, batch, mean)
            if variance is not None and not target:
                self._tree.set_answer(Answer.DRAFT_VARIANCE, batch, variance)
                self._stochastic = True
            self._evaluations[role] += len(batch)

    def _forecast(self, role: Role, nodes: Tensor, depth: int) -> Gaussian:
        """What a model predicts after `nodes` [n]: [n, P, C]."""
        workload = self._workload
        model = workload.target if role == "target" else workload.draft
        length = workload.windows.context
        starts = self._starts_of(nodes)
        observed = self._values.unfold(0, length, 1)[starts].transpose(1, 2)
        series = torch.cat([observed, *self._tree.emitted(nodes, depth)], dim=1)
        return workload.contexts.forecast(model, series, length)

    def _draws(self, nodes: Tensor, depth: int, seed: int) -> Draws:
        starts = self._starts_of(nodes)
        return Draws(seed, starts, torch.full_like(starts, depth))

    def _uniforms(self, seed: int) -> list[Tensor]:
        if seed not in self._uniform:
            roots = torch.arange(len(self._starts), device=self._device)
            self._uniform[seed] = [
                self._draws(roots, depth, seed).uniform(Purpose.ACCEPTANCE)
                for depth in range(self._workload.patches)
            ]
        return self._uniform[seed]

    def _starts_of(self, nodes: Tensor) -> Tensor:
        """The first rows of the nodes' windows, which key their random numbers: [n]."""
        return self._starts[self._tree.window.rows[nodes]]

    def _chunks(self) -> Iterator[Tensor]:
        """The roots of all windows, in chunks whose walks fit the limit; makes room before each."""
        size = max(1, self._limit // 2 // self._growth(1, edges=0))
        for first in range(0, len(self._starts), size):
            roots = torch.arange(first, min(first + size, len(self._starts)), device=self._device)
            if not self._fits(len(roots)):
                self._evictions += 1
                self._tree.keep_drafted()
                if not self._fits(len(roots)):
                    self._tree = self._new_tree()
            yield roots

    def _fits(self, windows: int) -> bool:
        return self._tree.bytes + self._growth(windows, _EDGES) <= self._limit

    def _growth(self, windows: int, edges: int) -> int:
        """The most bytes that a walk of so many windows adds."""
        steps = windows * self._workload.patches
        return self._tree.growth(steps * _NODES_PER_STEP, steps * len(Answer), edges)
