"""The policy that is used: the expert goes whose next use is expected to be the furthest away.

Layers come round once a token, so an expert that a layer chooses with probability p is expected
1 / p tokens after the layer's last turn: Belady's rule with the future replaced by its expectation.
The layer that has just had its turn is the furthest away, so nothing breaks down where a token's
working set does not fit.

Where an expert has a lower copy too, the full one would serve all uses of both, and the lower one
serves none while the full one is held.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from expertly.store.policies import Key

# tokens after which a use counts half, one for each memory
HALF_LIVES = (16.0, 128.0, 1024.0)
# of an expert that nothing is known of: below all that was ever used
_LEAST = 1e-6


class ExpectedUse:
    """`num_experts` of each layer, 0 for a layer without any. `has_lower`: numbers from there on
    are their lower copies."""

    def __init__(
        self,
        num_experts: Sequence[int],
        half_lives: Sequence[float] = HALF_LIVES,
        *,
        has_lower: bool = False,
    ) -> None:
        shape = len(num_experts), max(num_experts) * (1 + has_lower)
        self._num_experts = num_experts
        self._has_lower = has_lower
        self._num_layers = sum(count > 0 for count in num_experts)
        self._keep = 0.5 ** (1.0 / np.array(half_lives))[:, None]
        self._rates = np.zeros((shape[0], len(half_lives), shape[1]))
        self._turns = np.zeros(shape[0])
        self._next = np.full(shape, np.inf)
        self._chance = np.zeros(shape)
        self._is_held = np.zeros(shape, bool)
        # lower copies of experts that are held
        self._is_covered = np.zeros(shape, bool)
        self._now = 0

    def touch(self, layer: int, experts: Iterable[int]) -> None:
        rates = self._rates[layer]
        rates *= self._keep
        rates[:, [*experts]] += 1.0 - self._keep
        self._turns[layer] += 1
        self._now += 1
        # a memory that has seen few turns is not full yet
        full = 1.0 - self._keep ** self._turns[layer]
        chance = (rates / full).mean(0) + _LEAST
        if self._has_lower:
            count = self._num_experts[layer]
            chance[:count] += chance[count : 2 * count]
        self._chance[layer] = chance
        self._next[layer] = self._now + self._num_layers / chance

    def chance(self, key: Key) -> float:
        """Of its use in a turn of its layer; 0 before the first turn."""
        return float(self._chance[key])

    def add(self, key: Key) -> None:
        self._hold(key, True)

    def drop(self, key: Key) -> None:
        self._hold(key, False)

    def _hold(self, key: Key, is_held: bool) -> None:
        self._is_held[key] = is_held
        layer, expert = key
        if self._has_lower and expert < self._num_experts[layer]:
            self._is_covered[layer, expert + self._num_experts[layer]] = is_held

    def forget(self) -> None:
        self._is_held[:] = self._is_covered[:] = False

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        waits = np.where(self._is_held, self._next, -np.inf)
        if self._has_lower:
            waits[self._is_held & self._is_covered] = np.inf
        for key in kept:
            waits[key] = -np.inf
        layer, expert = divmod(int(waits.argmax()), waits.shape[1])
        return (layer, expert) if waits[layer, expert] > -np.inf else None
