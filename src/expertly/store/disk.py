"""Reads ranges of files past the page cache (O_DIRECT), and notices files that are not what they
were. Where a file system refuses direct reads, plain ones are used, which `is_direct` tells."""

import errno
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from expertly.errors import CheckpointError

# what direct reads ask of offsets, sizes and addresses
PAGE = 4096

_CHANGED = "load the model again, when nothing writes to its files"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one whose header was read."""

    size: int
    mtime_ns: int


class Disk(Protocol):
    """Reads from any thread. `is_direct`: past the page cache."""

    is_direct: bool

    @property
    def sizes(self) -> Mapping[Path, int]:
        """Bytes of each file that is read from."""
        ...

    def read_at(self, file: Path, target: memoryview, offset: int) -> int:
        """Bytes read to the beginning of `target`: fewer than it holds if the read came short.

        Raises OSError for a read that fails, CheckpointError for a file that changed.
        """
        ...

    def close(self) -> None: ...


class DirectDisk:
    """The files of `stamps`, open until it is closed."""

    def __init__(self, stamps: Mapping[Path, Stamp]) -> None:
        self._stamps = stamps
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[int, int]] = {}
        self._is_closed = False
        self.is_direct = True

    def read_at(self, file: Path, target: memoryview, offset: int) -> int:
        descriptor, inode = self._descriptor(file)
        try:
            count = os.preadv(descriptor, [target], offset)
        except OSError as problem:
            # refused by the file system, whatever the alignment
            if problem.errno != errno.EINVAL or not self._make_plain(descriptor):
                raise
            count = os.preadv(descriptor, [target], offset)
        self._check(file, descriptor, inode)
        return count

    @property
    def sizes(self) -> dict[Path, int]:
        return {file: stamp.size for file, stamp in self._stamps.items()}

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for descriptor, _ in self._open.values():
                os.close(descriptor)
            self._open.clear()

    def _descriptor(self, file: Path) -> tuple[int, int]:
        with self._lock:
            if file not in self._open:
                assert not self._is_closed
                self._open[file] = self._opened(file)
            return self._open[file]

    def _opened(self, file: Path) -> tuple[int, int]:
        plain = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(file, plain | getattr(os, "O_DIRECT", 0))
        except OSError as problem:
            if problem.errno != errno.EINVAL:
                raise
            descriptor, self.is_direct = os.open(file, plain), False
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise CheckpointError(f"{file}: this is not a file", hint=_CHANGED)
        return descriptor, status.st_ino

    def _make_plain(self, descriptor: int) -> bool:
        """Whether the descriptor read directly until now."""
        import fcntl

        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        direct = getattr(os, "O_DIRECT", 0)
        if not flags & direct:
            return False
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~direct)
        self.is_direct = False
        return True

    def _check(self, file: Path, descriptor: int, inode: int) -> None:
        stamp, status = self._stamps[file], os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            raise CheckpointError(
                f"{file}: the file changed while it was read: {stamp.size} bytes then, "
                f"{status.st_size} now",
                hint=_CHANGED,
            )
        try:
            is_same = os.stat(file).st_ino == inode
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise CheckpointError(
                f"{file}: another file stands in its place, or none", hint=_CHANGED
            )
