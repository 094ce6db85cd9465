"""How fast tokens come."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Pace:
    """Made when the prompt is sent; `watch` counts and times what passes through it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._first = self._last = self._start
        self._count = 0

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self._last = self._clock()
            if self._count == 0:
                self._first = self._last
            self._count += 1
            yield item

    def summary(self) -> str:
        """Seconds to the first token, and the rate of those after it."""
        if self._count == 0:
            return "no tokens"
        seconds = self._last - self._first
        text = f"{self._count} token{'s' * (self._count > 1)}, "
        text += f"the first after {self._first - self._start:.2f} s"
        return text + (f", then {(self._count - 1) / seconds:.1f} tokens/s" if seconds else "")
