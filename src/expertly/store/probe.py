"""What a disk gives to reads like ours: past the page cache, an expert's bytes at a time, several
at once, in random places."""

import mmap
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

from expertly.errors import CheckpointError
from expertly.store.disk import PAGE, DirectDisk, Stamp
from expertly.store.readers import Readers

_NUM_READERS = 4
_SECONDS = 0.25
_PATIENCE_SECONDS = 30.0


class DiskProbe:
    """Reads of about `num_bytes`, whole pages, in `files` (sizes in bytes), for `seconds` each time
    it is asked."""

    def __init__(
        self,
        files: Mapping[Path, int],
        num_bytes: int,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._files = {file: size for file, size in files.items() if size >= PAGE}
        assert self._files
        self._num_bytes = max(PAGE, min(num_bytes, *self._files.values()) // PAGE * PAGE)
        self._seconds = seconds
        self._clock = clock
        self._random = random.Random(0)
        self._rates: list[float] = []

    @property
    def bytes_per_second(self) -> float:
        """The median of all that was measured."""
        return median(self._rates or [self.rate()])

    def rate(self) -> float:
        """Bytes a second, now. Raises CheckpointError or OSError for a disk that does not read."""
        disk = DirectDisk({file: _stamp(file) for file in self._files})
        readers: Readers[int] = Readers(_NUM_READERS)
        counts = [0] * _NUM_READERS
        began = self._clock()
        for index in range(_NUM_READERS):
            readers.submit(index, partial(self._read, disk, began + self._seconds, counts, index))
        try:
            self._await(readers)
        finally:
            if readers.close():
                disk.close()
        self._rates.append(sum(counts) / (self._clock() - began))
        return self._rates[-1]

    def _read(self, disk: DirectDisk, end: float, counts: list[int], index: int) -> None:
        room = memoryview(mmap.mmap(-1, self._num_bytes))
        while not counts[index] or self._clock() < end:
            counts[index] += disk.read_at(*self._place(room))

    def _place(self, room: memoryview) -> tuple[Path, memoryview, int]:
        file, size = self._random.choice([*self._files.items()])
        return file, room, self._random.randrange((size - len(room)) // PAGE + 1) * PAGE

    def _await(self, readers: Readers[int]) -> None:
        left = _NUM_READERS
        while left:
            found = readers.wait(_PATIENCE_SECONDS)
            left -= len(found)
            errors = [done.error for done in found if done.error is not None]
            if errors:
                raise errors[0]
            if not found:
                raise CheckpointError(
                    f"the disk has not answered for {_PATIENCE_SECONDS:.0f} s",
                    hint="check the disk, or copy the model to another one",
                )


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return Stamp(status.st_size, status.st_mtime_ns)
