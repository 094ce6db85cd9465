"""The books of a device's memory: what is worth a copy, and that no slot is ever lost."""

import random

import pytest

from expertly.store import ExpectedUse
from expertly.store.ladder import MOST_FAILURES, Ladder
from expertly.store.report import ladder_report

COUNTS = [8, 8]


def ladder_of(num_slots: int = 4) -> Ladder:
    return Ladder(num_slots, ExpectedUse(COUNTS))


def measured(num_slots: int = 4, *, stage: float = 0.0) -> Ladder:
    """One whose processor takes 1 for an expert and a row, its device a tenth and a copy 2."""
    ladder = ladder_of(num_slots)
    ladder.costs.host.took(1.0, 1, 1)
    ladder.costs.device.took(0.1, 1, 1)
    ladder.costs.link.took(2.0, 1, 0)
    ladder.costs.stage.took(stage, 1, 0)
    return ladder


def copied(ladder: Ladder, *keys: tuple[int, int]) -> None:
    for key in keys:
        slot = ladder.take(key)
        assert slot is not None
        ladder.begun(0.0, key, 0.0, is_for_later=False)
        ladder.arrived(0.0, key, slot, 2.0)


def earn(ladder: Ladder, seconds: float) -> None:
    """A turn that took so much less than the processor alone would have."""
    rows = {e: 1 for e in range(8)}
    alone = ladder.costs.host.seconds(8, 8)
    ladder.end(rows, alone - seconds)


def test_what_the_device_holds_it_computes() -> None:
    ladder = measured()
    copied(ladder, (0, 3))
    found = ladder.plan(0.0, 0, {3: 1, 5: 1}, {3, 5})
    assert (found.held, found.host) == ((3,), (5,))
    assert ladder.holds((0, 3)) and not ladder.holds((1, 3))


def test_a_copy_under_way_is_waited_for_only_if_it_comes_soon() -> None:
    ladder = measured()
    assert ladder.take((0, 3)) is not None
    ladder.begun(10.0, (0, 3), 0.0, is_for_later=True)
    # it will be there at 12
    assert ladder.plan(10.0, 0, {3: 1}, {3}).host == (3,)
    assert ladder.plan(11.9, 0, {3: 1}, {3}).held == (3,)


def test_copies_come_one_after_another() -> None:
    ladder = measured()
    for expert in range(3):
        ladder.take((0, expert))
        ladder.begun(0.0, (0, expert), 0.0, is_for_later=False)
    # they are there at 2, 4 and 6
    found = ladder.plan(3.5, 0, {0: 1, 1: 1, 2: 1}, {0, 1, 2})
    assert (found.held, found.host) == ((0, 1), (2,))


def test_a_used_expert_is_wanted_where_there_is_room() -> None:
    ladder = measured()
    ladder.plan(0.0, 0, {3: 1}, {3})
    assert ladder.wants(0.0, (0, 3))
    copied(ladder, (0, 3))
    assert not ladder.wants(0.0, (0, 3))


def test_nothing_is_wanted_while_the_link_is_busy_for_longer_than_a_copy() -> None:
    ladder = measured()
    ladder.plan(0.0, 0, {3: 1}, {3})
    for expert in (0, 1):
        ladder.take((0, expert))
        ladder.begun(0.0, (0, expert), 0.0, is_for_later=False)
    assert not ladder.wants(0.0, (0, 3)) and ladder.wants(2.0, (0, 3))


def test_a_device_that_saves_nothing_is_given_nothing() -> None:
    ladder = measured()
    ladder.costs.launch.took(50.0, 1, 1)
    ladder.plan(0.0, 0, {3: 1}, {3})
    assert not ladder.wants(0.0, (0, 3))


def test_a_full_arena_takes_only_who_is_likelier_used_than_who_goes() -> None:
    ladder = measured(num_slots=1)
    copied(ladder, (0, 1))
    for _ in range(30):
        ladder.plan(0.0, 0, {1: 1, 2: 1}, {1, 2})
    assert not ladder.wants(0.0, (0, 2)), "as likely as the other"
    for _ in range(30):
        ladder.plan(0.0, 0, {2: 1}, {2})
    assert ladder.wants(0.0, (0, 2))
    assert ladder.take((0, 2)) is not None
    assert not ladder.holds((0, 1)) and ladder.holds((0, 2))


def test_preparation_is_paid_from_what_the_device_saved() -> None:
    ladder = measured(stage=3.0)
    ladder.plan(0.0, 0, {3: 1}, {3})
    assert not ladder.wants(0.0, (0, 3))
    earn(ladder, 2.9)
    assert not ladder.wants(0.0, (0, 3))
    earn(ladder, 0.2)
    assert ladder.wants(0.0, (0, 3))
    ladder.take((0, 3))
    ladder.begun(0.0, (0, 3), 3.0, is_for_later=True)
    ladder.plan(9.0, 0, {4: 1}, {4})
    assert not ladder.wants(9.0, (0, 4))


def test_a_device_that_saves_nothing_yet_may_be_given_a_two_hundredth_of_the_time() -> None:
    ladder = measured(stage=3.0)
    ladder.plan(0.0, 0, {3: 1}, {3})
    # 8 seconds a turn: 0.04 of them
    for _ in range(74):
        earn(ladder, 0.0)
    assert not ladder.wants(0.0, (0, 3))
    earn(ladder, 0.0)
    earn(ladder, 0.0)
    assert ladder.wants(0.0, (0, 3))


def test_losses_have_to_be_earned_again() -> None:
    ladder = measured(stage=1.0)
    ladder.plan(0.0, 0, {3: 1}, {3})
    earn(ladder, -5.0)
    earn(ladder, 5.0)
    assert not ladder.wants(0.0, (0, 3))
    earn(ladder, 2.0)
    assert ladder.wants(0.0, (0, 3))


