"""The packed folder: weights in the kernels' own layout, one 4 KiB-aligned blob an expert.

Shards are valid safetensors whose tensors are bytes (U8); what the bytes are stands as one JSON
document in each header, and `expertly.json` names the shards. This module knows bytes, not models.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from expertly.errors import CheckpointError
from expertly.formats import packed_fields
from expertly.formats.packed_fields import AGAIN, Fields, error, items, short, whole
from expertly.formats.packed_header import StoredBlob, check_head_size, parse_head

MANIFEST = "expertly.json"
# changes with the kernels' layout of weights: older folders are packed again
LAYOUT = 2
MAX_MANIFEST_BYTES = 1 << 24

# bytes of a file: offset, count
Fetch = Callable[[int, int], bytes]

_SHARD_NAME = re.compile(r"packed-\d{5}\.safetensors", re.ASCII)
_CHECKSUM = re.compile(r"[0-9a-f]{16}")
_MOST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one that was read."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Shard:
    name: str
    num_bytes: int
    head_checksum: str  # xxh3-64 of the header, its 8 bytes of length too


@dataclass(frozen=True)
class Manifest:
    """`unreached`: (layer, expert) that no token of the calibration text chose."""

    bits: int
    shards: tuple[Shard, ...]
    unreached: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Packed:
    folder: Path
    manifest: Manifest
    blobs: Mapping[str, StoredBlob]
    files: Mapping[Path, Stamp]


def expert_key(layer: int, expert: int) -> str:
    return f"layers.{layer}.feed_forward.experts.{expert}"


def is_packed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read(folder: Path) -> Packed:
    """What the folder holds and where. Every size and offset is held against the files.

    Raises CheckpointError for a file that is missing, damaged, cut or of another layout.
    """
    manifest = parse_manifest(folder / MANIFEST, _read_manifest(folder / MANIFEST))
    blobs: dict[str, StoredBlob] = {}
    files: dict[Path, Stamp] = {}
    for shard in manifest.shards:
        file = folder / shard.name
        with opened(file) as (descriptor, stamp):
            files[file] = stamp
            found = _read_shard(file, shard, descriptor, stamp)
        for key in found:
            if key in blobs:
                raise error(str(file), f"the blob {key} is in {blobs[key].file.name} too")
        blobs |= found
    return Packed(folder=folder, manifest=manifest, blobs=blobs, files=files)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, Stamp]]:
    """A regular file's descriptor and stamp; CheckpointError if there is none."""
    try:
        # a pipe must not make us wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise unreadable(path, problem) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise error(str(path), "this is not a file")
        yield descriptor, Stamp(status.st_size, status.st_mtime_ns)
    finally:
        os.close(descriptor)


def unreadable(path: Path, problem: OSError) -> CheckpointError:
    return error(str(path), f"cannot be read: {problem.strerror or problem}")


def _read_manifest(path: Path) -> bytes:
    with opened(path) as (descriptor, stamp):
        if stamp.size > MAX_MANIFEST_BYTES:
            raise error(str(path), f"{stamp.size} bytes are more than {MAX_MANIFEST_BYTES}")
        return _fetcher(path, descriptor)(0, stamp.size)


def _fetcher(path: Path, descriptor: int) -> Fetch:
    def fetch(offset: int, count: int) -> bytes:
        try:
            return os.pread(descriptor, count, offset)
        except OSError as problem:
            raise unreadable(path, problem) from None

    return fetch


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """`expertly.json` from its bytes; an unknown layout is told apart from damage."""
    document = packed_fields.parse(str(path), data)
    layout = document.get("layout") if isinstance(document, dict) else None
    if type(layout) is int and layout != LAYOUT:
        hint = "pack the model again, or use the version of expertly that packed it"
        raise error(str(path), f"the folder is of layout {short(layout)}, known is {LAYOUT}", hint)
    fields = Fields(str(path), document, "layout", "bits", "shards", "unreached")
    fields.whole("layout", LAYOUT, LAYOUT)
    shards = tuple(_shard(f"{path}, shards", item) for item in fields.items("shards"))
    names = {shard.name for shard in shards}
    if not shards or len(names) != len(shards):
        raise error(str(path), f"{len(shards)} shards have {len(names)} names")
    pairs = [_pair(f"{path}, unreached", item) for item in fields.items("unreached")]
    return Manifest(bits=fields.whole("bits", 1, 32), shards=shards, unreached=tuple(pairs))


def _shard(where: str, value: object) -> Shard:
    fields = Fields(where, value, "name", "num_bytes", "head_checksum")
    return Shard(
        name=fields.text("name", _SHARD_NAME),
        num_bytes=fields.whole("num_bytes", 1, _MOST),
        head_checksum=fields.text("head_checksum", _CHECKSUM),
    )


def _pair(where: str, value: object) -> tuple[int, int]:
    numbers = [whole(where, number, 0, 1 << 20) for number in items(where, value)]
    if len(numbers) != 2:
        raise error(where, f"{short(value)} is no pair of layer and expert")
    return numbers[0], numbers[1]


def _read_shard(file: Path, shard: Shard, descriptor: int, stamp: Stamp) -> dict[str, StoredBlob]:
    if stamp.size != shard.num_bytes:
        raise error(str(file), f"{stamp.size} bytes, where {shard.num_bytes} were packed")
    head = read_head(file, stamp.size, _fetcher(file, descriptor))
    if xxh3_64_hexdigest(head) != shard.head_checksum:
        raise error(
            str(file), f"its header is damaged: it does not have the checksum of {MANIFEST}"
        )
    return parse_head(file, stamp.size, head)


def read_head(file: Path, size: int, fetch: Fetch) -> bytes:
    """The header of a shard of `size` bytes with its 8 bytes of length, checked to fit."""
    length = int.from_bytes(fetch(0, 8), "little")
    check_head_size(file, size, length)
    head = fetch(0, 8 + length)
    if len(head) != 8 + length:
        raise CheckpointError(f"{file}: the file ends inside its header", hint=AGAIN)
    return head
