"""What a store did: hits, bytes, and how long its caller waited."""

from dataclasses import dataclass, field

from expertly.store.replay import Visit

# turns that are remembered to be held against the best possible
MOST_VISITS = 100_000


@dataclass
class Tally:
    """Seconds are those of the caller; `visits` are the first of all turns."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    foreseen: int = 0  # hits that were read ahead of their use
    wasted: int = 0  # read ahead and not used when their layer came
    turns: int = 0
    turns_ahead: int = 0  # in which something could be read ahead
    stall_seconds: float = 0.0
    visits: list[Visit] = field(default_factory=list)

    def visit(self, layer: int, experts: tuple[int, ...]) -> None:
        self.turns += 1
        if len(self.visits) < MOST_VISITS:
            self.visits.append((layer, experts))
