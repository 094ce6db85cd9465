"""A device's memory as the rung above RAM: which experts lie there, which are worth a copy, and
what came of it. Numbers alone: no tensors, no device, no clock.

What the processor spends on copies for later is held against what the device has saved so far and
a small allowance, so that however wrong the expectations are, little is lost.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace
from typing import Protocol

from expertly.store.policies import Key, Policy
from expertly.store.slots import Slots
from expertly.store.split import Costs, Job, Split, split

# of the time that the processor alone would take, what copies for later may take unearned
_ALLOWANCE = 0.005
# earned time is remembered up to so many copies' preparation
_MOST_CREDIT = 64
# turns of a layer over which a copy for later has to pay
_HORIZON_TURNS = 64
# a newcomer must be so much likelier to be chosen than who makes room for it
_LIKELIER = 1.1
# in a row; then the device is not asked again
MOST_FAILURES = 16


class Rated(Policy, Protocol):
    """A policy that also says how likely a layer's next turn uses an expert."""

    def chance(self, key: Key) -> float: ...


@dataclass
class LadderTally:
    """Uses are of experts, each once a turn; `failures` are those of copies and of answers."""

    on_device: int = 0
    on_host: int = 0
    copies: int = 0
    failures: int = 0


class Ladder:
    """Slots of a device. Times are seconds of one clock, told by the caller.

    The device does copies and answers in the order in which they are begun: so a slot may change
    hands as soon as what needs it was begun.
    """

    def __init__(self, num_slots: int, policy: Rated, most_failures: int = MOST_FAILURES) -> None:
        self.slots = Slots(num_slots)
        self.costs = Costs()
        self.tally = LadderTally()
        self._policy = policy
        self._most_failures = most_failures
        self._failures = 0
        # when copies that are under way will be there
        self._arrivals: dict[Key, float] = {}
        self._link_until = 0.0
        self._credit = 0.0

    @property
    def is_off(self) -> bool:
        """The device failed too often."""
        return self._failures >= self._most_failures

    def holds(self, key: Key) -> bool:
        return key in self.slots and not self.is_off

    def unmeasured(
        self, layer: int, rows: Mapping[int, int], in_memory: Collection[int]
    ) -> list[int]:
        """One expert for the processor to begin with, if nobody knows yet how quick it is."""
        if self.costs.host.is_known or self.is_off:
            return []
        here = [expert for expert in rows if expert in in_memory]
        if len(here) < 2:
            return []
        # of the ones that it is likelier to get, the one in the middle
        here.sort(key=lambda expert: ((layer, expert) in self.slots, rows[expert], expert))
        lacking = sum((layer, expert) not in self.slots for expert in here)
        return [here[(lacking or len(here)) // 2]]

    def plan(
        self, now: float, layer: int, rows: Mapping[int, int], in_memory: Collection[int]
    ) -> Split:
        """Who computes the experts that a layer chose, `rows` of each; those `in_memory` need no
        disk."""
        self._policy.touch(layer, rows)
        if self.is_off:
            return Split((), (), tuple(rows), self.costs.host.seconds(len(rows), _total(rows)))
        jobs = [
            Job(expert, count, self._arrival(now, (layer, expert)), expert in in_memory)
            for expert, count in rows.items()
        ]
        found = split(jobs, self.costs, self._link_until - now, len(jobs))
        return self._with_trials(layer, found, rows.keys() & in_memory)

    def _with_trials(self, layer: int, found: Split, in_memory: Collection[int]) -> Split:
        """One expert where nothing was computed for so long that nobody knows how quick it is."""
        here = [expert for expert in found.held if expert in in_memory]
        if here and not found.host and self.costs.host.is_stale:
            return replace(found, held=_without(found.held, here[-1]), host=(here[-1],))
        there = [expert for expert in found.host if (layer, expert) in self.slots]
        if there and not found.held and self.costs.device.is_stale:
            return replace(found, held=(there[0],), host=_without(found.host, there[0]))
        return found

    def wants(self, now: float, key: Key) -> bool:
        """Whether an expert that the processor has just computed is worth a copy for later."""
        stage, link = self.costs.stage.seconds(1, 0), self.costs.link.seconds(1, 0)
        if self.is_off or key in self.slots or self._link_until - now > link:
            return False
        if self._credit < stage:
            return False
        going = 0.0
        if not self.slots.num_free:
            victim = self._policy.victim(key, self._arrivals.keys())
            if victim is None:
                return False
            going = self._policy.chance(victim)
        coming = self._policy.chance(key)
        saved = _HORIZON_TURNS * (coming - going) * self._saving()
        return coming > _LIKELIER * going and saved > stage

    def take(self, key: Key, kept: Set[Key] = frozenset()) -> int | None:
        """A slot for a copy; None if there is none without giving up what is kept."""
        if not self.slots.num_free:
            victim = self._policy.victim(key, kept)
            if victim is None:
                return None
            self._let_go(victim)
        self._policy.add(key)
        return self.slots.take(key)

    def begun(self, now: float, key: Key, seconds: float, *, is_for_later: bool) -> None:
        """A copy was begun, its preparation took so long."""
        self.tally.copies += 1
        self.costs.stage.took(seconds, 1, 0)
        if is_for_later:
            self._credit -= seconds
        self._link_until = max(now, self._link_until) + self.costs.link.seconds(1, 0)
        self._arrivals[key] = self._link_until

    def arrived(self, now: float, key: Key, slot: int, seconds: float) -> None:
        """A copy was done, which took so long on the link."""
        self._failures = 0
        self.costs.link.took(seconds, 1, 0)
        if self._is_in(key, slot):
            self._arrivals.pop(key, None)
        if not self._arrivals:
            self._link_until = now

    def lost(self, slots: Mapping[Key, int]) -> None:
        """A copy or an answer failed: what lies in these slots is not known."""
        self.tally.failures += 1
        self._failures += 1
        for key, slot in slots.items():
            if self._is_in(key, slot):
                self._let_go(key)

    def answered(self) -> None:
        self._failures = 0

    def forget(self) -> None:
        """Nothing is held any more."""
        self.slots = Slots(self.slots.count)
        self._policy.forget()
        self._arrivals.clear()

    def end(self, rows: Mapping[int, int], spent: float) -> None:
        """A layer's turn is over, which took the processor so long, without copies for later and
        without the disk."""
        alone = self.costs.host.seconds(len(rows), _total(rows))
        most = _MOST_CREDIT * self.costs.stage.seconds(1, 0)
        self._credit = min(most, self._credit + (1.0 + _ALLOWANCE) * alone - spent)
        for pace in self.costs.all():
            pace.rest()

    def _saving(self) -> float:
        """What it spares the processor if the device has an expert, for one row."""
        costs = self.costs
        return costs.host.seconds(1, 1) - costs.launch.seconds(0, 1) - costs.device.seconds(1, 1)

    def _arrival(self, now: float, key: Key) -> float | None:
        if key not in self.slots:
            return None
        return max(0.0, self._arrivals.get(key, now) - now)

    def _is_in(self, key: Key, slot: int) -> bool:
        return key in self.slots and self.slots[key] == slot

    def _let_go(self, key: Key) -> None:
        self._policy.drop(key)
        self.slots.release(key)
        self._arrivals.pop(key, None)


def _without(experts: tuple[int, ...], one: int) -> tuple[int, ...]:
    return tuple(expert for expert in experts if expert != one)


def _total(rows: Mapping[int, int]) -> int:
    return sum(rows.values())
