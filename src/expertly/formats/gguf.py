"""Reads the head of GGUF files: metadata, and where each tensor lies. Versions 2 and 3.

Written against hostile files: every count, length, offset and product is held against the file's
size before it is used. Layout: the GGUF specification.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from expertly.errors import CheckpointError
from expertly.formats import gguf_splits
from expertly.formats.blocks import BY_ID, OTHER_TYPES, Block
from expertly.formats.gguf_cursor import Cursor, Fetch
from expertly.formats.gguf_values import TYPE_IDS, Metadata, Span, Value, Walk

ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
# more than any model has; they bound what names and tables of a small file can take
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 15

_VERSIONS = (2, 3)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies: `shape` is slowest first (rows, columns), `offset` from the file's
    first byte."""

    name: str
    block: Block
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    file: Path


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one that was read."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Gguf:
    """A file, or a set of split files as one: then `metadata` is the first file's, `size` all
    files' and `mtime_ns` the newest's."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]
    size: int
    mtime_ns: int
    files: Mapping[Path, Stamp]


def read(path: Path) -> Gguf:
    """The head of a GGUF file; of the whole set if it is one of `name-00001-of-00002.gguf`.

    Raises CheckpointError, with the file and the offset, for whatever is wrong with it.
    """
    first = _read_one(path)
    count = gguf_splits.count_of(path, first.metadata)
    if count == 1:
        return first
    files = gguf_splits.files_of(path, count)
    return joined(path, [first if file == path else _read_one(file) for file in files])


def joined(path: Path, parts: Sequence[Gguf]) -> Gguf:
    """Split files as one; CheckpointError unless they are one set, whole and in order."""
    tensors: dict[str, GgufTensor] = {}
    for index, part in enumerate(parts):
        gguf_splits.check_part(part.path, part.metadata, index, len(parts))
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise gguf_splits.in_two_files(name, tensors[name].file, part.path)
            tensors[name] = tensor
    gguf_splits.check_total(path, parts[0].metadata, len(tensors))
    stamps = {part.path: Stamp(part.size, part.mtime_ns) for part in parts}
    return Gguf(
        path=path,
        version=parts[0].version,
        alignment=parts[0].alignment,
        metadata=parts[0].metadata,
        tensors=tensors,
        size=sum(stamp.size for stamp in stamps.values()),
        mtime_ns=max(stamp.mtime_ns for stamp in stamps.values()),
        files=stamps,
    )


def _read_one(path: Path) -> Gguf:
    with opened(path) as (descriptor, stamp):

        def fetch(offset: int, count: int) -> bytes:
            try:
                return os.pread(descriptor, count, offset)
            except OSError as error:
                raise _unreadable(path, error) from None

        return parse(path, stamp, fetch)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, Stamp]]:
    """A regular file's descriptor and stamp; CheckpointError if there is none."""
    try:
        # a pipe must not make us wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a file", hint="give a .gguf file")
        yield descriptor, Stamp(status.st_size, status.st_mtime_ns)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    reason = error.strerror or str(error)
    return CheckpointError(f"{path} cannot be read: {reason}", hint="check the path and its rights")


def parse(path: Path, stamp: Stamp, fetch: Fetch) -> Gguf:
    """The head of one file whose bytes `fetch` gives; `path` names it in errors."""
    cursor = Cursor(str(path), stamp.size, fetch)
    version = _version(cursor)
    num_tensors, num_keys = cursor.u64(), cursor.u64()
    _check_count(cursor, "tensors", num_tensors, 8 + 1 + 4 + 4 + 8, MAX_TENSORS)
    _check_count(cursor, "keys", num_keys, 8 + 1 + 4 + 1, MAX_KEYS)
    metadata, alignment = _metadata(cursor, num_keys)
    tensors = _tensors(cursor, num_tensors, alignment, path)
    return Gguf(
        path=path,
        version=version,
        alignment=alignment,
        metadata=metadata,
        tensors=tensors,
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        files={path: stamp},
    )


def _version(cursor: Cursor) -> int:
    start = cursor.take(4)
    magic = bytes(cursor.data[start : start + 4])
    if magic != b"GGUF":
        raise cursor.error(f"this is no GGUF file: it begins with {magic!r}", 0)
    version = cursor.u32()
    if version in _VERSIONS:
        return version
    if 0 < int.from_bytes(version.to_bytes(4, "little"), "big") < 1 << 16:
        raise cursor.error("the file is big-endian", 4, "convert the model to little-endian")
    raise cursor.error(
        f"the file is of GGUF version {version}; known are 2 and 3",
        4,
        "convert the model again with a current tool",
    )


