"""How much is read ahead: what the disk has time for, by a clock of the test's own; and that the
store keeps to it."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.store import Streamed
from expertly.store.lookahead import Lookahead
from expertly.store.policies import Lru
from expertly.store.readers import Readers


def visits(look: Lookahead, count: int, seconds: float, busy: float, reads: int) -> None:
    """Layers that take `seconds`, in which the disk is busy for `busy` with `reads` experts."""
    now = 0.0
    for layer in range(count):
        look.visit(now, layer)
        for _ in range(reads):
            look.begin(now, is_ahead=False)
        look.end(now + busy)
        now += seconds
    look.visit(now, count)


def test_nothing_is_known_and_nothing_read_ahead_at_first() -> None:
    assert Lookahead().allowed() == 0


def test_a_disk_that_is_always_busy_has_no_time() -> None:
    look = Lookahead()
    visits(look, 20, seconds=1.0, busy=1.0, reads=4)
    assert look.allowed() == 0


def test_a_half_used_disk_has_time_for_as_much_again() -> None:
    look = Lookahead()
    visits(look, 40, seconds=2.0, busy=1.0, reads=4)
    assert look.read_seconds == pytest.approx(0.25, rel=0.1) and look.allowed() == 4


def test_time_that_reading_ahead_takes_is_still_time_to_spare() -> None:
    look = Lookahead()
    now = 0.0
    for layer in range(40):
        look.visit(now, layer)
        look.begin(now, is_ahead=False)
        look.begin(now, is_ahead=True)
        look.end(now + 1.0)
        now += 1.0
    look.visit(now, 40)
    assert look.allowed() == 1


def test_a_read_that_outlasts_a_layer_is_counted_in_both() -> None:
    look = Lookahead()
    look.visit(0.0, 0)
    look.begin(0.5, is_ahead=False)
    look.visit(1.0, 1)
    look.end(1.5)
    look.visit(2.0, 2)
    assert look.read_seconds == pytest.approx(0.5)
    assert look.spare_seconds == pytest.approx(0.5)


def test_forecasts_that_are_never_used_end_it_but_for_a_try_now_and_then() -> None:
    look = Lookahead()
    visits(look, 40, seconds=2.0, busy=1.0, reads=4)
    for _ in range(20):
        look.wasted()
    tries = []
    for turn in range(128):
        look.visit(100.0 + turn, turn)
        tries.append(look.allowed())
    assert sum(tries) == 2 and max(tries) == 1
    for _ in range(20):
        look.used()
    assert look.allowed() > 1


def test_a_pause_between_steps_is_no_time_to_spare() -> None:
    look = Lookahead()
    now = 0.0
    for _ in range(5):
        for layer in range(8):
            look.visit(now, layer)
            look.begin(now, is_ahead=False)
            look.end(now + 1.0)
            now += 1.0
        now += 600.0
    look.visit(now, 0)
    assert look.spare_seconds == 0.0 and look.read_seconds == pytest.approx(1.0)


def test_one_long_pause_within_a_step_does_not_open_the_gates() -> None:
    look = Lookahead()
    visits(look, 40, seconds=2.0, busy=1.0, reads=4)
    look.visit(80.0, 41)
    look.visit(10_000.0, 42)
    assert look.allowed() <= 6


def test_a_read_that_was_taken_back_is_not_counted() -> None:
    look = Lookahead()
    look.visit(0.0, 0)
    look.begin(0.0, is_ahead=False)
    look.begin(0.0, is_ahead=True)
    look.take_back()
    look.end(1.0)
    look.visit(1.0, 1)
    assert look.read_seconds == 1.0


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1), st.integers(0, 9)), max_size=30))
def test_it_never_allows_less_than_nothing_nor_learns_what_is_not_finite(layers) -> None:
    look, now = Lookahead(), 0.0
    for layer, (seconds, share, reads) in enumerate(layers):
        look.visit(now, layer)
        for read in range(reads):
            look.begin(now, is_ahead=read % 2 == 0)
        look.end(now + share * seconds)
        now += seconds
        assert look.allowed() >= 0 and 0.0 <= look.spare_seconds < 10.0


class Gate:
    """Work that is begun and does not end before it is opened."""

    def __init__(self) -> None:
        self.has_begun, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.has_begun.set()
        assert self.opened.wait(10.0)


def all_of(readers: Readers[str], count: int) -> list[str]:
    done: list[str] = []
    while len(done) < count:
        came = readers.wait(5.0)
        assert came
        done += [entry.tag for entry in came]
    return done


def test_what_hurries_overtakes_what_can_wait() -> None:
    readers: Readers[str] = Readers(1)
    gate = Gate()
    readers.submit("first", gate)
    for tag in ("a", "b", "b", "c"):
        readers.submit(tag, lambda: None, can_wait=True)
    readers.hurry("b")
    gate.opened.set()
    assert all_of(readers, 5) == ["first", "b", "b", "a", "c"]
    assert readers.close()


def test_what_has_begun_cannot_be_withdrawn_and_the_rest_is_forgotten() -> None:
    readers: Readers[str] = Readers(2)
    gate = Gate()
    for _ in range(2):
        readers.submit("begun", gate, can_wait=True)
    readers.submit("waits", lambda: None, can_wait=True)
    assert gate.has_begun.wait(5.0)
    assert not readers.withdraw("begun", 2) and readers.withdraw("waits", 1)
    gate.opened.set()
    assert all_of(readers, 2) == ["begun", "begun"] and not readers.done()
    assert readers.close()


def test_one_thread_is_always_left_for_what_cannot_wait() -> None:
    readers: Readers[str] = Readers(3)
    gates = [Gate() for _ in range(5)]
    for gate in gates:
        readers.submit("later", gate, can_wait=True)
    assert gates[0].has_begun.wait(5.0) and gates[1].has_begun.wait(5.0)
    readers.submit("now", lambda: None)
    assert all_of(readers, 1) == ["now"] and not gates[2].has_begun.is_set()
    for gate in gates:
        gate.opened.set()
    assert all_of(readers, 5) == ["later"] * 5
    assert readers.close()


def test_closed_readers_leave_undone_what_has_not_begun() -> None:
    readers: Readers[str] = Readers(1)
    gate, done = Gate(), []
    readers.submit("first", gate)
    readers.submit("second", lambda: done.append(1))
    assert gate.has_begun.wait(5.0)
    threading.Timer(0.05, gate.opened.set).start()
    assert readers.close(5.0) and not done


def test_what_can_wait_is_read_last() -> None:
    readers: Readers[str] = Readers(1)
    gate, order = threading.Event(), []
    readers.submit("first", gate.wait)
    for tag, can_wait in (("later", True), ("sooner", False), ("last", True)):
        readers.submit(tag, lambda tag=tag: order.append(tag), can_wait=can_wait)
    gate.set()
    done = []
    while len(done) < 4:
        done += readers.wait(5.0)
    assert order == ["sooner", "later", "last"]
    assert [entry.at for entry in done] == sorted(entry.at for entry in done)
    assert readers.close()


class Memory:
    """A source whose reads are remembered."""

    def __init__(self) -> None:
        self.disk = self
        self.read: list[tuple[int, int]] = []

    def parts(self, key, slot):
        return [lambda: self.read.append(key)]

    def read_bytes(self, key) -> int:
        return 1

    def close(self) -> None:
        pass


def store_of(num_slots: int, allowed: int, **more) -> tuple[Streamed, Memory]:
    source = Memory()
    store = Streamed(source, num_slots, Lru(), lambda *_: None, **more)
    store.lookahead.allowed = lambda: allowed
    return store, source


def finish(store: Streamed, layer: int, experts: list[int], meanwhile=None) -> None:
    for _ in store.get(layer, experts, meanwhile):
        pass


def test_a_prefetched_expert_is_found_in_memory_and_counted() -> None:
    store, source = store_of(8, allowed=2)
    finish(store, 0, [0, 1], lambda: store.prefetch(1, [5, 6, 7]))
    finish(store, 1, [5, 6, 7])
    assert source.read.count((1, 5)) == 1 and source.read.count((1, 6)) == 1
    assert (store.tally.foreseen, store.tally.misses, store.tally.hits) == (2, 3, 2)
    store.close()


def test_what_the_present_layer_needs_is_never_given_up_for_a_forecast() -> None:
    store, _ = store_of(2, allowed=2)
    seen = []
    for group in store.get(0, [0, 1], lambda: store.prefetch(1, [5, 6])):
        seen += group
    assert sorted(seen) == [0, 1] and store.tally.foreseen == 0
    store.close()


def test_a_forecast_that_is_pushed_out_is_counted_as_wasted() -> None:
    store, _ = store_of(3, allowed=1)
    finish(store, 0, [0, 1], lambda: store.prefetch(1, [5]))
    finish(store, 1, [7, 8, 9])
    assert (store.tally.foreseen, store.tally.wasted) == (0, 1)
    store.close()


def test_a_wrong_forecast_that_has_not_begun_is_never_read_and_its_slot_is_free() -> None:
    store, source = store_of(8, allowed=3, num_readers=1)
    gate = Gate()
    whole = source.parts
    source.parts = lambda key, slot: [gate] if key == (1, 5) else whole(key, slot)
    finish(store, 0, [0], lambda: store.prefetch(1, [5, 6, 7]))
    assert gate.has_begun.wait(5.0)
    threading.Timer(0.05, gate.opened.set).start()
    finish(store, 1, [6])
    assert (1, 7) not in source.read and (1, 6) in source.read
    assert (store.tally.foreseen, store.tally.wasted) == (1, 2)
    assert store.num_loading == 0 and store.slots.num_free == 8 - 3
    store.close()


def test_a_forecast_is_settled_when_its_layer_comes_and_not_twice() -> None:
    store, _ = store_of(8, allowed=2)
    finish(store, 0, [0], lambda: store.prefetch(1, [5, 6]))
    finish(store, 1, [5])
    assert (store.tally.foreseen, store.tally.wasted) == (1, 1)
    finish(store, 1, [6])
    assert (store.tally.foreseen, store.tally.wasted) == (1, 1)
    assert (store.tally.turns, store.tally.turns_ahead) == (3, 1)
    store.close()


def test_a_forecast_that_cannot_be_read_fails_nobody() -> None:
    store, source = store_of(8, allowed=1)
    whole = source.parts

    def parts(key, slot):
        if key == (1, 5):
            return [lambda: (_ for _ in ()).throw(OSError("broken"))]
        return whole(key, slot)

    source.parts = parts
    finish(store, 0, [0], lambda: store.prefetch(1, [5]))
    finish(store, 1, [6])
    source.parts = whole
    finish(store, 1, [5])
    assert store.slots.num_free == 8 - 3
    store.close()


def test_nothing_is_foreseen_where_it_was_not_asked_for() -> None:
    store, _ = store_of(8, allowed=2, is_looking_ahead=False)
    assert not store.looks_ahead()
    store.close()
