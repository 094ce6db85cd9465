"""Experts out of files: a read that fails or comes short is tried again, wrong bytes are read once
more, and what then is still wrong is one clear error."""

import mmap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from xxhash import xxh3_64_hexdigest

from expertly.errors import CheckpointError
from expertly.store.disk import PAGE, Disk
from expertly.store.policies import Key

# of a packed expert, at once
PART_BYTES = 1 << 20
# pauses before a failed read is tried again
_PAUSES_SECONDS = (0.01, 0.1)
_BROKEN = "check the disk (dmesg tells of failing ones), then copy the model again"


class Source(Protocol):
    """Where experts come from, each into one slot of the memory that it was given; any thread."""

    disk: Disk

    def parts(self, key: Key, slot: int) -> list[Callable[[], None]]:
        """Reads that together bring the expert, at the same time if may be, so that the last expert
        of a few is not left to one reader. They raise CheckpointError."""
        ...

    def read_bytes(self, key: Key) -> int:
        """What reading it takes from the disk."""
        ...

    def name_of(self, key: Key) -> str:
        """The expert, for whom it concerns."""
        ...


def name_of(key: Key) -> str:
    layer, expert = key
    return f"expert {expert} of layer {layer}"


@dataclass(frozen=True, slots=True)
class Extent:
    """`num_bytes` of a file, whole pages; `checksum` is the xxh3-64 of the first `used_bytes`."""

    file: Path
    offset: int
    num_bytes: int
    used_bytes: int
    checksum: str


class BlobSource:
    """One extent an expert, in the layout that it will be used in: one read, straight into its
    slot. `memory` begins at a page and is cut into slots of `slot_bytes`, whole pages."""

    def __init__(
        self, disk: Disk, extents: Mapping[Key, Extent], memory: memoryview, slot_bytes: int
    ) -> None:
        self.disk = disk
        self._extents = extents
        self._memory = memory
        self._slot_bytes = slot_bytes

    def read_bytes(self, key: Key) -> int:
        return self._extents[key].num_bytes

    def name_of(self, key: Key) -> str:
        return name_of(key)

    def parts(self, key: Key, slot: int) -> list[Callable[[], None]]:
        extent = self._extents[key]
        begin = slot * self._slot_bytes
        target = self._memory[begin : begin + extent.num_bytes]
        starts = range(0, extent.num_bytes, PART_BYTES)
        last = _Last(len(starts), partial(self._check, key, extent, target))
        return [partial(self._read, extent, target, start, last) for start in starts]

    def _read(self, extent: Extent, target: memoryview, start: int, last: "_Last") -> None:
        part = target[start : start + PART_BYTES]
        read_whole(self.disk, extent.file, part, extent.offset + start)
        last.is_done()

    def _check(self, key: Key, extent: Extent, target: memoryview) -> None:
        """What has come, once more if it is not what was packed."""
        for is_last in (False, True):
            found = xxh3_64_hexdigest(target[: extent.used_bytes])
            if found == extent.checksum:
                return
            if is_last:
                raise CheckpointError(
                    f"{extent.file}: {name_of(key)} is damaged: its checksum is {found}, "
                    f"{extent.checksum} was packed",
                    hint="copy the folder again, or pack the model again",
                )
            read_whole(self.disk, extent.file, target, extent.offset)


class _Last:
    """Does its work when all of `count` have been done, in the thread of the last of them."""

    def __init__(self, count: int, work: Callable[[], None]) -> None:
        self._left = count
        self._work = work
        self._lock = threading.Lock()

    def is_done(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._work()


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive bytes of a file, wherever they begin."""

    file: Path
    offset: int
    num_bytes: int


class SliceSource:
    """Some slices an expert, which `put(key, slot, index, bytes)` brings into the slot as the
    kernels want them; from whole pages that are read into room of each thread's own."""

    def __init__(
        self,
        disk: Disk,
        slices: Mapping[Key, tuple[Slice, ...]],
        put: Callable[[Key, int, int, memoryview], None],
    ) -> None:
        self.disk = disk
        self._slices = slices
        self._put = put
        self._rooms = threading.local()

    def read_bytes(self, key: Key) -> int:
        return sum(end - begin for begin, end in map(_pages, self._slices[key]))

    def name_of(self, key: Key) -> str:
        return name_of(key)

    def parts(self, key: Key, slot: int) -> list[Callable[[], None]]:
        slices = enumerate(self._slices[key])
        return [partial(self._read, key, slot, index, own) for index, own in slices]

    def _read(self, key: Key, slot: int, index: int, own: Slice) -> None:
        begin, end = _pages(own)
        room = self._room(end - begin)
        first = own.offset - begin
        # the file may end inside the last page
        read_whole(self.disk, own.file, room, begin, first + own.num_bytes)
        self._put(key, slot, index, room[first : first + own.num_bytes])

    def _room(self, num_bytes: int) -> memoryview:
        room: mmap.mmap | None = getattr(self._rooms, "room", None)
        if room is None or len(room) < num_bytes:
            # mapped memory begins at a page
            room = self._rooms.room = mmap.mmap(-1, num_bytes)
        return memoryview(room)[:num_bytes]


def _pages(own: Slice) -> tuple[int, int]:
    """Where the whole pages around a slice begin and end."""
    end = own.offset + own.num_bytes
    return own.offset // PAGE * PAGE, -(-end // PAGE) * PAGE


def read_whole(
    disk: Disk, file: Path, target: memoryview, offset: int, needed: int | None = None
) -> None:
    """Fill `target`, or its first `needed` bytes. Raises CheckpointError for what does not pass."""
    needed = len(target) if needed is None else needed
    what = "nothing was read"
    for pause in (0.0, *_PAUSES_SECONDS):
        time.sleep(pause)
        try:
            count = disk.read_at(file, target, offset)
        except OSError as problem:
            what = problem.strerror or str(problem)
            continue
        if count >= needed:
            return
        what = f"{count} bytes came of {needed}"
    raise CheckpointError(f"{file}: reading at byte {offset} failed: {what}", hint=_BROKEN)