def _check_count(cursor: Cursor, what: str, count: int, least_bytes: int, most: int) -> None:
    cursor.check_room(what, count, least_bytes)
    if count > most:
        raise cursor.error(f"{count} {what} are announced; no model has more than {most}")


def _metadata(cursor: Cursor, num_keys: int) -> tuple[Metadata, int]:
    """All keys, and the alignment that they ask for."""
    values: dict[str, Value | Span] = {}
    walk = Walk(cursor)
    alignment = DEFAULT_ALIGNMENT
    for _ in range(num_keys):
        at = cursor.position
        key = cursor.identifier("a key")
        if key in values:
            raise cursor.error(f"the key {key!r} comes twice", at)
        kind = cursor.u32()
        values[key] = value = walk.value(kind, key)
        if key == ALIGNMENT_KEY:
            alignment = _alignment(cursor, kind, value)
    return Metadata(bytes(memoryview(cursor.data)[: cursor.position]), values), alignment


def _alignment(cursor: Cursor, kind: int, value: Value | Span) -> int:
    if kind != TYPE_IDS["u32"] or not isinstance(value, int):
        raise cursor.error(f"{ALIGNMENT_KEY} is of value type {kind}, not {TYPE_IDS['u32']}")
    if value.bit_count() != 1:
        raise cursor.error(f"{ALIGNMENT_KEY} is {value}, no power of two")
    return value


def _tensors(cursor: Cursor, num_tensors: int, alignment: int, path: Path) -> dict[str, GgufTensor]:
    found: dict[str, tuple[Block, tuple[int, ...], int]] = {}
    for _ in range(num_tensors):
        at = cursor.position
        name = cursor.identifier("a tensor's name")
        if name in found:
            raise cursor.error(f"the tensor {name!r} comes twice", at)
        shape = _shape(cursor, name)
        block = _block(cursor, name, shape)
        found[name] = block, shape, _offset(cursor, name, alignment)
    begin = -(-cursor.position // alignment) * alignment
    tensors = {
        name: GgufTensor(name, block, shape, begin + offset, block.num_bytes_of(shape), path)
        for name, (block, shape, offset) in found.items()
    }
    _check_places(cursor, tensors)
    return tensors


def _shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    at = cursor.position
    num_dims = cursor.u32()
    if num_dims > MAX_DIMS:
        raise cursor.error(f"the tensor {name!r} has {num_dims} dimensions", at)
    # fastest first in the file
    shape = tuple(cursor.u64() for _ in range(num_dims))[::-1]
    if 0 in shape:
        raise cursor.error(f"the tensor {name!r} of shape {list(shape)} is empty", at)
    return shape


def _block(cursor: Cursor, name: str, shape: tuple[int, ...]) -> Block:
    at = cursor.position
    kind = cursor.u32()
    if kind not in BY_ID:
        known = f"{kind} ({OTHER_TYPES[kind]})" if kind in OTHER_TYPES else str(kind)
        raise cursor.error(
            f"the tensor {name!r} is of type {known}",
            at,
            f"give a file with weights of the types {', '.join(b.name for b in BY_ID.values())}",
        )
    block = BY_ID[kind]
    columns = shape[-1] if shape else 1
    if columns % block.size:
        raise cursor.error(
            f"the tensor {name!r} has rows of {columns} weights, "
            f"which is no multiple of {block.size}, the block of {block.name}",
            at,
        )
    return block


def _offset(cursor: Cursor, name: str, alignment: int) -> int:
    at = cursor.position
    offset = cursor.u64()
    if offset % alignment:
        raise cursor.error(f"the offset {offset} of {name!r} is no multiple of {alignment}", at)
    return offset


def _check_places(cursor: Cursor, tensors: Mapping[str, GgufTensor]) -> None:
    """Every tensor lies inside the file and on no other."""
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for tensor in ordered:
        if tensor.offset + tensor.num_bytes > cursor.size:
            raise cursor.error(
                f"the tensor {tensor.name!r} of {tensor.num_bytes} bytes ends outside the file "
                f"of {cursor.size} bytes",
                tensor.offset,
            )
    for one, other in pairwise(ordered):
        if one.offset + one.num_bytes > other.offset:
            raise cursor.error(f"the tensors {one.name!r} and {other.name!r} overlap", other.offset)
