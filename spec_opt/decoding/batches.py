"""Work in batches that become smaller when the device's memory runs out."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from spec_opt.errors import DecodingError

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
