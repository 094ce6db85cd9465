"""Two copies of the same experts in one numbering, so that both may be asked for and held."""

from collections.abc import Callable, Sequence

from expertly.store.policies import Key
from expertly.store.source import Source


class Joined:
    """Of each layer, the `num_experts` of `first`, and from there on those of `second`, the lower
    copies. Both fill the same slots from the same disk."""

    def __init__(self, first: Source, second: Source, num_experts: Sequence[int]) -> None:
        assert first.disk is second.disk
        self.disk = first.disk
        self._first = first
        self._second = second
        self._num_experts = num_experts

    def parts(self, key: Key, slot: int) -> list[Callable[[], None]]:
        source, own = self._at(key)
        return source.parts(own, slot)

    def read_bytes(self, key: Key) -> int:
        source, own = self._at(key)
        return source.read_bytes(own)

    def name_of(self, key: Key) -> str:
        source, own = self._at(key)
        return source.name_of(own) + ", in its lower copy" * (own != key)

    def _at(self, key: Key) -> tuple[Source, Key]:
        layer, expert = key
        count = self._num_experts[layer]
        return (self._first, key) if expert < count else (self._second, (layer, expert - count))
