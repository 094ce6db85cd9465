"""Threads that read: work goes in, `(tag, error or None)` comes out in the order it is done."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

Tag = TypeVar("Tag")

# how often a waiting caller looks whether all threads live
_LOOK_SECONDS = 0.25


class Done(NamedTuple, Generic[Tag]):
    tag: Tag
    error: BaseException | None
    at: float  # time.perf_counter()


@dataclass(frozen=True)
class _Work(Generic[Tag]):
    tag: Tag
    do: Callable[[], None]
    can_wait: bool


class Readers(Generic[Tag]):
    """`count` threads. They end with the program, as one may be stuck in a read for ever. What can
    wait is done after all that cannot, and never by all of them at once."""

    def __init__(self, count: int) -> None:
        self._most_patient = max(1, count - 1)
        self._turn = threading.Condition()
        self._urgent: deque[_Work[Tag]] = deque()
        self._patient: deque[_Work[Tag]] = deque()
        self._is_closed = False
        self._done: queue.SimpleQueue[Done[Tag]] = queue.SimpleQueue()
        # what each thread is at
        self._at: dict[threading.Thread, _Work[Tag]] = {}
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            self._start()

    def submit(self, tag: Tag, do: Callable[[], None], *, can_wait: bool = False) -> None:
        with self._turn:
            (self._patient if can_wait else self._urgent).append(_Work(tag, do, can_wait))
            self._turn.notify()

    def hurry(self, tag: Tag) -> None:
        """What is left of this can wait no longer."""
        with self._turn:
            for work in [work for work in self._patient if work.tag == tag]:
                self._patient.remove(work)
                self._urgent.append(replace(work, can_wait=False))
                self._turn.notify()

    def withdraw(self, tag: Tag, count: int) -> bool:
        """Forget all of the `count` works of this; False if one has begun."""
        with self._turn:
            found = [work for work in self._patient if work.tag == tag]
            if len(found) < count:
                return False
            for work in found:
                self._patient.remove(work)
        return True

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
        """Let the threads end, what has not begun undone; False if one was still at its work after
        `seconds`."""
        with self._turn:
            self._is_closed = True
            self._turn.notify_all()
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
        while (work := self._next(me)) is not None:
            error: BaseException | None = None
            try:
                work.do()
            except BaseException as problem:
                error = problem
            self._done.put(Done(work.tag, error, time.perf_counter()))
            del self._at[me]

    def _next(self, me: threading.Thread) -> _Work[Tag] | None:
        """The work that the thread is at from now on; None when it is to end."""
        with self._turn:
            while not self._is_closed:
                if self._urgent:
                    return self._at.setdefault(me, self._urgent.popleft())
                if self._patient and self._num_patient() < self._most_patient:
                    return self._at.setdefault(me, self._patient.popleft())
                self._turn.wait()
        return None

    def _num_patient(self) -> int:
        return sum(work.can_wait for work in list(self._at.values()))

    def _replace_dead(self) -> None:
        for thread in [t for t in self._threads if not t.is_alive()]:
            self._threads.remove(thread)
            self._start()
            if thread in self._at:
                died = OSError("its reader died")
                self._done.put(Done(self._at.pop(thread).tag, died, time.perf_counter()))
