"""Matrices in kernel layout filled from rows of a file, a few megabytes at a time, by all cores."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertly import _native

Bytes = NDArray[np.uint8]
# rows first .. first + count in the matrix's format, as a file's blocks; the last argument is
# room for them that may be used
ReadRows = Callable[[int, int, Bytes], Bytes]

_TILE_ROWS = 16
_CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class Job:
    """One matrix and where its rows come from; `row_bytes` bytes each."""

    matrix: _native.Matrix
    read: ReadRows
    row_bytes: int

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows, whole tiles but for the last."""
        tiles = max(1, _CHUNK_BYTES // (self.row_bytes * _TILE_ROWS))
        step = tiles * _TILE_ROWS
        for first in range(0, self.matrix.rows, step):
            yield first, min(step, self.matrix.rows - first)


class _Rooms(threading.local):
    """One piece of room a thread, as fresh memory would cost more than the reading."""

    def __init__(self) -> None:
        self._room: Bytes = np.empty(_CHUNK_BYTES, np.uint8)

    def own(self, num_bytes: int) -> Bytes:
        if self._room.nbytes < num_bytes:
            self._room = np.empty(num_bytes, np.uint8)
        return self._room[:num_bytes]


def fill(jobs: Iterable[Job], threads: int) -> None:
    """Read and pack every matrix; the first error ends it."""
    rooms = _Rooms()

    def do(work: tuple[Job, int, int]) -> None:
        job, first, count = work
        job.matrix.pack(job.read(first, count, rooms.own(count * job.row_bytes)), first)

    with ThreadPoolExecutor(threads) as workers:
        for _ in workers.map(do, ((job, *chunk) for job in jobs for chunk in job.chunks())):
            pass
