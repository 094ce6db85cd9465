"""What a policy would have done on a recorded trace, and the best that anything could have done."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from expertly.store.expected import ExpectedUse
from expertly.store.policies import Frequency, Key, Lru, PerLayer, Policy

# a layer's turn and the experts that it used, each once
Visit = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Count:
    hits: int
    misses: int

    @property
    def hit_rate(self) -> float:
        uses = self.hits + self.misses
        return self.hits / uses if uses else 0.0


def replay(trace: Iterable[Visit], policy: Policy, capacity: int) -> Count:
    """Hits and misses with room for `capacity` experts, as the store works: the experts of one
    turn are all there at once, unless they are more than `capacity`; then they take turns."""
    held: set[Key] = set()
    hits = misses = 0
    for layer, experts in trace:
        policy.touch(layer, experts)
        kept = {(layer, expert) for expert in experts}
        missing = [key for key in kept if key not in held]
        hits, misses = hits + len(kept) - len(missing), misses + len(missing)
        for key in missing:
            if len(held) >= capacity:
                victim = policy.victim(key, kept) or policy.victim(key, ())
                assert victim is not None
                policy.drop(victim)
                held.remove(victim)
            policy.add(key)
            held.add(key)
    return Count(hits, misses)


def belady(
    trace: Sequence[Visit], capacity: int, *, may_bypass: bool = True, since: int = 0
) -> Count:
    """The fewest misses that any policy can have (Belady 1966): whatever is used again last goes,
    which may be the expert that has just come (`may_bypass`). Counted from turn `since` on."""
    before = sum(len(experts) for _, experts in trace[:since])
    uses = [(layer, expert) for layer, experts in trace for expert in experts]
    following = _next_uses(uses)
    held: dict[Key, float] = {}
    heap: list[tuple[float, Key]] = []
    hits = 0
    for use, (key, next_use) in enumerate(zip(uses, following, strict=True)):
        if key in held:
            hits += use >= before
        elif len(held) >= capacity:
            furthest = _furthest(heap, held)
            if may_bypass and -furthest[0] <= next_use:
                continue
            heappop(heap)
            del held[furthest[1]]
        held[key] = next_use
        heappush(heap, (-next_use, key))
    return Count(hits, len(uses) - before - hits)


def _furthest(heap: list[tuple[float, Key]], held: Mapping[Key, float]) -> tuple[float, Key]:
    while held.get(heap[0][1]) != -heap[0][0]:
        heappop(heap)
    return heap[0]


def _next_uses(uses: Sequence[Key]) -> list[float]:
    """When each use's key is used again."""
    following, seen = [inf] * len(uses), dict[Key, int]()
    for at in range(len(uses) - 1, -1, -1):
        following[at] = seen.get(uses[at], inf)
        seen[uses[at]] = at
    return following


def working_set(num_chosen: Iterable[int]) -> int:
    """Experts that one token uses: below it, what was used longest ago is always what comes next,
    and LRU hits nothing."""
    return sum(num_chosen)


def policies(
    num_experts: Sequence[int], num_chosen: Sequence[int], capacity: int
) -> dict[str, Callable[[], Policy]]:
    """All policies by their names, the one that the store uses first. Counts are of each layer."""
    token = working_set(num_chosen)
    num_layers = sum(count > 0 for count in num_experts)
    return {
        "expected": lambda: ExpectedUse(num_experts),
        "lru": Lru,
        "lfu": Frequency,
        "decayed": lambda: Frequency(half_life=64 * token),
        "per-layer": lambda: PerLayer(
            lambda: Frequency(half_life=64 * token / num_layers), num_layers, capacity
        ),
    }
