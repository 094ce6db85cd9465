"""What a budget would bring: every policy replayed on a trace at several sizes of memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expertly.store.replay import Count, belady, policies, replay
from expertly.store.trace import About, Trace

DEFAULT_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Bytes a second: what the disk gives, and what computing reads from memory."""

    disk: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One size of memory. `bytes_per_token` and `tokens_per_second` are of the default policy, and
    of Belady's for `best_tokens_per_second`."""

    share: float
    expert_bytes: int
    capacity: int
    is_below_cliff: bool
    hit_rates: dict[str, float]
    bytes_per_token: float
    tokens_per_second: float
    best_tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def forecast(trace: Trace, rates: Rates, shares: Sequence[float] = DEFAULT_SHARES) -> list[Line]:
    """A line for each share of the experts that is in memory. A token takes its misses' bytes from
    the disk, then its experts' and the dense weights' from memory; nothing overlaps."""
    about = trace.about
    largest = max(about.expert_bytes)
    lines = []
    for share in shares:
        capacity = max(1, int(share * about.all_expert_bytes) // largest)
        counts = _counts(trace, capacity)
        ours, best = counts["expected"], counts["belady"]
        lines.append(
            Line(
                share=share,
                expert_bytes=capacity * largest,
                capacity=capacity,
                is_below_cliff=capacity * largest < about.working_set_bytes,
                hit_rates={name: count.hit_rate for name, count in counts.items()},
                bytes_per_token=_missed_bytes(trace, ours),
                tokens_per_second=1.0 / _seconds(trace, ours, rates),
                best_tokens_per_second=1.0 / _seconds(trace, best, rates),
            )
        )
    return lines


def _counts(trace: Trace, capacity: int) -> dict[str, Count]:
    made = policies(trace.about.num_experts, trace.about.num_chosen, capacity)
    found = {name: replay(trace.visits, make(), capacity) for name, make in made.items()}
    return {**found, "belady": belady(trace.visits, capacity)}


def _missed_bytes(trace: Trace, count: Count) -> float:
    return (1.0 - count.hit_rate) * used_bytes(trace) / max(1, trace.num_tokens)


def used_bytes(trace: Trace) -> int:
    return sum(len(experts) * trace.about.expert_bytes[layer] for layer, experts in trace.visits)


def _seconds(trace: Trace, count: Count, rates: Rates) -> float:
    """Of a token."""
    about: About = trace.about
    computed = about.dense_bytes + about.working_set_bytes
    return _missed_bytes(trace, count) / rates.disk + computed / rates.memory
