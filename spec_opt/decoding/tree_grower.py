"""The tree of prefixes together with what makes it grow: models, windows, and a memory limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from spec_opt.data import Windows
from spec_opt.decoding.acceptance import Edge
from spec_opt.decoding.batches import Batches
from spec_opt.decoding.contexts import Contexts, patches_to_cover, require_finite
from spec_opt.decoding.prefix_tree import NONE, PrefixTree
from spec_opt.models.device import memory_to_spare
from spec_opt.models.forecaster import Forecaster, Gaussian

_MOST_BYTES: Final = 4 * 2**30

_NODES_PER_STEP: Final = 2
"""What a step may add per window: the proposal, and what stands in for it."""
_ANSWERS_PER_STEP: Final = 3
"""The target's mean, the draft's mean, the draft's variance."""


@dataclass(frozen=True)
class Patches:
    """Patches to lengthen prefixes by, and what is kept with them."""

    patch: Tensor
    """[n, P, C]"""
    draft_term: Tensor | None = None
    """[n], for proposals."""
    exhausted: Tensor | None = None
    """[n], for replacements."""


@dataclass(frozen=True)
class CacheStatistics:
    """How often the models were asked, and how often the answer was there already."""

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
        """Share of the requests, to both models, that needed no model."""
        requests = self.target_requests + self.draft_requests
        evaluations = self.target_evaluations + self.draft_evaluations
        return 1.0 - evaluations / requests if requests else 0.0


def default_limit(device: torch.device) -> int:
    """Bytes that the prefixes of one worker may take where nothing else is said.

    Room that columns grow into comes on top, half as much at most.
    """
    return min(_MOST_BYTES, memory_to_spare(device))


