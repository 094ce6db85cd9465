"""GGUF files made byte by byte, so that any part of them can be wrong."""

import struct
from collections.abc import Sequence
from pathlib import Path

from expertly.formats.gguf import Gguf, Stamp, parse

U8, BOOL, STRING, ARRAY, U32, I32, F32 = 0, 7, 8, 9, 4, 5, 6
F32_TENSOR, Q4_0_TENSOR = 0, 2


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes, length: int | None = None) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data) if length is None else length) + data


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + u32(kind) + payload


def array(kind: int, count: int, payload: bytes = b"") -> bytes:
    return u32(kind) + u64(count) + payload


def tensor(
    name: str | bytes,
    dims: Sequence[int],
    kind: int = F32_TENSOR,
    offset: int = 0,
    num_dims: int | None = None,
) -> bytes:
    """`dims` fastest first, as in the file."""
    count = len(dims) if num_dims is None else num_dims
    return text(name) + u32(count) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = magic + u32(version)
    head += u64(len(tensors) if num_tensors is None else num_tensors)
    head += u64(len(keys) if num_keys is None else num_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def parsed(data: bytes, size: int | None = None) -> Gguf:
    """What the reader makes of these bytes, in a file of this size (by default theirs)."""
    stamp = Stamp(len(data) if size is None else size, 0)
    return parse(Path("made.gguf"), stamp, lambda offset, count: data[offset : offset + count])
