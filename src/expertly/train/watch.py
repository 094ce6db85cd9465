"""Says when a router starts to collapse; pure, from the readings that a run writes down."""

import math
from collections.abc import Callable, Sequence
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
    router_gradient: float | None = None  # its norm; None of a router without a matrix


def is_collapsing(reading: Reading) -> bool:
    few = len(reading.dead) > MAX_DEAD_SHARE * reading.num_experts
    return few or reading.load_entropy < MIN_LOAD_ENTROPY


def is_deaf(reading: Reading) -> bool:
    """Whether the router learns nothing: no gradient, or one that is no number."""
    gradient = reading.router_gradient
    return gradient is not None and (gradient == 0 or not math.isfinite(gradient))


def warnings(history: Sequence[Reading]) -> list[str]:
    """Warnings that the newest readings call for: a layer whose router has looked bad `PATIENCE`
    times in a row, one whose router learns nothing, experts that stay dead; each again every
    `REPEAT` readings while it lasts."""
    found = []
    for layer in sorted({reading.layer for reading in history}):
        own = [reading for reading in history if reading.layer == layer]
        for is_bad, describe in (
            (is_collapsing, _describe),
            (is_deaf, _describe_deaf),
            (_has_dying, _describe_dying),
        ):
            streak = _streak(own, is_bad)
            if streak == PATIENCE or (streak > PATIENCE and (streak - PATIENCE) % REPEAT == 0):
                found.append(describe(own[-streak:]))
    return found


def _streak(readings: Sequence[Reading], is_bad: Callable[[Reading], bool]) -> int:
    for length, reading in enumerate(reversed(readings)):
        if not is_bad(reading):
            return length
    return len(readings)


def _has_dying(reading: Reading) -> bool:
    """Some experts are dead, though not so many that the router is called collapsing."""
    return bool(reading.dead) and not is_collapsing(reading)


def _describe_dying(streak: Sequence[Reading]) -> str:
    always = set.intersection(*(set(reading.dead) for reading in streak))
    names = ", ".join(str(expert) for expert in sorted(always or streak[-1].dead)[:_LISTED])
    return (
        f"experts {names} of layer {streak[-1].layer} get under 1% of a fair share of rows since "
        f"step {streak[0].step}; raise [balance] weight or set [balance] revive_after"
    )


def _describe_deaf(streak: Sequence[Reading]) -> str:
    return (
        f"the router of layer {streak[-1].layer} learns nothing since step {streak[0].step}: the "
        f"norm of its gradient is {streak[-1].router_gradient}; with one expert a token its "
        "weight must not be divided by itself"
    )


def _describe(streak: Sequence[Reading]) -> str:
    reading, since = streak[-1], streak[0].step
    dead = ", ".join(str(expert) for expert in reading.dead[:_LISTED])
    more = f" and {len(reading.dead) - _LISTED} more" if len(reading.dead) > _LISTED else ""
    busiest = ", ".join(str(expert) for expert in reading.busiest)
    return (
        f"the router of layer {reading.layer} is collapsing since step {since}: load entropy "
        f"{reading.load_entropy:.2f} of 1, {len(reading.dead)} of {reading.num_experts} experts "
        f"dead ({dead or 'none'}{more}), most rows go to {busiest}; "
        "raise [balance] weight or lower [optimiser] peak_lr"
    )
