"""Writes GGUF files, version 3: whole or not at all, streamed tensor by tensor."""

import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from expertly.errors import OutputError
from expertly.formats.blocks import Block
from expertly.formats.gguf import ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_DIMS
from expertly.formats.gguf_values import ARRAY, STRUCTS, TYPE_IDS, Value

# name, format, shape slowest first, and what gives its bytes in pieces: bytes, arrays, views
Chunks = Callable[[], Iterable[Any]]
Tensor = tuple[str, Block, Sequence[int], Chunks]

_VERSION = 3
_HINT = "free some space or choose another place"


@dataclass(frozen=True)
class Typed:
    """A value, or a list of them, of this type of GGUF: u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool
    or str."""

    kind: str
    value: Value


def write(path: Path, metadata: Mapping[str, Value | Typed], tensors: Sequence[Tensor]) -> None:
    """Writes a file that appears under its name when it is complete and durable.

    Without a `Typed` a whole number is u32 (i32, u64 or i64 where it does not fit), one in a list
    i32, a float f32. Raises OutputError for a full disk and its like; nothing is left then.
    """
    alignment = _alignment(metadata)
    sizes = [block.num_bytes_of(shape) for _, block, shape, _ in tensors]
    steps = [size + -size % alignment for size in sizes]
    offsets = list(accumulate(steps, initial=0))
    header = _header(metadata, tensors, offsets)
    header += bytes(-len(header) % alignment)
    _check_space(path, len(header) + offsets[-1])
    with _whole(path) as file:
        _put(path, file, header)
        for tensor, size in zip(tensors, sizes, strict=True):
            _put_tensor(path, file, tensor, size)
            _put(path, file, bytes(-size % alignment))


def _alignment(metadata: Mapping[str, Value | Typed]) -> int:
    asked = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    value = asked.value if isinstance(asked, Typed) else asked
    assert isinstance(value, int) and value.bit_count() == 1, value
    return value


def _header(
    metadata: Mapping[str, Value | Typed], tensors: Sequence[Tensor], offsets: Sequence[int]
) -> bytes:
    names = [name for name, _, _, _ in tensors]
    assert len(set(names)) == len(names) and all(names) and all(metadata)
    parts = [b"GGUF", _number("u32", _VERSION)]
    parts += [_number("u64", len(tensors)), _number("u64", len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value if isinstance(value, Typed) else typed(value))]
    for (name, block, shape, _), offset in zip(tensors, offsets, strict=False):
        parts.append(_tensor(name, block, shape, offset))
    return b"".join(parts)


def typed(value: Value) -> Typed:
    """The value with the type that `write` gives it."""
    if isinstance(value, list):
        return Typed(_kind_of(value, ("i32", "u32", "i64", "u64")), value)
    return Typed(_kind_of([value], ("u32", "i32", "u64", "i64")), value)


def _kind_of(values: Sequence[Value], whole: Sequence[str]) -> str:
    kinds = {type(value) for value in values}
    assert len(kinds) == 1, f"no one type for a list of {kinds}"
    if kinds == {int}:
        bounds = [min(values), max(values)]
        return next(kind for kind in whole if all(_fits(bound, kind) for bound in bounds))
    return {bool: "bool", float: "f32", str: "str"}[kinds.pop()]


def _fits(value: Value, kind: str) -> bool:
    info = np.iinfo(STRUCTS[TYPE_IDS[kind]].format)
    return isinstance(value, int) and int(info.min) <= value <= int(info.max)


def _value(value: Typed) -> bytes:
    kind = TYPE_IDS[value.kind]
    if not isinstance(value.value, list):
        return _number("u32", kind) + _payload(kind, [value.value])
    head = [_number("u32", ARRAY), _number("u32", kind), _number("u64", len(value.value))]
    return b"".join([*head, _payload(kind, value.value)])


def _payload(kind: int, values: Sequence[Value]) -> bytes:
    if kind in STRUCTS:
        # not by numpy, which would let numbers wrap that do not fit
        return struct.pack(f"<{len(values)}{STRUCTS[kind].format[1:]}", *values)
    assert all(isinstance(value, str) for value in values)
    return b"".join(_string(str(value)) for value in values)


def _number(kind: str, value: int) -> bytes:
    return STRUCTS[TYPE_IDS[kind]].pack(value)


def _string(text: str) -> bytes:
    data = text.encode()
    return _number("u64", len(data)) + data


def _tensor(name: str, block: Block, shape: Sequence[int], offset: int) -> bytes:
    assert block.ggml_id is not None, f"{block.name} is no type of GGUF"
    assert len(shape) <= MAX_DIMS and 0 not in shape, (name, shape)
    assert (shape[-1] if shape else 1) % block.size == 0, (name, shape, block.name)
    dims = b"".join(_number("u64", size) for size in reversed(shape))
    head = _string(name) + _number("u32", len(shape)) + dims
    return head + _number("u32", block.ggml_id) + _number("u64", offset)


def _check_space(path: Path, num_bytes: int) -> None:
    with _writing(path):
        free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise OutputError(
            f"cannot write {path}: {num_bytes} bytes are needed, {free} are free", hint=_HINT
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns an operating system's refusal (disk full, read-only, no right) into OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}", hint=_HINT) from error


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its name at the end; it is gone if anything fails. Nobody
    else who writes `path` has it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    with _writing(path):
        file = part.open("xb", buffering=0)
    try:
        with file:
            yield file
            with _writing(path):
                os.fsync(file.fileno())
        with _writing(path):
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with _writing(path):
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_tensor(path: Path, file: IO[bytes], tensor: Tensor, size: int) -> None:
    name, _, _, chunks = tensor
    left = size
    for chunk in chunks():
        view = np.frombuffer(chunk, np.uint8).data
        left -= len(view)
        assert left >= 0, f"{name} has more than its {size} bytes"
        _put(path, file, view)
    assert left == 0, f"{name} lacks {left} of its {size} bytes"


def _put(path: Path, file: IO[bytes], data: bytes | memoryview) -> None:
    view = memoryview(data)
    with _writing(path):
        while view:
            # a raw file may take a part only
            view = view[file.write(view) :]
