"""Which expert to give up when room is needed: cache policies over `(layer, expert)` keys, with no
tensors, so that each can be replayed on a trace."""

from collections.abc import Callable, Collection, Iterable
from heapq import heapify, heappop, heappush
from typing import Protocol

Key = tuple[int, int]

# inflated weights are brought down again before they leave the range of floats
_HEAVIEST = 1e200


class Policy(Protocol):
    """Told of every use (hits and misses alike), of every key that is taken in and let go."""

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        """A layer's turn, and all experts that are used in it."""
        ...

    def add(self, key: Key) -> None: ...

    def drop(self, key: Key) -> None: ...

    def forget(self) -> None:
        """Nothing is held any more; what was used stays known."""
        ...

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        """A key that is held and not kept, to make room for `coming`; None if there is none.
        Nothing that is held changes by asking."""
        ...


class Lru:
    """The least recently used goes. Hits nothing where a token's working set does not fit."""

    def __init__(self) -> None:
        self._held: dict[Key, None] = {}

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        for expert in experts:
            key = layer, expert
            if key in self._held:
                del self._held[key]
                self._held[key] = None

    def add(self, key: Key) -> None:
        self._held[key] = None

    def drop(self, key: Key) -> None:
        del self._held[key]

    def forget(self) -> None:
        self._held.clear()

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        return next((key for key in self._held if key not in kept), None)


class Frequency:
    """The least used goes, of those the longest unused; a use counts half after `half_life` more
    uses of anything (None: for ever, which is LFU)."""

    def __init__(self, half_life: float | None = None) -> None:
        assert half_life is None or half_life > 0
        self._growth = 1.0 if half_life is None else 2.0 ** (1.0 / half_life)
        # a use now weighs more than one before: the same order, and no score changes with time
        self._weight = 1.0
        self._now = 0
        self._score: dict[Key, float] = {}
        self._last: dict[Key, int] = {}
        self._held: set[Key] = set()
        self._heap: list[tuple[float, int, Key]] = []

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        for expert in experts:
            self._touch((layer, expert))

    def _touch(self, key: Key) -> None:
        self._now += 1
        self._last[key] = self._now
        self._weight *= self._growth
        self._score[key] = self._score.get(key, 0.0) + self._weight
        if self._weight > _HEAVIEST:
            self._score = {old: score / self._weight for old, score in self._score.items()}
            self._weight = 1.0
            self._rebuild()
        elif key in self._held:
            self._push(key)

    def add(self, key: Key) -> None:
        self._held.add(key)
        self._push(key)

    def drop(self, key: Key) -> None:
        self._held.remove(key)

    def forget(self) -> None:
        self._held.clear()
        self._heap.clear()

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        aside, found = [], None
        while found is None and self._heap:
            entry = heappop(self._heap)
            # entries of keys that were used or let go since are stale
            if entry[2] in self._held and entry == self._entry(entry[2]):
                aside.append(entry)
                found = None if entry[2] in kept else entry[2]
        for entry in aside:
            heappush(self._heap, entry)
        return found

    def _entry(self, key: Key) -> tuple[float, int, Key]:
        return self._score.get(key, 0.0), self._last.get(key, 0), key

    def _push(self, key: Key) -> None:
        heappush(self._heap, self._entry(key))
        if len(self._heap) > 64 + 8 * len(self._held):
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [self._entry(key) for key in self._held]
        heapify(self._heap)


class PerLayer:
    """A policy for each layer, each with the same share of `capacity` keys: a layer that has its
    share gives up one of its own, another takes from the layer that has most."""

    def __init__(self, make: Callable[[], Policy], num_layers: int, capacity: int) -> None:
        self._make = make
        self._share = capacity / num_layers
        self._policies: dict[int, Policy] = {}
        self._counts: dict[int, int] = {}

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        self._of(layer).touch(layer, experts)

    def add(self, key: Key) -> None:
        self._of(key[0]).add(key)
        self._counts[key[0]] += 1

    def drop(self, key: Key) -> None:
        self._of(key[0]).drop(key)
        self._counts[key[0]] -= 1

    def forget(self) -> None:
        for layer, policy in self._policies.items():
            policy.forget()
            self._counts[layer] = 0

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        self._of(coming[0])
        fullest = sorted(self._counts, key=lambda layer: -self._counts[layer])
        if self._counts[coming[0]] >= self._share:
            fullest.insert(0, coming[0])
        found = (self._policies[layer].victim(coming, kept) for layer in fullest)
        return next((key for key in found if key is not None), None)

    def _of(self, layer: int) -> Policy:
        if layer not in self._policies:
            self._policies[layer], self._counts[layer] = self._make(), 0
        return self._policies[layer]


class Pinned:
    """Keys of a hot set stay once they were taken in, as long as anything else can go."""

    def __init__(self, hot: Collection[Key], rest: Policy) -> None:
        self._hot = frozenset(hot)
        self._held_hot: dict[Key, None] = {}
        self._rest = rest

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        self._rest.touch(layer, experts)

    def add(self, key: Key) -> None:
        if key in self._hot:
            self._held_hot[key] = None
        else:
            self._rest.add(key)

    def drop(self, key: Key) -> None:
        if key in self._hot:
            del self._held_hot[key]
        else:
            self._rest.drop(key)

    def forget(self) -> None:
        self._held_hot.clear()
        self._rest.forget()

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        found = self._rest.victim(coming, kept)
        if found is None:
            found = next((key for key in self._held_hot if key not in kept), None)
        return found
