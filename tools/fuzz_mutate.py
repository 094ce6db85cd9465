"""Mutants of small files: flipped bits, bytes, integers at their bounds, cuts and splices."""

import random
from collections.abc import Callable, Sequence

# what counts, lengths, offsets and types are wrong with
_INTEGERS = [
    0, 1, 2, 3, 4, 7, 8, 9, 10, 12, 13, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000,
    0xFFFF, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 61,
    (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 8, (1 << 64) - 1,
]  # fmt: skip
_INTERESTING = {size: [n.to_bytes(8, "little")[:size] for n in _INTEGERS] for size in (1, 4, 8)}


class Mutator:
    """`mutant(n)` is always the same for the same seeds and `salt`."""

    def __init__(self, seeds: Sequence[bytes], salt: int = 0) -> None:
        self._seeds = list(seeds)
        self._salt = salt
        self._random = random.Random()
        self._changes: list[Callable[[bytearray], None]] = [
            self._flip, self._byte, self._integer, self._integer, self._integer, self._add,
            self._cut, self._repeat, self._splice, self._truncate,
        ]  # fmt: skip

    def mutant(self, number: int) -> bytes:
        self._random.seed(self._salt << 40 | number)
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 6))):
            if data:
                self._random.choice(self._changes)(data)
        return bytes(data)

    def _at(self, data: bytearray) -> int:
        # headers matter more than the zeros of tensors behind them
        size = len(data) if self._random.random() < 0.2 else min(len(data), 512)
        return int(self._random.random() * size)

    def _flip(self, data: bytearray) -> None:
        data[self._at(data)] ^= 1 << self._random.randrange(8)

    def _byte(self, data: bytearray) -> None:
        data[self._at(data)] = self._random.randrange(256)

    def _integer(self, data: bytearray) -> None:
        size = self._random.choice((1, 4, 8))
        at = self._at(data)
        data[at : at + size] = self._random.choice(_INTERESTING[size])

    def _add(self, data: bytearray) -> None:
        at = self._at(data)
        word = int.from_bytes(data[at : at + 8], "little") + self._random.randrange(-9, 10)
        data[at : at + 8] = (word % (1 << 64)).to_bytes(8, "little")

    def _span(self, data: bytearray) -> slice:
        at = self._at(data)
        return slice(at, at + self._random.choice((1, 2, 4, 8, 13, 24, 33, 64)))

    def _cut(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        span = self._span(data)
        data[span.stop : span.stop] = data[span] * self._random.choice((1, 1, 2, 40))

    def _splice(self, data: bytearray) -> None:
        other = bytearray(self._random.choice(self._seeds))
        data[self._at(data) :] = other[self._at(other) :]

    def _truncate(self, data: bytearray) -> None:
        del data[self._at(data) :]
