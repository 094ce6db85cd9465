"""Which tokens each sequence of a run holds: a pure function of the seed and its number."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expertly.errors import InputError
from expertly.train.pack import Packed, Span

Starts = np.ndarray[Any, np.dtype[np.int64]]


class Sampler:
    """Epochs of blocks of `sequence` + 1 tokens (neighbours share one), all domains shuffled
    together. Each pass over a domain begins at a random offset, so its blocks differ; a weight
    of 2.5 is two passes and half of a third. A block never reaches into another domain."""

    def __init__(self, packed: Packed, sequence: int, seed: int) -> None:
        self._packed = packed
        self._sequence = sequence
        self._seed = seed
        self._blocks = tuple(_num_blocks(span, sequence) for span in packed.spans)
        self.epoch_size = sum(
            round(span.weight * blocks) or 1
            for span, blocks in zip(packed.spans, self._blocks, strict=True)
        )
        self._epoch_starts = lru_cache(maxsize=2)(self._draw_epoch)

    def sequences(self, first: int, count: int) -> Tensor:
        """int64, count x (sequence + 1): the sequences numbered from `first` on."""
        rows = [self._one(number) for number in range(first, first + count)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _one(self, number: int) -> np.ndarray[Any, Any]:
        epoch, place = divmod(number, self.epoch_size)
        start = self._epoch_starts(epoch)[place]
        return self._packed.tokens[start : start + self._sequence + 1]

    def _draw_epoch(self, epoch: int) -> Starts:
        parts = [
            self._draw_domain(epoch, index, span, blocks)
            for index, (span, blocks) in enumerate(
                zip(self._packed.spans, self._blocks, strict=True)
            )
        ]
        return np.random.default_rng([self._seed, epoch]).permutation(np.concatenate(parts))

    def _draw_domain(self, epoch: int, index: int, span: Span, blocks: int) -> Starts:
        wanted = round(span.weight * blocks) or 1
        rng = np.random.default_rng([self._seed, epoch, index, 1])
        passes = []
        for _ in range(-(-wanted // blocks)):
            slack = span.end - span.start - 1 - blocks * self._sequence
            offset = span.start + int(rng.integers(0, slack + 1))
            passes.append(offset + self._sequence * np.arange(blocks, dtype=np.int64))
        passes[-1] = rng.permutation(passes[-1])
        return np.concatenate(passes)[:wanted]


def _num_blocks(span: Span, sequence: int) -> int:
    """One fewer than fit, where more than one fit: that is what the random offset needs."""
    fit = (span.end - span.start - 1) // sequence
    if fit < 1:
        raise InputError(
            f"the text {span.name} has {span.end - span.start} tokens to train on, "
            f"a sequence needs {sequence + 1}",
            hint="give more text or make [data] sequence shorter",
        )
    return max(1, fit - 1)
