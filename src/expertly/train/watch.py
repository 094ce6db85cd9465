"""Says when a router starts to collapse; pure, from the readings that a run writes down."""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_LOAD_ENTROPY = 0.6  # 1 is an even load; 8 of 32 experts sharing everything have 0.6
MAX_DEAD_SHARE = 0.25
PATIENCE = 3  # readings in a row: one odd batch is no collapse
REPEAT = 10
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one step's rows say about one layer's router."""

    step: int
    layer: int
    num_experts: int
    load_entropy: float  # 0..1
    max_violation: float
    token_entropy: float  # nats
    dead: tuple[int, ...]
    busiest: tuple[int, ...]  # the experts with most rows, the most first


def is_collapsing(reading: Reading) -> bool:
    few = len(reading.dead) > MAX_DEAD_SHARE * reading.num_experts
    return few or reading.load_entropy < MIN_LOAD_ENTROPY


def warnings(history: Sequence[Reading]) -> list[str]:
    """Warnings that the newest readings call for: one a layer when its router has looked bad
    `PATIENCE` times in a row, and again every `REPEAT` readings while it stays so."""
    found = []
    for layer in sorted({reading.layer for reading in history}):
        own = [reading for reading in history if reading.layer == layer]
        streak = _streak(own)
        if streak == PATIENCE or (streak > PATIENCE and (streak - PATIENCE) % REPEAT == 0):
            found.append(_describe(own[-1], own[-streak].step))
    return found


def _streak(readings: Sequence[Reading]) -> int:
    for length, reading in enumerate(reversed(readings)):
        if not is_collapsing(reading):
            return length
    return len(readings)


def _describe(reading: Reading, since: int) -> str:
    dead = ", ".join(str(expert) for expert in reading.dead[:_LISTED])
    more = f" and {len(reading.dead) - _LISTED} more" if len(reading.dead) > _LISTED else ""
    busiest = ", ".join(str(expert) for expert in reading.busiest)
    return (
        f"the router of layer {reading.layer} is collapsing since step {since}: load entropy "
        f"{reading.load_entropy:.2f} of 1, {len(reading.dead)} of {reading.num_experts} experts "
        f"dead ({dead or 'none'}{more}), most rows go to {busiest}; "
        "raise [run] balance or lower [optimiser] peak_lr"
    )
