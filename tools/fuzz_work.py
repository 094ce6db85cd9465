"""Runs a check over mutants in processes of their own, with a watch over time and memory."""

import ctypes
import multiprocessing
import resource
import time
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawArray
from typing import Any, Protocol

SLOW_SECONDS = 1.0
# nothing heard for so long is a hang, on a machine that has other work too
STUCK_SECONDS = 10.0
EXTRA_BYTES = 16 << 20
# room for a worker beyond what it has when it starts
_ROOM_BYTES = 256 << 20
_MEASURED = 101

Check = Callable[[bytes], bool]


class Source(Protocol):
    def mutant(self, number: int) -> bytes: ...


@dataclass(frozen=True)
class Find:
    number: int
    what: str


@dataclass
class Result:
    mutants: int = 0
    accepted: int = 0
    slowest_seconds: float = 0.0
    finds: list[Find] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        self.mutants += other.mutants
        self.accepted += other.accepted
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.finds += other.finds


def fuzz(
    check: Check,
    source: Source,
    count: int,
    seconds: float,
    jobs: int,
    stuck_seconds: float = STUCK_SECONDS,
) -> Result:
    """Checks mutants 0 to `count`, or as many as `seconds` allow; each worker every jobs-th."""
    context = multiprocessing.get_context("fork")
    until = time.monotonic() + seconds
    total = Result()
    shares = [range(n, count, jobs) for n in range(min(jobs, count))]
    workers = [_Worker(context, check, source, share, until, stuck_seconds) for share in shares]
    while workers:
        time.sleep(0.05)
        for worker in workers:
            worker.watch(total)
        workers = [worker for worker in workers if not worker.is_done]
    return total


class _Worker:
    """One process at a time: where one dies, the next begins behind the mutant that killed it."""

    def __init__(
        self,
        context: Any,
        check: Check,
        source: Source,
        numbers: range,
        until: float,
        stuck_seconds: float,
    ) -> None:
        self._context = context
        self._stuck_seconds = stuck_seconds
        self._arguments = check, source, until
        self._numbers = numbers
        self.is_done = False
        self._start(0)

    def _start(self, begin: int) -> None:
        self._begin = begin
        # how many are checked, how many of them accepted
        self._counts = RawArray(ctypes.c_longlong, 2)
        self._seen, self._seen_at = 0, time.monotonic()
        self._pipe, theirs = self._context.Pipe(duplex=False)
        check, source, until = self._arguments
        self._process = self._context.Process(
            target=work, args=(check, source, self._numbers[begin:], until, self._counts, theirs)
        )
        self._process.start()
        theirs.close()

    def watch(self, total: Result) -> None:
        if self._pipe.poll():
            try:
                total.add(self._pipe.recv())
                self._process.join()
                self.is_done = True
                return
            except EOFError:
                self._process.join()
                self._bury(total, f"killed the process: exit code {self._process.exitcode}")
                return
        if self._counts[0] != self._seen:
            self._seen, self._seen_at = self._counts[0], time.monotonic()
        elif time.monotonic() - self._seen_at > self._stuck_seconds:
            self._process.kill()
            self._process.join()
            self._bury(total, f"no answer in {self._stuck_seconds} seconds")

    def _bury(self, total: Result, what: str) -> None:
        checked = self._counts[0]
        number = self._numbers[self._begin + checked]
        total.add(Result(checked + 1, self._counts[1], self._stuck_seconds, [Find(number, what)]))
        begin = self._begin + checked + 1
        if begin < len(self._numbers):
            self._start(begin)
        else:
            self.is_done = True


def work(
    check: Check, source: Source, numbers: range, until: float, counts: Any, pipe: Any
) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + _ROOM_BYTES, used + _ROOM_BYTES))
    pipe.send(checked(check, source, numbers, until, counts))


def checked(check: Check, source: Source, numbers: range, until: float, counts: Any) -> Result:
    """The finds among these mutants; `counts` keeps up with how far it is."""
    result = Result()
    for number in numbers:
        if result.mutants % 256 == 0 and time.monotonic() > until:
            break
        data = source.mutant(number)
        begun = time.process_time()
        try:
            is_measured = result.mutants % _MEASURED == 0
            result.accepted += measured(check, data) if is_measured else check(data)
        except BaseException as error:
            result.finds.append(Find(number, "".join(traceback.format_exception(error))))
        seconds = time.process_time() - begun
        if seconds > SLOW_SECONDS:
            result.finds.append(Find(number, f"took {seconds:.1f} seconds"))
        result.slowest_seconds = max(result.slowest_seconds, seconds)
        result.mutants += 1
        counts[0], counts[1] = result.mutants, result.accepted
    return result


def measured(check: Check, data: bytes) -> bool:
    """The check under a count of the memory that it takes."""
    tracemalloc.start()
    try:
        accepted = check(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 4 * len(data) + EXTRA_BYTES, f"{peak} bytes for a file of {len(data)}"
    return accepted
