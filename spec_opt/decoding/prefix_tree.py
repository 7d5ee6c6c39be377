"""Storage of the prefix cache: one tree of decoded prefixes per window, in flat tensors.

A node is a prefix: the patches on the path from its window's root. Nodes are numbered, and each
column below is a tensor indexed by node, so that all windows are processed at once.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

from spec_opt.decoding.rules import Edge

NONE: Final = -1
"""Stands for a node or a row that does not exist."""
_POINTER_BYTES: Final = 8


class Answer(IntEnum):
    """What a model said about the patch after a prefix."""

    TARGET_MEAN = 0
    DRAFT_MEAN = 1
    DRAFT_VARIANCE = 2


@dataclass(frozen=True)
class Patches:
    """Patches that extend n prefixes, and what is stored with them; a scalar applies to all."""

    patch: Tensor
    """[n, P, C]"""
    draft_term: Tensor | float = 0.0
    """[n]: the draft's part of the log-ratio, for proposals."""
    exhausted: Tensor | int = 0
    """[n]: 1 where thinning used up its tries, for replacements."""


def _is_drafted(edge: Edge) -> bool:
    return edge[0].startswith("draft")


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
        """Memory of one row."""
        return self._data.element_size() * math.prod(self._data.shape[1:])

    def append(self, count: int, rows: Tensor | float) -> None:
        """Add `count` rows, [count, *shape] or one value for all; grows by half when full."""
        wanted = self._used + count
        if wanted > len(self._data):
            room = max(wanted, len(self._data) * 3 // 2)
            grown = self._data.new_empty((room, *self._data.shape[1:]))
            grown[: self._used] = self.rows
            self._data = grown
        self._data[self._used : wanted] = rows
        self._used = wanted

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, and the spare room."""
        self._data = self.rows[rows].clone()
        self._used = len(self._data)


class PrefixTree:
    """Prefixes of W windows, with what the models said about each.

    Nodes 0 ... W - 1 are the roots. A parent's number is below its children's.
    """

    def __init__(self, windows: int, patch_shape: tuple[int, int], device: torch.device) -> None:
        def column(dtype: torch.dtype, *shape: int) -> Column:
            return Column(shape, dtype, device)

        self.device = device
        self.window = column(torch.int64)
        """[n]: the prefix's window, as a position among the windows."""
        self.parent = column(torch.int64)
        self.drafted = column(torch.bool)
        """[n]: whether all patches of the prefix are the draft's; every setting shares these."""
        self.patch = column(torch.float32, *patch_shape)
        """[n, P, C]: the last patch of the prefix; zeros for a root."""
        self.errors = column(torch.float64, 2)
        """[n, 2]: squared and absolute error of the last patch, summed over the points within the
        horizon and the channels."""
        self.draft_term = column(torch.float64)
        """[n]: the draft's part of the log-ratio, for a prefix that ends in a proposal."""
        self.target_term = column(torch.float64)
        """[n]: the target's part; NaN until it is known."""
        self.exhausted = column(torch.int64)
        """[n]: 1 where thinning used up its tries."""
        self._answer_row = column(torch.int64, len(Answer))
        """[n, 3]: the rows of `_answers` that belong to the node."""
        # All columns by node, in the order in which `_append` fills them.
        self._columns = [member for member in vars(self).values() if isinstance(member, Column)]
        self._answers = column(torch.float32, *patch_shape)
        self._children: dict[Edge, Tensor] = {}
        """By edge: the child of each node, NONE for a node without one."""
        roots = torch.arange(windows, device=device)
        self._append(roots, NONE, True, Patches(torch.zeros((), device=device)), 0.0)

    def __len__(self) -> int:
        return len(self.window)

    def _append(
        self,
        window: Tensor,
        parent: Tensor | int,
        drafted: Tensor | bool,
        made: Patches,
        errors: Tensor | float,
    ) -> Tensor:
        first, count = len(self), len(window)
        node = window, parent, drafted, made.patch, errors, made.draft_term
        for column, rows in zip(
            self._columns, (*node, torch.nan, made.exhausted, NONE), strict=True
        ):
            column.append(count, rows)
        return torch.arange(first, first + count, device=self.device)

    @property
    def bytes(self) -> int:
        """Memory in use, without the spare room of the columns."""
        columns = (*self._columns, self._answers)
        tables = sum(len(table) for table in self._children.values())
        return sum(len(c) * c.row_bytes for c in columns) + tables * _POINTER_BYTES

    def growth(self, nodes: int, answers: int, edges: int) -> int:
        """The most that `bytes` grows by adding so many nodes, along so many edges, and answers."""
        node = sum(column.row_bytes for column in self._columns)
        tables = edges * (len(self) + nodes) * _POINTER_BYTES
        return nodes * node + answers * self._answers.row_bytes + tables

    def children(self, nodes: Tensor, edge: Edge) -> Tensor:
        """The prefixes one patch longer, [n]; NONE where there is none yet."""
        found = torch.full_like(nodes, NONE)
        known = self._children.get(edge)
        if known is not None:
            inside = nodes < len(known)
            found[inside] = known[nodes[inside]]
        return found

    def add_children(self, parents: Tensor, edge: Edge, made: Patches, errors: Tensor) -> Tensor:
        """Extend `parents` [n]; returns the new nodes [n]."""
        drafted = self.drafted.rows[parents] & _is_drafted(edge)
        nodes = self._append(self.window.rows[parents], parents, drafted, made, errors)
        known = self._children.get(edge, nodes[:0])
        table = torch.full((len(self),), NONE, dtype=torch.int64, device=self.device)
        table[: len(known)] = known
        table[parents] = nodes
        self._children[edge] = table
        return nodes

    def emitted(self, nodes: Tensor, depth: int) -> list[Tensor]:
        """The `depth` patches of each of `nodes` [n], [n, P, C] each, the first one first."""
        patches = []
        for _ in range(depth):
            patches.append(self.patch.rows[nodes])
            nodes = self.parent.rows[nodes]
        return patches[::-1]

    def without(self, answer: Answer, nodes: Tensor) -> Tensor:
        """Those of `nodes` for which this answer is missing."""
        return nodes[self._answer_row.rows[nodes, answer] == NONE]

    def set_answer(self, answer: Answer, nodes: Tensor, values: Tensor) -> None:
        """Store what a model said, [n, P, C], at `nodes` [n]."""
        first = len(self._answers)
        self._answers.append(len(nodes), values)
        rows = torch.arange(first, first + len(nodes), device=self.device)
        self._answer_row.rows[nodes, answer] = rows

    def answer(self, answer: Answer, nodes: Tensor) -> Tensor:
        """What a model said at `nodes` [n], all of which have this answer: [n, P, C]."""
        return self._answers.rows[self._answer_row.rows[nodes, answer]]

    def keep_drafted(self) -> None:
        """Forget all prefixes that hold a patch of the target; nodes are renumbered."""
        kept = torch.nonzero(self.drafted.rows).squeeze(1)
        # One entry more than nodes, so that NONE, which is -1, is mapped to itself.
        renumbered = torch.full((len(self) + 1,), NONE, dtype=torch.int64, device=self.device)
        renumbered[kept] = torch.arange(len(kept), device=self.device)
        for column in self._columns:
            column.keep(kept)
        self.parent.rows.copy_(renumbered[self.parent.rows])
        self._children = {
            edge: renumbered[table[kept[kept < len(table)]]]
            for edge, table in self._children.items()
            if _is_drafted(edge)
        }
        pointers = self._answer_row.rows
        used = pointers != NONE
        self._answers.keep(pointers[used])
        pointers[used] = torch.arange(len(self._answers), device=self.device)