class TreeGrower:
    """Prefixes of W windows; the models are asked once at each.

    Args:
        target, draft: of one patch length, on `device`.
        windows: what is forecast.
        batch_size: contexts per model call.
        device: where models and prefixes live.
        limit_bytes: memory of the prefixes; None for `default_limit`. Beyond it prefixes are
            forgotten, those that the coming settings need last.
        contexts: how the models are shown a prefix.
    """

    def __init__(
        self,
        target: Forecaster,
        draft: Forecaster,
        windows: Windows,
        *,
        batch_size: int,
        device: torch.device,
        limit_bytes: int | None,
        contexts: Contexts,
    ) -> None:
        self._target, self._draft, self._contexts = target, draft, contexts
        self._batches = Batches(batch_size)
        self._limit = default_limit(device) if limit_bytes is None else limit_bytes
        self._device = device
        self._values = windows.values.to(device)
        self._context, self._horizon = windows.context, windows.horizon
        self._patch = target.patch
        self.starts = windows.starts.to(device)
        """[W]: the row at which each window's context starts; keys its random numbers."""
        self.patches = patches_to_cover(self._horizon, self._patch)
        """M"""
        self.patch_size = self._patch * self._values.shape[1]
        """P * C"""
        self.tree = PrefixTree(len(self.starts), (self._patch, self._values.shape[1]), device)
        self._target_requests = self._draft_requests = 0
        self._target_evaluations = self._draft_evaluations = 0
        self._evictions = 0

    @property
    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            target_requests=self._target_requests,
            target_evaluations=self._target_evaluations,
            draft_requests=self._draft_requests,
            draft_evaluations=self._draft_evaluations,
            prefixes=len(self.tree),
            bytes=self.tree.bytes,
            limit_bytes=self._limit,
            evictions=self._evictions,
        )

    def extend(
        self, nodes: Tensor, edge: Edge, depth: int, make: Callable[[Tensor], Patches]
    ) -> Tensor:
        """The prefixes one patch longer than `nodes` [n]; those that are missing are made."""
        children = self.tree.children(nodes, edge)
        missing = torch.nonzero(children == NONE).squeeze(1)
        if len(missing):
            parents = nodes[missing]
            made = make(parents)
            require_finite(made.patch)
            zeros = torch.zeros(len(parents), device=self._device)
            squared, absolute = self._against_truth(parents, depth, made.patch)
            children[missing] = self.tree.add_children(
                parents,
                edge,
                made.patch,
                squared,
                absolute,
                zeros.double() if made.draft_term is None else made.draft_term,
                zeros.long() if made.exhausted is None else made.exhausted,
            )
        return children

    def ask_target(self, nodes: Tensor, depth: int) -> None:
        """Have the target's answer at `nodes` [n], all at `depth`."""
        self._target_requests += len(nodes)
        missing = self.tree.without_target(nodes)
        for batch, answer in self._batches.run(missing, self._asking(self._target, depth)):
            self.tree.set_target(batch, answer.mean)
            self._target_evaluations += len(batch)

    def ask_draft(self, nodes: Tensor, depth: int) -> None:
        """Have the draft's answer at `nodes` [n], all at `depth`."""
        self._draft_requests += len(nodes)
        missing = self.tree.without_draft(nodes)
        for batch, answer in self._batches.run(missing, self._asking(self._draft, depth)):
            self.tree.set_draft(batch, answer.mean, answer.variance)
            self._draft_evaluations += len(batch)

    def _asking(self, model: Forecaster, depth: int) -> Callable[[Tensor], Gaussian]:
        return lambda nodes: self._forecast(model, nodes, depth)

    def _forecast(self, model: Forecaster, nodes: Tensor, depth: int) -> Gaussian:
        """What a model says follows `nodes` [n]: [n, P, C]."""
        starts = self.starts[self.tree.window.rows[nodes]]
        observed = self._values.unfold(0, self._context, 1)[starts].transpose(1, 2)
        emitted = self.tree.patch.rows[self.tree.ancestors(nodes, depth)].flatten(1, 2)
        return self._contexts.forecast(model, torch.cat([observed, emitted], dim=1), self._context)

    def _against_truth(self, nodes: Tensor, depth: int, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Squared and absolute error of a patch after `nodes`, over what lies in the horizon."""
        points = min(self._patch, self._horizon - depth * self._patch)
        first = self.starts[self.tree.window.rows[nodes]] + self._context + depth * self._patch
        truth = self._values.unfold(0, points, 1)[first].transpose(1, 2)
        error = (patch[:, :points] - truth).to(torch.float64)
        return error.square().sum(dim=(1, 2)), error.abs().sum(dim=(1, 2))

    def chunks(self, edges: set[Edge]) -> Iterator[Tensor]:
        """The roots of all windows, in chunks that fit the limit, room made before each."""
        size = max(1, self._limit // 2 // self._room_for(1, edges=0))
        for first in range(0, len(self.starts), size):
            last = min(first + size, len(self.starts))
            room = self._room_for(last - first, len(edges))
            if self.tree.bytes + room > self._limit:
                self._evict(edges, first, last, self._limit - room)
            yield torch.arange(first, last, device=self._device)

    def _room_for(self, windows: int, edges: int) -> int:
        """Bytes that a walk of so many windows along so many kinds of edges may add at most."""
        steps = windows * self.patches
        return self.tree.step_bytes(steps * _NODES_PER_STEP, steps * _ANSWERS_PER_STEP, edges)

    def _evict(self, edges: set[Edge], first: int, last: int, allowed: int) -> None:
        """Forget prefixes, the dearest last, until no more than `allowed` bytes are held.

        In turn: what other settings' edges reached; of windows outside first ... last, all but the
        all-proposal chain; those chains too, from the last window on, because the next trial
        begins with the first; of the windows inside, all but the chain, which the walk needs.
        """
        tree = self.tree
        chain = {edge for edge in edges if edge[0].startswith("draft")}
        stages: tuple[Callable[[], Tensor], ...] = (
            lambda: tree.reached_only_by(edges),
            lambda: tree.reached_only_by(chain) | self._belongs(first, last),
            lambda: (
                self._belongs(first, last)
                | self._belongs(0, allowed * len(self.starts) // tree.bytes)
            ),
            lambda: tree.reached_only_by(chain) & self._belongs(first, last),
        )
        self._evictions += 1
        for wanted in stages:
            tree.keep(wanted())
            if tree.bytes <= allowed:
                break

    def _belongs(self, first: int, last: int) -> Tensor:
        """Which prefixes are of the windows first ... last - 1: bool [n]."""
        window = self.tree.window.rows
        return (window >= first) & (window < last)
