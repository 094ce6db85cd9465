"""Reads blobs out of a packed folder, with plain reads: a file that shrinks is an error."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from expertly.formats.packed import Packed, opened, unreadable
from expertly.formats.packed_fields import error
from expertly.formats.packed_header import StoredBlob

Bytes = NDArray[np.uint8]

_CHANGED = "load the model again, when nothing writes to its files"


def verify(stored: StoredBlob, data: Bytes) -> None:
    """CheckpointError unless the first `num_bytes` of the blob's bytes are those that were packed.

    Reads at memory speed, so that a caller may check what it has just read, or not.
    """
    assert data.flags.c_contiguous and data.dtype == np.uint8
    found = xxh3_64_hexdigest(data[: stored.blob.num_bytes].data)
    if len(data) < stored.blob.num_bytes or found != stored.checksum:
        raise error(
            str(stored.file),
            f"the blob {stored.blob.key} is damaged: its checksum is {found}, "
            f"{stored.checksum} was packed",
        )


class Reader:
    """Reads from several threads if need be; keeps the files that it opened open."""

    def __init__(self, packed: Packed, stack: ExitStack) -> None:
        self._packed = packed
        self._stack = stack
        self._lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}

    def read_into(self, target: Bytes, stored: StoredBlob) -> None:
        """Fills contiguous `target`, of the blob's `num_bytes` or `padded_bytes`.

        Raises CheckpointError if the file is not the one any more whose header was read.
        """
        blob = stored.blob
        assert target.flags.c_contiguous and target.dtype == np.uint8
        assert target.nbytes in (blob.num_bytes, blob.padded_bytes), (blob.key, target.nbytes)
        descriptor = self._descriptor(stored.file)
        left, offset = target.reshape(-1).data, stored.offset
        while left:
            try:
                count = os.preadv(descriptor, [left], offset)
            except OSError as problem:
                raise unreadable(stored.file, problem) from None
            if count == 0:
                raise error(str(stored.file), f"the file ends inside {blob.key}", _CHANGED)
            left, offset = left[count:], offset + count
        self._check_stamp(stored.file, descriptor)

    def read(self, stored: StoredBlob) -> Bytes:
        """The blob's `num_bytes`."""
        target = np.empty(stored.blob.num_bytes, np.uint8)
        self.read_into(target, stored)
        return target

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                descriptor, _ = self._stack.enter_context(opened(file))
                self._check_stamp(file, descriptor)
                self._descriptors[file] = descriptor
            return self._descriptors[file]

    def _check_stamp(self, file: Path, descriptor: int) -> None:
        status, stamp = os.fstat(descriptor), self._packed.files[file]
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            raise error(
                str(file),
                f"the file changed while it was read: {stamp.size} bytes then, "
                f"{status.st_size} now",
                _CHANGED,
            )


@contextmanager
def reader(packed: Packed) -> Iterator[Reader]:
    """A reader of the folder's blobs; its files are open until the block ends."""
    with ExitStack() as stack:
        yield Reader(packed, stack)
