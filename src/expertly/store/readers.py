"""Threads that read: work goes in, `(tag, error or None)` comes out in the order it is done."""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Tag = TypeVar("Tag")

# how often a waiting caller looks whether all threads live
_LOOK_SECONDS = 0.25


class Done(NamedTuple, Generic[Tag]):
    tag: Tag
    error: BaseException | None
    at: float  # time.perf_counter()


@dataclass(frozen=True, order=True)
class _Work(Generic[Tag]):
    can_wait: bool
    number: int
    tag: Tag | None = field(compare=False)
    work: Callable[[], None] | None = field(compare=False)  # None: the thread is to end


class Readers(Generic[Tag]):
    """`count` threads. They end with the program, as one may be stuck in a read for ever."""

    def __init__(self, count: int) -> None:
        # what can wait comes after what cannot, else in the order that it came
        self._work: queue.PriorityQueue[_Work[Tag]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._done: queue.SimpleQueue[Done[Tag]] = queue.SimpleQueue()
        # what each thread is at
        self._at: dict[threading.Thread, Tag] = {}
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            self._start()

    def submit(self, tag: Tag, work: Callable[[], None], *, can_wait: bool = False) -> None:
        self._work.put(_Work(can_wait, next(self._numbers), tag, work))

    def done(self) -> list[Done[Tag]]:
        """All that came out since it was last asked for."""
        found = []
        while True:
            try:
                found.append(self._done.get_nowait())
            except queue.Empty:
                return found

    def wait(self, seconds: float) -> list[Done[Tag]]:
        """As `done`, but for something to come out; empty if nothing did in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                return [self._done.get(timeout=min(left, _LOOK_SECONDS)), *self.done()]
            except queue.Empty:
                self._replace_dead()
        return []

    def close(self, seconds: float = 1.0) -> bool:
        """Let the threads end; False if one was still at its work after `seconds`."""
        for _ in self._threads:
            self._work.put(_Work(True, next(self._numbers), None, None))
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="expert reader", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while (item := self._work.get()).work is not None:
            tag, work = item.tag, item.work
            assert tag is not None
            self._at[me] = tag
            error: BaseException | None = None
            try:
                work()
            except BaseException as problem:
                error = problem
            self._done.put(Done(tag, error, time.perf_counter()))
            del self._at[me]

    def _replace_dead(self) -> None:
        for thread in [t for t in self._threads if not t.is_alive()]:
            self._threads.remove(thread)
            self._start()
            if thread in self._at:
                died = OSError("its reader died")
                self._done.put(Done(self._at.pop(thread), died, time.perf_counter()))
