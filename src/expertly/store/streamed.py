"""Experts that do not all fit into memory: an arena of slots, filled from files as they are asked
for."""

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Protocol

from expertly.errors import CheckpointError, ExpertlyError
from expertly.store.lookahead import Lookahead
from expertly.store.policies import Key, Policy
from expertly.store.readers import Done, Readers
from expertly.store.slots import Slots
from expertly.store.source import Source
from expertly.store.tally import Tally

# a disk that says nothing for so long is given up
PATIENCE_SECONDS = 9.0


class ExpertStore(Protocol):
    """Where experts' weights live."""

    tally: Tally

    def get(
        self, layer: int, experts: Sequence[int], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[list[int]]:
        """The experts in groups, each of them once, as they come: a group is in memory until the
        next one is asked for. `meanwhile` is called once, when the missing ones are being read.
        Raises CheckpointError for what cannot be read."""
        ...

    def resident(self, layer: int, experts: Sequence[int]) -> list[bool]:
        """Which of them are in memory now."""
        ...

    def looks_ahead(self) -> bool:
        """Whether `prefetch` would read anything now."""
        ...

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """Read what is missing of these, where that displaces nothing that is needed sooner."""
        ...

    def close(self) -> None: ...


class Streamed:
    """An arena of `num_slots`, which the source fills. `place(layer, expert, slot)` is told where
    an expert will lie before it is read there. `is_looking_ahead` may be changed between layers.

    One thread asks; the readers only fill memory.
    """

    def __init__(
        self,
        source: Source,
        num_slots: int,
        policy: Policy,
        place: Callable[[int, int, int], None],
        *,
        num_readers: int = 8,
        patience_seconds: float = PATIENCE_SECONDS,
        is_looking_ahead: bool = True,
    ) -> None:
        self._source = source
        self.slots = Slots(num_slots)
        self._policy = policy
        self._place = place
        self.patience_seconds = patience_seconds
        self._num_readers = num_readers
        self._readers: Readers[Key] = Readers(num_readers)
        # reads of each that are not taken in yet
        self._loading: dict[Key, int] = {}
        # the first of each that is still being read
        self._errors: dict[Key, BaseException] = {}
        # read a second time, as what went wrong says nothing of the file
        self._again: set[Key] = set()
        # set while the books are being written: an interrupt then leaves them unfinished
        self._is_unsure = False
        self._ahead: set[Key] = set()
        # of the layer that is being computed
        self._needed: AbstractSet[Key] = frozenset()
        self.is_looking_ahead = is_looking_ahead
        self.lookahead = Lookahead()
        self.tally = Tally()

    @property
    def source(self) -> Source:
        return self._source

    @property
    def num_loading(self) -> int:
        """Experts that are being read."""
        return len(self._loading)

    def resident(self, layer: int, experts: Sequence[int]) -> list[bool]:
        keys = [(layer, expert) for expert in experts]
        return [key in self.slots and key not in self._loading for key in keys]

    def get(
        self, layer: int, experts: Sequence[int], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[list[int]]:
        left = dict.fromkeys((layer, expert) for expert in experts)
        with self._books():
            self._take_in(self._readers.done(), set())
            self._settle(layer, left)
            self.lookahead.visit(time.perf_counter(), layer)
            self._count(layer, left)
            self._start_missing(left)
            self._needed = left.keys()
        if meanwhile is not None:
            meanwhile()
        while left:
            with self._books():
                ready = self._some_of(left)
            yield [expert for _, expert in ready]
            for key in ready:
                del left[key]

    def looks_ahead(self) -> bool:
        return self.is_looking_ahead and self.lookahead.allowed() > 0

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """As many of these, in their order, as the disk has time for."""
        with self._books():
            self.tally.turns_ahead += 1
            self._take_in(self._readers.done(), self._needed)
            wanted = dict.fromkeys((layer, expert) for expert in experts)
            missing = [key for key in wanted if key not in self.slots]
            kept = wanted.keys() | self._needed
            for key in missing[: self.lookahead.allowed()]:
                if self._start(key, kept, is_ahead=True):
                    self._ahead.add(key)

    def close(self) -> None:
        """End the readers; what they read from stays open only for one that is stuck."""
        if self._readers.close():
            self._source.disk.close()

    @contextmanager
    def _books(self) -> Iterator[None]:
        """Whatever but our own errors leaves in between, the next caller begins anew."""
        if self._is_unsure:
            self._begin_anew()
        self._is_unsure = True
        try:
            yield
        except ExpertlyError:
            self._is_unsure = False
            raise
        self._is_unsure = False

    def _begin_anew(self) -> None:
        """An empty arena, after an interrupt while slots changed hands."""
        if not self._readers.close(self.patience_seconds):
            raise self._silent()
        self._readers = Readers(self._num_readers)
        self.slots = Slots(self.slots.count)
        self._needed, self.lookahead = frozenset(), Lookahead()
        self._policy.forget()
        for keys in (self._loading, self._errors, self._ahead, self._again):
            keys.clear()

    def _some_of(self, left: dict[Key, None]) -> list[Key]:
        """What is in memory of these, the reading of the others begun; at least one of them."""
        self._take_in(self._readers.done(), left.keys())
        while True:
            self._start_missing(left)
            ready = [key for key in left if key in self.slots and key not in self._loading]
            if ready:
                return ready
            self._await(left.keys())

    def _count(self, layer: int, wanted: dict[Key, None]) -> None:
        experts = tuple(expert for _, expert in wanted)
        self._policy.touch(layer, experts)
        self.tally.visit(layer, experts)
        hits = sum(key in self.slots for key in wanted)
        self.tally.hits += hits
        self.tally.misses += len(wanted) - hits

    def _settle(self, layer: int, wanted: dict[Key, None]) -> None:
        """What was read ahead for this layer: the right ones hurry, the others are given up."""
        for key in [key for key in self._ahead if key[0] == layer]:
            if key in wanted:
                self._ahead.remove(key)
                self.tally.foreseen += 1
                self.lookahead.used()
                if key in self._loading:
                    self._readers.hurry(key)
            else:
                self._give_up(key)

    def _give_up(self, key: Key) -> None:
        self._ahead.remove(key)
        self.tally.wasted += 1
        self.lookahead.wasted()
        if key in self._loading and self._readers.withdraw(key, self._loading[key]):
            del self._loading[key]
            self.lookahead.take_back()
            if not self._loading:
                self.lookahead.end(time.perf_counter())
            self._policy.drop(key)
            self.slots.release(key)

    def _start_missing(self, left: dict[Key, None]) -> None:
        for key in left:
            if key not in self.slots and not self._start(key, left.keys()):
                return

    def _start(self, key: Key, kept: AbstractSet[Key], *, is_ahead: bool = False) -> bool:
        """Begin to read an expert into a slot; False if none can be had now."""
        if not self.slots.num_free:
            victim = self._policy.victim(key, self._loading.keys() | kept)
            if victim is None:
                return False
            self._let_go(victim)
        slot = self.slots.take(key)
        self._policy.add(key)
        self._place(*key, slot)
        parts = self._source.parts(key, slot)
        self._loading[key] = len(parts)
        self.lookahead.begin(time.perf_counter(), is_ahead=is_ahead)
        for part in parts:
            self._readers.submit(key, part, can_wait=is_ahead)
        return True

    def _let_go(self, key: Key) -> None:
        self._policy.drop(key)
        self.slots.release(key)
        if key in self._ahead:
            self._give_up(key)

    def _take_in(self, done: Sequence[Done[Key]], needed: AbstractSet[Key]) -> None:
        """Raises for a needed expert that could not be read; others were only read ahead."""
        failed = None
        for key, part_error, at in done:
            if part_error is not None:
                self._errors.setdefault(key, part_error)
            self._loading[key] -= 1
            if self._loading[key]:
                continue
            del self._loading[key]
            if not self._loading:
                self.lookahead.end(at)
            error = self._errors.pop(key, None)
            self.tally.read_bytes += self._source.read_bytes(key)
            if error is None:
                self._again.discard(key)
                continue
            self._let_go(key)
            if key in needed and self._is_final(key, error):
                failed = _for_user(self._source.name_of(key), error)
        if failed is not None:
            raise failed

    def _await(self, needed: AbstractSet[Key]) -> None:
        """Wait until a read is done."""
        begin = time.perf_counter()
        done = self._readers.wait(self.patience_seconds)
        self.tally.stall_seconds += time.perf_counter() - begin
        if not done:
            raise self._silent()
        self._take_in(done, needed)

    def _is_final(self, key: Key, error: BaseException) -> bool:
        if isinstance(error, ExpertlyError) or key in self._again:
            self._again.discard(key)
            return True
        self._again.add(key)
        return False

    def _silent(self) -> CheckpointError:
        return CheckpointError(
            f"the disk has not answered for {self.patience_seconds:.1f} s",
            hint="check the disk, or copy the model to another one",
        )


def _for_user(name: str, error: BaseException) -> ExpertlyError:
    if isinstance(error, ExpertlyError):
        return error
    return CheckpointError(
        f"{name} could not be read: {error!r}",
        hint="run it again; if it happens again, check the disk",
    )
