"""Who computes an expert when copies fail, devices die, disks are slow and users interrupt."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from device_fakes import Copied, Counted, RandomLadder, Troubled

from benchmarks.ladder import Clock, DeviceAlone, Machine, SimulatedDevice
from expertly.device import DeviceTier, HostExpert
from expertly.errors import CheckpointError
from expertly.store import ExpectedUse
from expertly.store.ladder import MOST_FAILURES, Ladder
from expertly.store.tally import Tally

COUNTS = [12, 0, 12]
MACHINE = Machine(num_slots=5)


def nowhere(layer: int, expert: int) -> HostExpert:
    return None  # type: ignore[return-value]


def tier_of(
    ladder: Ladder, fails: Callable[[], bool] = lambda: False, machine: Machine = MACHINE
) -> DeviceTier:
    clock = Clock()
    return DeviceTier(SimulatedDevice(machine, clock, fails), ladder, nowhere, clock)


def policy() -> ExpectedUse:
    return ExpectedUse(COUNTS)


def turn(tier: DeviceTier, layer: int, rows: dict[int, int]) -> Counted:
    work = Counted(rows)
    tier.run(layer, rows, work)
    assert work.here + work.there == Counter(list(rows)), "each expert once"
    return work


def random_rows(source: random.Random) -> dict[int, int]:
    experts = source.sample(range(12), source.randrange(9))
    return {expert: source.choice([1, 1, 7, 300]) for expert in experts}


class Shelf:
    """A store that gives experts two by two, of which some are in memory."""

    def __init__(self, here: Sequence[int] = ()) -> None:
        self.tally = Tally()
        self.asked: list[list[int]] = []
        self.problem: Exception | None = None
        self._here = here

    def get(
        self, layer: int, experts: Sequence[int], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[list[int]]:
        self.asked.append(list(experts))
        if meanwhile is not None:
            meanwhile()
        if self.problem is not None:
            raise self.problem
        for at in range(0, len(experts), 2):
            yield list(experts[at : at + 2])

    def resident(self, layer: int, experts: Sequence[int]) -> list[bool]:
        return [expert in self._here for expert in experts]

    def looks_ahead(self) -> bool:
        return False

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def test_the_arena_is_filled_from_all_layers_alike() -> None:
    tier = tier_of(Ladder(5, policy()))
    tier.fill(COUNTS, 1, None)
    held = [(n, e) for n in (0, 2) for e in range(12) if tier.ladder.holds((n, e))]
    assert held == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]
    assert tier.ladder.costs.device.is_known and tier.ladder.costs.launch.is_known
    assert tier.ladder.costs.link.is_known and tier.num_copying == 0


def test_an_arena_larger_than_the_model_holds_all_of_it() -> None:
    tier = tier_of(Ladder(30, policy()))
    tier.fill(COUNTS, 1, None)
    assert len(tier.ladder.slots) == 24


def test_what_is_held_is_computed_there_and_the_rest_here() -> None:
    tier = tier_of(Ladder(5, policy()))
    tier.fill(COUNTS, 1, None)
    # the processor is tried once before it is known
    turn(tier, 0, {7: 1})
    work = turn(tier, 0, {0: 1, 1: 1, 7: 1, 8: 1})
    assert set(work.there) == {0, 1} and set(work.here) == {7, 8}
    tally = tier.ladder.tally
    assert (tally.on_device, tally.on_host) == (2, 3)


def test_a_layer_that_chose_nothing_takes_nothing() -> None:
    tier = tier_of(Ladder(5, policy()))
    assert not turn(tier, 0, {}).here


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_requests_with_failing_copies_lose_no_slot_and_no_expert(seed: int) -> None:
    source = random.Random(seed)
    tier = tier_of(RandomLadder(5, policy(), seed), lambda: source.randrange(4) == 0)
    for _ in range(1000):
        turn(tier, source.choice([0, 2]), random_rows(source))
        slots = tier.ladder.slots
        keys = [(n, e) for n in (0, 2) for e in range(12) if (n, e) in slots]
        assert slots.num_free + len(keys) == 5
        assert len({slots[key] for key in keys}) == len(keys)
        assert tier.num_copying <= 60
    tally = tier.ladder.tally
    assert tally.failures > 50 and tally.on_device > 500 and tally.on_host > 500


@pytest.mark.parametrize("one_in", [3, 10, 50])
def test_calls_that_fail_at_once_lose_nothing_either(one_in: int) -> None:
    source = random.Random(one_in)
    clock = Clock()
    device = Troubled(SimulatedDevice(MACHINE, clock), source, one_in)
    tier = DeviceTier(device, RandomLadder(5, policy(), 1), nowhere, clock)
    for _ in range(1000):
        turn(tier, source.choice([0, 2]), random_rows(source))
        assert tier.ladder.slots.num_free + len(tier.ladder.slots) == 5
    assert tier.ladder.tally.failures > 5


def test_a_copy_that_fails_is_computed_here_in_the_same_turn() -> None:
    tier = tier_of(DeviceAlone(5, policy()), fails=lambda: True)
    work = turn(tier, 0, {1: 1, 2: 1})
    assert set(work.here) == {1, 2} and not work.there
    assert tier.ladder.slots.num_free == 5


def test_a_dead_device_is_left_alone_and_costs_nothing_more() -> None:
    tier = tier_of(DeviceAlone(5, policy()), fails=lambda: True)
    for _ in range(MOST_FAILURES):
        turn(tier, 0, {1: 1})
    assert tier.ladder.is_off
    failures = tier.ladder.tally.failures
    turn(tier, 0, {1: 1, 2: 1})
    assert tier.ladder.tally.failures == failures


def test_a_slot_is_used_again_in_the_turn_that_filled_it() -> None:
    tier = tier_of(DeviceAlone(2, policy()))
    work = turn(tier, 0, {expert: 4 for expert in range(9)})
    assert set(work.there) == set(range(9)) and len(tier.ladder.slots) == 2


def test_with_one_slot_only_one_of_a_turn_is_copied() -> None:
    tier = tier_of(DeviceAlone(1, policy()))
    work = turn(tier, 0, {expert: 4 for expert in range(5)})
    assert len(work.there) == 1 and len(work.here) == 4


def test_an_interrupt_empties_the_arena_before_the_next_turn() -> None:
    tier = tier_of(Ladder(5, policy()))
    tier.fill(COUNTS, 1, None)

    class Interrupted(Counted):
        def add(self, experts: Sequence[int]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tier.run(0, {0: 1, 9: 1}, Interrupted({0: 1, 9: 1}))
    work = turn(tier, 0, {0: 1, 9: 1})
    assert set(work.here) == {0, 9} and tier.ladder.slots.num_free >= 4


def test_an_error_of_the_store_is_told_and_leaves_the_arena_as_it_is() -> None:
    tier, shelf = tier_of(Ladder(5, policy())), Shelf()
    tier.fill(COUNTS, 1, None)
    shelf.problem = CheckpointError("expert 9 is damaged", hint="copy it again")
    with pytest.raises(CheckpointError, match="expert 9"):
        tier.run(0, {0: 1, 9: 1}, Counted({0: 1, 9: 1}), shelf)
    shelf.problem, work = None, Counted({0: 1, 9: 1})
    tier.run(0, {0: 1, 9: 1}, work, shelf)
    assert set(work.there) == {0} and set(work.here) == {9}


def test_a_store_is_asked_only_for_what_the_device_does_not_compute() -> None:
    tier, shelf, called = tier_of(Ladder(5, policy())), Shelf(), []
    tier.fill(COUNTS, 1, None)
    rows = dict.fromkeys([0, 1, 5, 6, 7], 1)
    work = Counted(rows)
    tier.run(0, rows, work, shelf, lambda: called.append(1))
    assert shelf.asked == [[5, 6, 7]] and called == [1]
    assert set(work.there) == {0, 1} and set(work.here) == {5, 6, 7}


def test_a_store_is_told_of_a_turn_in_which_it_has_nothing_to_bring() -> None:
    tier, shelf, called = tier_of(Ladder(5, policy())), Shelf(), []
    tier.fill(COUNTS, 1, None)
    tier.run(0, {0: 1}, Counted({0: 1}), shelf, lambda: called.append(1))
    assert shelf.asked == [[]] and called == [1]


def test_what_the_device_loses_is_asked_of_the_store_again() -> None:
    tier, shelf = tier_of(Ladder(5, policy()), lambda: lost.pop() if lost else False), Shelf()
    lost: list[bool] = []
    lost += [True]
    slot = tier.ladder.take((0, 3))
    assert slot == 0
    tier.device.copy(slot, nowhere(0, 3))
    work = Counted({3: 1, 4: 1})
    tier.run(0, {3: 1, 4: 1}, work, shelf)
    assert shelf.asked == [[4], [3]] and set(work.here) == {3, 4}
    assert not tier.ladder.holds((0, 3))


def test_the_arena_is_filled_through_a_store() -> None:
    tier, shelf = tier_of(Ladder(5, policy())), Shelf()
    tier.fill(COUNTS, 1, shelf)
    assert shelf.asked == [[0, 1, 2], [], [0, 1]] and len(tier.ladder.slots) == 5


def test_only_what_the_device_lacks_is_missing() -> None:
    tier = tier_of(Ladder(5, policy()))
    tier.fill(COUNTS, 1, None)
    assert tier.missing(0, [5, 0, 2, 9]) == [5, 9]


def test_copies_are_taken_in_as_they_end_not_before() -> None:
    class Slow(Copied):
        is_over = False

        def is_done(self) -> bool:
            return self.is_over

    class Device(SimulatedDevice):
        def copy(self, slot: int, expert: HostExpert) -> Slow:  # type: ignore[override]
            super().copy(slot, expert)
            return Slow(None)  # type: ignore[arg-type]

    clock = Clock()
    tier = DeviceTier(Device(MACHINE, clock), DeviceAlone(5, policy()), nowhere, clock)
    turn(tier, 0, {1: 1})
    turn(tier, 0, {2: 1})
    assert tier.num_copying == 2
    Slow.is_over = True
    turn(tier, 0, {1: 1})
    assert tier.num_copying == 0
