"""The store behind the prefix cache: a tree of decoded prefixes per window, held in flat tensors.

A node is a prefix: the patches on the way from its window's root. Nodes are numbers, and every
column below is a tensor that is indexed by them, so that all windows are worked on at once.

The tree of prefixes together with what makes it grow: models, windows, and a memory limit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import Contexts, patches_to_cover, require_finite
from spec_opt.decoding.rules import Edge
from spec_opt.decoding.speculative import Batches
from spec_opt.models.device import memory_to_spare
from spec_opt.models.forecaster import Forecaster, Gaussian

NONE: Final = -1
"""No such node, no such row."""

_POINTER_BYTES: Final = 8
"""A number of a node."""


class Column:
    """A tensor that grows by rows: [n, *shape]."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._data = torch.empty((0, *shape), dtype=dtype, device=device)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def rows(self) -> Tensor:
        """All rows, as a view."""
        return self._data[: self._used]

    @property
    def row_bytes(self) -> int:
        """Memory of a row."""
        return self._data.element_size() * math.prod(self._data.shape[1:])

    def append(self, rows: Tensor) -> None:
        """Add `rows` at the end; when room runs out, half as much again is made."""
        wanted = self._used + len(rows)
        if wanted > len(self._data):
            room = max(wanted, len(self._data) * 3 // 2)
            grown = self._data.new_empty((room, *self._data.shape[1:]))
            grown[: self._used] = self.rows
            self._data = grown
        self._data[self._used : wanted] = rows
        self._used = wanted

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, and the spare room with them."""
        self._data = self.rows[rows].clone()
        self._used = len(self._data)


class PrefixTree:
    """Prefixes of W windows, with what the models said at each.

    Node numbers 0 ... W - 1 are the roots. A parent's number is below its children's.
    """

    def __init__(self, windows: int, patch_shape: tuple[int, int], device: torch.device) -> None:
        def integers() -> Column:
            return Column((), torch.int64, device)

        def scalars() -> Column:
            return Column((), torch.float64, device)

        def patches() -> Column:
            return Column(patch_shape, torch.float32, device)

        self.device = device
        self.windows = windows
        self.window = integers()
        """[n]: whose prefix it is, as a position among the windows."""
        self.parent = integers()
        self.depth = integers()
        """[n]: patches in the prefix."""
        self.edge = integers()
        """[n]: what shaped the last patch, as an index into `edges`."""
        self.patch = patches()
        """[n, P, C]: the last patch of the prefix; zeros for a root."""
        self.squared_error = scalars()
        """[n]: of the last patch against the truth, summed over what lies in the horizon."""
        self.absolute_error = scalars()
        self.draft_term = scalars()
        """[n]: the draft's part of the log-ratio, for a prefix that ends in a proposal."""
        self.target_term = scalars()
        """[n]: the target's part; NaN until the target was asked."""
        self.exhausted = integers()
        """[n]: 1 where thinning met its bound."""
        self._target_row, self._draft_row = integers(), integers()
        self._target_mean = patches()
        self._draft_mean, self._draft_variance = patches(), patches()
        self.has_draft_variance = False
        """Whether the draft gives a variance; known once it was asked."""
        self._node_columns = (
            self.window,
            self.parent,
            self.depth,
            self.edge,
            self.patch,
            self.squared_error,
            self.absolute_error,
            self.draft_term,
            self.target_term,
            self.exhausted,
            self._target_row,
            self._draft_row,
        )
        self.edges: list[Edge] = []
        self._children: dict[Edge, Tensor] = {}
        self._add_roots()

    def __len__(self) -> int:
        return len(self.window)

    def _add_roots(self) -> None:
        count = self.windows
        none = torch.full((count,), NONE, dtype=torch.int64, device=self.device)
        zero = torch.zeros(count, dtype=torch.float64, device=self.device)
        self.window.append(torch.arange(count, device=self.device))
        for column in (self.parent, self.edge, self._target_row, self._draft_row):
            column.append(none)
        for column in (self.depth, self.exhausted):
            column.append(torch.zeros_like(none))
        for column in (self.squared_error, self.absolute_error, self.draft_term, self.target_term):
            column.append(zero)
        self.patch.append(self.patch.rows.new_zeros(count, *self.patch.rows.shape[1:]))

    @property
    def bytes(self) -> int:
        """Memory of what is held, without the spare room of the columns."""
        columns = (
            *self._node_columns,
            self._target_mean,
            self._draft_mean,
            self._draft_variance,
        )
        tables = sum(len(table) for table in self._children.values())
        return sum(len(c) * c.row_bytes for c in columns) + tables * _POINTER_BYTES

    def step_bytes(self, nodes: int, answers: int, edges: int) -> int:
        """What adding so many nodes and answers of the models makes of `bytes` at most.

        `edges`: how many kinds of them; the table of children of each may have to catch up.
        """
        node = sum(column.row_bytes for column in self._node_columns) + edges * _POINTER_BYTES
        catching_up = edges * len(self) * _POINTER_BYTES
        return nodes * node + answers * self.patch.row_bytes + catching_up

    def children(self, nodes: Tensor, edge: Edge) -> Tensor:
        """The prefixes one patch longer, [n]; NONE where there is none yet."""
        known = self._children.get(edge)
        if known is None:
            return torch.full_like(nodes, NONE)
        found = torch.full_like(nodes, NONE)
        inside = nodes < len(known)
        found[inside] = known[nodes[inside]]
        return found

    def add_children(
        self,
        parents: Tensor,
        edge: Edge,
        patches: Tensor,
        squared_error: Tensor,
        absolute_error: Tensor,
        draft_term: Tensor,
        exhausted: Tensor,
    ) -> Tensor:
        """Lengthen `parents` [n] by `patches` [n, P, C]; returns the new nodes [n]."""
        first = len(self)
        nodes = torch.arange(first, first + len(parents), device=self.device)
        if edge not in self.edges:
            self.edges.append(edge)
        none = torch.full_like(parents, NONE)
        self.window.append(self.window.rows[parents])
        self.parent.append(parents)
        self.depth.append(self.depth.rows[parents] + 1)
        self.edge.append(torch.full_like(parents, self.edges.index(edge)))
        self.patch.append(patches)
        self.squared_error.append(squared_error)
        self.absolute_error.append(absolute_error)
        self.draft_term.append(draft_term)
        self.target_term.append(torch.full_like(draft_term, torch.nan))
        self.exhausted.append(exhausted)
        self._target_row.append(none)
        self._draft_row.append(none)
        known = self._children.get(edge, none[:0])
        grown = torch.full((len(self),), NONE, dtype=torch.int64, device=self.device)
        grown[: len(known)] = known
        grown[parents] = nodes
        self._children[edge] = grown
        return nodes

    def ancestors(self, nodes: Tensor, depth: int) -> Tensor:
        """The nodes on the way to `nodes` [n], all of one depth, roots left out: [n, depth]."""
        path = []
        for _ in range(depth):
            path.append(nodes)
            nodes = self.parent.rows[nodes]
        path.reverse()
        return torch.stack(path, dim=1) if path else nodes.new_empty((len(nodes), 0))

    def without_target(self, nodes: Tensor) -> Tensor:
        """Those of `nodes` at which the target was not asked yet."""
        return nodes[self._target_row.rows[nodes] == NONE]

    def without_draft(self, nodes: Tensor) -> Tensor:
        """Those of `nodes` at which the draft was not asked yet."""
        return nodes[self._draft_row.rows[nodes] == NONE]

    def set_target(self, nodes: Tensor, mean: Tensor) -> None:
        """Keep the target's answer [n, P, C] at `nodes` [n]."""
        first = len(self._target_mean)
        self._target_mean.append(mean)
        self._target_row.rows[nodes] = torch.arange(first, first + len(nodes), device=self.device)

    def set_draft(self, nodes: Tensor, mean: Tensor, variance: Tensor | None) -> None:
        """Keep the draft's answer, [n, P, C] each, at `nodes` [n]."""
        first = len(self._draft_mean)
        self._draft_mean.append(mean)
        if variance is not None:
            self._draft_variance.append(variance)
            self.has_draft_variance = True
        self._draft_row.rows[nodes] = torch.arange(first, first + len(nodes), device=self.device)

    def target_mean(self, nodes: Tensor) -> Tensor:
        """What the target said at `nodes` [n], all of which it was asked at: [n, P, C]."""
        return self._target_mean.rows[self._target_row.rows[nodes]]

    def draft(self, nodes: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the draft said at `nodes` [n]: mean and variance, [n, P, C] each."""
        rows = self._draft_row.rows[nodes]
        variance = self._draft_variance.rows[rows] if self.has_draft_variance else None
        return self._draft_mean.rows[rows], variance

    def reached_only_by(self, edges: set[Edge]) -> Tensor:
        """Which nodes have none but these edges on the way from their root: bool [n]."""
        allowed = torch.tensor(
            [edge in edges for edge in self.edges] + [True], device=self.device
        )  # the last one is for roots, whose edge is NONE
        reached = allowed[self.edge.rows]
        for depth in range(1, int(self.depth.rows.max()) + 1):
            at = torch.nonzero(self.depth.rows == depth).squeeze(1)
            reached[at] &= reached[self.parent.rows[at]]
        return reached

    def keep(self, wanted: Tensor) -> None:
        """Forget all nodes but `wanted`, bool [n]; a node's parent must be wanted too.

        Roots stay, but what the models said at those that are not wanted is forgotten. Node numbers
        change.
        """
        forgotten = torch.nonzero(~wanted).squeeze(1)
        self._target_row.rows[forgotten] = NONE
        self._draft_row.rows[forgotten] = NONE
        wanted = wanted.clone()
        wanted[: self.windows] = True
        kept = torch.nonzero(wanted).squeeze(1)
        # One place more than nodes, so that NONE (-1) maps to itself.
        renumbered = torch.full((len(self) + 1,), NONE, dtype=torch.int64, device=self.device)
        renumbered[kept] = torch.arange(len(kept), device=self.device)
        for column in self._node_columns:
            column.keep(kept)
        self.parent.rows.copy_(renumbered[self.parent.rows])
        tables = {
            edge: renumbered[known[kept[kept < len(known)]]]
            for edge, known in self._children.items()
        }
        # An edge that no prefix is left of costs nothing; `edges` still numbers it.
        self._children = {edge: table for edge, table in tables.items() if (table != NONE).any()}
        self._compact(self._target_row, [self._target_mean])
        self._compact(self._draft_row, [self._draft_mean, self._draft_variance])

    def _compact(self, index: Column, answers: list[Column]) -> None:
        """Drop the answers that no node points at any more."""
        pointing = torch.nonzero(index.rows != NONE).squeeze(1)
        rows = index.rows[pointing]
        for column in answers:
            if len(column):
                column.keep(rows)
        index.rows[pointing] = torch.arange(len(rows), device=self.device)


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
