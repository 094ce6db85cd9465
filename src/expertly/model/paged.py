"""The cache of the native decoder: pages of keys and values, a table of them a sequence.

Sequences grow by themselves: padding takes no place in it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.config import ModelConfig

PAGE_SIZE = 64


class PagedCache:
    """Keys and values of every layer for `batch_size` sequences; `lengths` are their tokens."""

    def __init__(self, config: ModelConfig, batch_size: int = 1) -> None:
        attentions = [layer.attention for layer in config.layers]
        self.pool = _native.PagePool(
            [attention.num_kv_heads for attention in attentions],
            [attention.head_size for attention in attentions],
        )
        self.batch_size = batch_size
        self.lengths = [0] * batch_size
        self.pages_BN: NDArray[np.int32] = np.zeros((batch_size, 4), np.int32)

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    def admit(self, counts_B: list[int]) -> None:
        """Make room for so many more tokens of each sequence."""
        for sequence, count in enumerate(counts_B):
            have = pages_of(self.lengths[sequence])
            self.lengths[sequence] += count
            wanted = pages_of(self.lengths[sequence])
            if wanted > self.pages_BN.shape[1]:
                self._widen(wanted)
            for place in range(have, wanted):
                self.pages_BN[sequence, place] = self.pool.take()

    def truncate(self, length: int | Sequence[int]) -> None:
        """Forget every sequence's tokens from `length` on, or from a length of its own."""
        lengths = [length] * self.batch_size if isinstance(length, int) else length
        for sequence, had in enumerate(self.lengths):
            self.lengths[sequence] = min(had, lengths[sequence])
            for place in range(pages_of(self.lengths[sequence]), pages_of(had)):
                self.pool.release(int(self.pages_BN[sequence, place]))

    def _widen(self, wanted: int) -> None:
        # doubling keeps the copying linear in the length
        wider = np.zeros((self.batch_size, 2 * wanted), np.int32)
        wider[:, : self.pages_BN.shape[1]] = self.pages_BN
        self.pages_BN = wider


def pages_of(length: int) -> int:
    return -(-length // PAGE_SIZE)
