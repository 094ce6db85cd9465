"""Reads tensors' bytes out of GGUF files, with plain reads: a file that shrinks is an error."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expertly.errors import CheckpointError
from expertly.formats.gguf import Gguf, GgufTensor, opened

Bytes = NDArray[np.uint8]


class Reader:
    """Reads from several threads if need be; keeps the files that it opened open."""

    def __init__(self, gguf: Gguf, stack: ExitStack) -> None:
        self._gguf = gguf
        self._stack = stack
        self._lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}

    def read_into(self, target: Bytes, tensor: GgufTensor, start: int = 0) -> None:
        """Fills contiguous `target` with the tensor's bytes from `start` on.

        Raises CheckpointError if the file is not the one any more whose head was read.
        """
        assert target.flags.c_contiguous and target.dtype == np.uint8
        assert start >= 0 and start + target.nbytes <= tensor.num_bytes, (start, target.nbytes)
        descriptor = self._descriptor(tensor.file)
        left, offset = target.reshape(-1).data, tensor.offset + start
        while left:
            try:
                count = os.preadv(descriptor, [left], offset)
            except OSError as error:
                reason = error.strerror or str(error)
                raise self._changed(tensor.file, f"cannot be read: {reason}") from None
            if count == 0:
                raise self._changed(tensor.file, f"ends inside the tensor {tensor.name!r}")
            left, offset = left[count:], offset + count
        self._check_stamp(tensor.file, descriptor)

    def read(self, tensor: GgufTensor, start: int = 0, num_bytes: int | None = None) -> Bytes:
        """The tensor's bytes, or so many of them from `start` on."""
        left = tensor.num_bytes - start
        target = np.empty(left if num_bytes is None else num_bytes, np.uint8)
        self.read_into(target, tensor, start)
        return target

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                descriptor, _ = self._stack.enter_context(opened(file))
                self._check_stamp(file, descriptor)
                self._descriptors[file] = descriptor
            return self._descriptors[file]

    def _check_stamp(self, file: Path, descriptor: int) -> None:
        status, stamp = os.fstat(descriptor), self._gguf.files[file]
        if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
            raise self._changed(
                file, f"changed while it was read: {stamp.size} bytes then, {status.st_size} now"
            )

    def _changed(self, file: Path, what: str) -> CheckpointError:
        return CheckpointError(
            f"{file} {what}", hint="load the model again, when nothing writes to its files"
        )


@contextmanager
def reader(gguf: Gguf) -> Iterator[Reader]:
    """A reader of these files' tensors; they are open until the block ends."""
    with ExitStack() as stack:
        yield Reader(gguf, stack)
