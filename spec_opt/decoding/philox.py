"""Random numbers keyed by (seed, window, patch position) instead of by the order of calls.

Batch size, the order of windows, the device and the decoder therefore do not affect a window's
numbers, and two settings use the same ones (common random numbers), which makes their difference
far less noisy than either.

The generator is Philox4x32-10, which turns a counter into four random words (Salmon et al. 2011,
"Parallel Random Numbers: As Easy as 1, 2, 3"), written in torch so that it runs on any device.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUNDS = 10
_ATTEMPT_BITS = 28
_FEW: Final = 4096
"""Up to so many counters numpy is faster on the CPU: each of its operations takes less to begin."""

Words = TypeVar("Words", Tensor, NDArray[np.int64])


class Purpose(IntEnum):
    """The use of a random number; part of its key, so that no two uses share one."""

    PROPOSAL = 0
    TARGET_PATCH = 1
    ACCEPTANCE = 2
    THINNING = 3


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, ...]:
    """Philox4x32-10: four counter words (int64, of one shape) -> four random 32-bit words.

    Words are held in int64. The product of two 32-bit words may wrap there, but its bits are right,
    so a shift and a mask give its high half.
    """
    c0, c1, c2, c3 = counter
    key = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(_PHILOX_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) & _WORD) ^ c1 ^ key[0]
        c2 = ((product0 >> 32) & _WORD) ^ c3 ^ key[1]
        c1, c3 = product1 & _WORD, product0 & _WORD
        key = [(word + step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True)]
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Draws:
    """The random numbers of B (window, position) pairs, one pair per row.

    `windows`, `positions`: int64 [B], on the device where the numbers are used.
    """

    seed: int
    windows: Tensor
    positions: Tensor

    def rows(self, index: Tensor) -> "Draws":
        """The draws of the rows `index` [n]: n rows."""
        return Draws(self.seed, self.windows[index], self.positions[index])

    def uniform(self, purpose: Purpose, attempts: Tensor | int = 0) -> Tensor:
        """[B] numbers, uniform on [0, 1), float64 with 32 random bits."""
        first, *_ = self._words(purpose, attempts, blocks=1)
        return first.squeeze(1).to(torch.float64) * 2.0**-32

    def normal(
        self, purpose: Purpose, shape: tuple[int, int], attempts: Tensor | int = 0
    ) -> Tensor:
        """[B, P, C] standard normals, float32, for `shape` = (P, C), by Box and Muller."""
        size = shape[0] * shape[1]
        words = self._words(purpose, attempts, blocks=math.ceil(size / 4))
        # 24 bits, offset by half a step: never 0, so that the logarithm is finite.
        u0, u1, u2, u3 = (((word >> 8).to(torch.float32) + 0.5) * 2.0**-24 for word in words)
        radius0, radius1 = (torch.sqrt(-2.0 * torch.log(u)) for u in (u0, u2))
        angle0, angle1 = u1 * (2.0 * math.pi), u3 * (2.0 * math.pi)
        normals = torch.stack(
            [
                radius0 * torch.cos(angle0),
                radius0 * torch.sin(angle0),
                radius1 * torch.cos(angle1),
                radius1 * torch.sin(angle1),
            ],
            dim=-1,
        )
        return normals.flatten(1)[:, :size].reshape(-1, *shape)

    def _words(self, purpose: Purpose, attempts: Tensor | int, blocks: int) -> tuple[Tensor, ...]:
        """Four words [B, blocks] for each row."""
        device, rows = self.windows.device, self.windows.shape[0]
        use = torch.full((rows,), int(purpose) << _ATTEMPT_BITS, dtype=torch.int64, device=device)
        counter = (
            torch.arange(blocks, device=device).expand(rows, blocks),
            (self.windows & _WORD).unsqueeze(1).expand(rows, blocks),
            self.positions.unsqueeze(1).expand(rows, blocks),
            (use + attempts).unsqueeze(1).expand(rows, blocks),
        )
        if device.type == "cpu" and rows * blocks <= _FEW:
            c0, c1, c2, c3 = (words.numpy() for words in counter)
            return tuple(map(torch.from_numpy, philox((c0, c1, c2, c3), self.seed)))
        return philox(counter, self.seed)