def test_nobody_who_is_kept_makes_room() -> None:
    ladder = measured(num_slots=1)
    copied(ladder, (0, 1))
    assert ladder.take((0, 2), frozenset({(0, 1)})) is None
    assert ladder.holds((0, 1)) and ladder.take((0, 2)) == 0


def test_a_lost_slot_is_free_again_unless_somebody_else_has_it() -> None:
    ladder = measured(num_slots=2)
    copied(ladder, (0, 1), (0, 2))
    slot = ladder.slots[0, 1]
    ladder.lost({(0, 1): slot})
    assert ladder.slots.num_free == 1 and not ladder.holds((0, 1))
    copied(ladder, (0, 5))
    assert ladder.slots[0, 5] == slot
    ladder.lost({(0, 1): slot})
    assert ladder.holds((0, 5)) and ladder.tally.failures == 2


def test_a_device_that_fails_again_and_again_is_not_asked_any_more() -> None:
    ladder = measured()
    copied(ladder, (0, 1))
    for _ in range(MOST_FAILURES):
        ladder.lost({})
    assert ladder.is_off and not ladder.holds((0, 1))
    assert ladder.plan(0.0, 0, {1: 1, 2: 1}, {1, 2}).host == (1, 2)
    assert not ladder.wants(0.0, (0, 2))
    assert "not asked any more" in str(ladder_report(ladder, 10))


@pytest.mark.parametrize("success", ["answered", "arrived"])
def test_failures_between_which_something_goes_well_are_borne(success: str) -> None:
    ladder = measured()
    for _ in range(3 * MOST_FAILURES):
        ladder.lost({})
        if success == "answered":
            ladder.answered()
        else:
            ladder.arrived(0.0, (0, 1), 0, 1.0)
    assert not ladder.is_off


def test_the_processor_is_tried_when_nobody_knows_how_quick_it_is() -> None:
    ladder = ladder_of()
    ladder.costs.device.took(0.1, 1, 1)
    copied(ladder, (0, 1), (0, 2))
    assert ladder.plan(0.0, 0, {1: 1, 2: 1}, {1, 2}).host == (2,)
    # but not with an expert that a disk would have to bring
    assert ladder.plan(0.0, 0, {1: 1, 2: 1}, set()).host == ()


def test_the_processor_begins_with_one_expert_that_the_device_lacks() -> None:
    ladder = ladder_of()
    copied(ladder, (0, 1), (0, 2))
    rows = {1: 1, 2: 50, 3: 4, 4: 9, 5: 2}
    assert ladder.unmeasured(0, rows, rows.keys()) == [3]
    # of those that are in memory; all are held
    assert ladder.unmeasured(0, rows, {1, 2}) == [2]
    assert ladder.unmeasured(0, rows, {1}) == [] and ladder.unmeasured(0, {}, {}) == []
    ladder.costs.host.took(1.0, 1, 1)
    assert ladder.unmeasured(0, rows, rows.keys()) == []


def test_the_device_is_tried_when_it_was_not_for_long() -> None:
    ladder = ladder_of()
    ladder.costs.host.took(1.0, 1, 1)
    ladder.costs.device.took(9.0, 1, 1)
    copied(ladder, (0, 1))
    rows = {1: 1, 2: 1}
    assert ladder.plan(0.0, 0, rows, rows.keys()).held == ()
    for _ in range(256):
        ladder.end(rows, 0.0)
    assert ladder.plan(0.0, 0, rows, rows.keys()).held == (1,)


def test_after_forgetting_every_slot_is_free() -> None:
    ladder = measured()
    copied(ladder, (0, 1), (1, 2))
    ladder.forget()
    assert ladder.slots.num_free == 4 and not ladder.holds((0, 1))
    copied(ladder, (0, 1))


def test_the_report_counts_uses_copies_and_failures() -> None:
    ladder = measured()
    copied(ladder, (0, 1), (0, 2))
    ladder.tally.on_device, ladder.tally.on_host = 30, 10
    ladder.lost({(0, 2): ladder.slots[0, 2]})
    found = ladder_report(ladder, 4_000_000)
    assert (found.uses, found.device_share, found.num_held) == (40, 0.75, 1)
    assert str(found) == (
        "device: 1 experts in its memory; 75.0% of 40 uses computed there, 25.0% on the processor; "
        "8.0 MB copied, 1 failures"
    )


def test_without_uses_nothing_is_divided() -> None:
    assert ladder_report(ladder_of(), 1).device_share == 0.0


def test_no_slot_is_both_free_and_taken_whatever_happens() -> None:
    source, ladder = random.Random(3), measured(num_slots=5)
    under_way: list[tuple[tuple[int, int], int]] = []
    for _ in range(3000):
        key = source.randrange(2), source.randrange(8)
        what = source.randrange(4)
        if what == 0 and key not in ladder.slots:
            slot = ladder.take(key, frozenset({(0, 0)}))
            if slot is not None:
                ladder.begun(0.0, key, 0.0, is_for_later=True)
                under_way.append((key, slot))
        elif what == 1 and under_way:
            ladder.arrived(0.0, *under_way.pop(0), 1.0)
        elif what == 2 and under_way:
            ladder.lost(dict([under_way.pop(0)]))
            ladder.answered()
        else:
            ladder.plan(0.0, key[0], {key[1]: 1}, {key[1]})
        held = [key for layer in (0, 1) for e in range(8) if (key := (layer, e)) in ladder.slots]
        assert len({ladder.slots[key] for key in held}) == len(held)
        assert ladder.slots.num_free + len(held) == 5
