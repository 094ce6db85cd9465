"""The policy that is used: the expert goes whose next use is expected to be the furthest away.

Layers come round once a token, so an expert that a layer chooses with probability p is expected
1 / p tokens after the layer's last turn: Belady's rule with the future replaced by its expectation.
The layer that has just had its turn is the furthest away, so nothing breaks down where a token's
working set does not fit.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from expertly.store.policies import Key

# tokens after which a use counts half, one for each memory
HALF_LIVES = (16.0, 128.0, 1024.0)
# of an expert that nothing is known of: below all that was ever used
_LEAST = 1e-6


class ExpectedUse:
    """`num_experts` of each layer, 0 for a layer without any."""

    def __init__(
        self, num_experts: Sequence[int], half_lives: Sequence[float] = HALF_LIVES
    ) -> None:
        shape = len(num_experts), max(num_experts)
        self._num_layers = sum(count > 0 for count in num_experts)
        self._keep = 0.5 ** (1.0 / np.array(half_lives))[:, None]
        self._rates = np.zeros((shape[0], len(half_lives), shape[1]))
        self._turns = np.zeros(shape[0])
        self._next = np.full(shape, np.inf)
        self._is_held = np.zeros(shape, bool)
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
        self._next[layer] = self._now + self._num_layers / chance

    def add(self, key: Key) -> None:
        self._is_held[key] = True

    def drop(self, key: Key) -> None:
        self._is_held[key] = False

    def forget(self) -> None:
        self._is_held[:] = False

    def victim(self, coming: Key, kept: Collection[Key]) -> Key | None:
        waits = np.where(self._is_held, self._next, -np.inf)
        for key in kept:
            waits[key] = -np.inf
        layer, expert = divmod(int(waits.argmax()), waits.shape[1])
        return (layer, expert) if waits[layer, expert] > -np.inf else None
