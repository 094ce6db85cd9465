"""A layer's experts on two machines at once: what a device holds is computed there, the rest on the
processor, as the ladder decides; whatever the device does not bring, the processor does."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np

from expertly.device.protocol import Answer, Copy, Device, Floats, HostExpert
from expertly.errors import ExpertlyError
from expertly.store import ExpertStore
from expertly.store.ladder import Ladder
from expertly.store.policies import Key

# of an expert that is tried before there is work
_TRIED_ROWS = (1, 64, 1, 64)
_FAILURES = (RuntimeError, MemoryError)


class Work(Protocol):
    """A layer's turn: rows that wait for their experts."""

    def rows_of(self, experts: Sequence[int]) -> Floats:
        """x_RD of these experts, one after another."""
        ...

    def put_rows(self, experts: Sequence[int], y_RD: Floats) -> None: ...

    def add(self, experts: Sequence[int]) -> None:
        """Compute these on the processor."""
        ...


class _Asked(NamedTuple):
    """An answer that is under way, and from which slots."""

    answer: Answer
    experts: tuple[int, ...]
    slots: tuple[int, ...]


class DeviceTier:
    """`host(layer, expert)` says where an expert lies in RAM: any at any time without a store, with
    one those that it has just given."""

    def __init__(
        self,
        device: Device,
        ladder: Ladder,
        host: Callable[[int, int], HostExpert],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device = device
        self.ladder = ladder
        self._host = host
        self._clock = clock
        # copies that are under way, in their order
        self._copies: list[tuple[Key, int, Copy]] = []
        # while slots change hands: an interrupt then leaves the books unfinished
        self._is_unsure = False

    @property
    def num_copying(self) -> int:
        return len(self._copies)

    def missing(self, layer: int, experts: Iterable[int]) -> list[int]:
        return [expert for expert in experts if not self.ladder.holds((layer, expert))]

    def fill(self, num_experts: Sequence[int], hidden_size: int, store: ExpertStore | None) -> None:
        """Free slots with experts of all layers alike, before anything is known of their use; then
        a try of how quick the device is."""
        order = [
            (layer, expert)
            for expert in range(max(num_experts))
            for layer, count in enumerate(num_experts)
            if expert < count
        ][: self.ladder.slots.num_free]
        for layer in range(len(num_experts)):
            mine = [expert for found, expert in order if found == layer]
            for group in _groups(store, layer, mine, None):
                for expert in group:
                    self._copy((layer, expert), is_for_later=False)
        self._settle(is_waiting=True)
        held = [key for key in order if self.ladder.holds(key)]
        # the first of all also prepares the device: it is not counted
        for count in (0, *_TRIED_ROWS) if held else ():
            self._try(held[0], count, hidden_size)

    def _try(self, key: Key, count: int, hidden_size: int) -> None:
        x_RD = np.zeros((max(1, count), hidden_size), np.float32)
        slots, begin, costs = (self.ladder.slots[key],), self._clock(), self.ladder.costs
        try:
            answer = self.device.compute(slots, [len(x_RD)], x_RD)
            launched = self._clock() - begin
            _, seconds = answer.wait()
        except _FAILURES:
            return
        if count:
            costs.launch.took(launched, 1, 1)
            costs.device.took(seconds, 1, count)

    def run(
        self,
        layer: int,
        rows: Mapping[int, int],
        work: Work,
        store: ExpertStore | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """All the experts that a layer chose, with so many rows each. Raises as the store."""
        with self._books():
            self._settle()
            self._run(layer, rows, work, store, meanwhile)

    def _run(
        self,
        layer: int,
        rows: Mapping[int, int],
        work: Work,
        store: ExpertStore | None,
        meanwhile: Callable[[], None] | None,
    ) -> None:
        experts, spent = list(rows), _Stopwatch(self._clock)
        in_memory = rows.keys() if store is None else _in_memory(store, layer, experts)
        # how quick the processor is decides over all others
        tried = self.ladder.unmeasured(layer, rows, in_memory)
        for group in _groups(store, layer, tried, None) if tried else ():
            with spent:
                self._compute(group, rows, work)
        left = {expert: count for expert, count in rows.items() if expert not in tried}
        split = self.ladder.plan(self._clock(), layer, left, in_memory)
        lost: list[int] = []
        with spent:
            asked = self._ask(layer, split.held, rows, work)
        if not asked:
            lost += split.held
        for group in _groups(store, layer, [*split.copied, *split.host], meanwhile):
            with spent:
                came = self._through(layer, [e for e in split.copied if e in group], rows, work)
                asked += came
                done = {expert for each in came for expert in each.experts}
                mine = [expert for expert in group if expert not in done]
                self._compute(mine, rows, work)
            self._for_later(layer, mine)
        with spent:
            for each in asked:
                lost += self._collect(layer, each, rows, work)
        self._again(layer, lost, rows, work, store, spent)
        self.ladder.end(rows, spent.seconds)

    @contextmanager
    def _books(self) -> Iterator[None]:
        """Whatever but our own errors leaves in between, the next turn begins with empty slots."""
        if self._is_unsure:
            self._settle(is_waiting=True)
            self.ladder.forget()
        self._is_unsure = True
        try:
            yield
        except ExpertlyError:
            self._is_unsure = False
            raise
        self._is_unsure = False

    def close(self) -> None:
        self.device.close()

    def _ask(
        self, layer: int, experts: Sequence[int], rows: Mapping[int, int], work: Work
    ) -> list[_Asked]:
        """Begin to compute experts that have slots; none if the device does not take them."""
        if not experts:
            return []
        slots = tuple(self.ladder.slots[layer, expert] for expert in experts)
        counts = [rows[expert] for expert in experts]
        begin = self._clock()
        try:
            answer = self.device.compute(slots, counts, work.rows_of(experts))
        except _FAILURES:
            self._lose(layer, experts, slots)
            return []
        self.ladder.costs.launch.took(self._clock() - begin, 1, len(experts))
        return [_Asked(answer, tuple(experts), slots)]

    def _through(
        self, layer: int, experts: Sequence[int], rows: Mapping[int, int], work: Work
    ) -> list[_Asked]:
        """Copy experts and have them computed, as many as go."""
        asked: list[_Asked] = []
        last: frozenset[Key] = frozenset()
        for expert in experts:
            # one is copied while the one before it is computed
            if self._copy((layer, expert), is_for_later=False, kept=last):
                asked += self._ask(layer, [expert], rows, work)
                last = frozenset({(layer, expert)})
        return asked

    def _copy(self, key: Key, *, is_for_later: bool, kept: frozenset[Key] = frozenset()) -> bool:
        slot = None if self.ladder.is_off else self.ladder.take(key, kept)
        if slot is None:
            return False
        begin = self._clock()
        try:
            copy = self.device.copy(slot, self._host(*key))
        except _FAILURES:
            self.ladder.lost({key: slot})
            return False
        now = self._clock()
        self.ladder.begun(now, key, now - begin, is_for_later=is_for_later)
        self._copies.append((key, slot, copy))
        return True

    def _for_later(self, layer: int, experts: Sequence[int]) -> None:
        for expert in experts:
            if self.ladder.wants(self._clock(), (layer, expert)):
                self._copy((layer, expert), is_for_later=True)

    def _compute(self, experts: Sequence[int], rows: Mapping[int, int], work: Work) -> None:
        if not experts:
            return
        begin = self._clock()
        work.add(experts)
        self.ladder.costs.host.took(
            self._clock() - begin, len(experts), sum(rows[e] for e in experts)
        )
        self.ladder.tally.on_host += len(experts)

    def _collect(
        self, layer: int, asked: _Asked, rows: Mapping[int, int], work: Work
    ) -> tuple[int, ...]:
        """An answer into its place; the experts that it did not bring."""
        try:
            y_RD, seconds = asked.answer.wait()
        except _FAILURES:
            self._lose(layer, asked.experts, asked.slots)
            return asked.experts
        work.put_rows(asked.experts, y_RD)
        count = len(asked.experts)
        self.ladder.costs.device.took(seconds, count, sum(rows[e] for e in asked.experts))
        self.ladder.tally.on_device += count
        self.ladder.answered()
        return ()

    def _again(
        self,
        layer: int,
        lost: Sequence[int],
        rows: Mapping[int, int],
        work: Work,
        store: ExpertStore | None,
        spent: "_Stopwatch",
    ) -> None:
        """What the device did not bring, on the processor."""
        if not lost:
            return
        for group in _groups(store, layer, lost, None):
            with spent:
                self._compute(group, rows, work)

    def _settle(self, *, is_waiting: bool = False) -> None:
        """Copies that are over."""
        while self._copies and (is_waiting or self._copies[0][2].is_done()):
            key, slot, copy = self._copies.pop(0)
            try:
                seconds = copy.wait()
            except _FAILURES:
                self.ladder.lost({key: slot})
                continue
            self.ladder.arrived(self._clock(), key, slot, seconds)

    def _lose(self, layer: int, experts: Sequence[int], slots: Sequence[int]) -> None:
        keys = [(layer, expert) for expert in experts]
        self.ladder.lost(dict(zip(keys, slots, strict=True)))


class _Stopwatch:
    """Seconds inside of its blocks, all together."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = self._clock()

    def __exit__(self, *problem: object) -> None:
        self.seconds += self._clock() - self._begin


def _in_memory(store: ExpertStore, layer: int, experts: Sequence[int]) -> set[int]:
    return {
        e for e, is_here in zip(experts, store.resident(layer, experts), strict=True) if is_here
    }


def _groups(
    store: ExpertStore | None,
    layer: int,
    experts: Sequence[int],
    meanwhile: Callable[[], None] | None,
) -> Iterator[list[int]]:
    """Experts as they are in memory: all at once without a store."""
    if store is not None:
        yield from store.get(layer, experts, meanwhile)
    elif experts:
        yield list(experts)
