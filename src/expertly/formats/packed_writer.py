"""Writes a packed folder blob by blob: no more of the model is held than a piece of one blob."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_64, xxh3_64_hexdigest

from expertly.formats.packed import LAYOUT, MANIFEST, Manifest, Shard
from expertly.formats.packed_header import (
    ALIGNMENT,
    DOCUMENT,
    METADATA,
    PAGE,
    Blob,
    Piece,
    check_head_size,
)

# so many blobs a shard at most: their descriptions keep headers far below what readers take
_MAX_BLOBS = 1 << 13
_NO_CHECKSUM = "0" * 16


@dataclass(frozen=True, slots=True)
class Content:
    """A blob and what gives its `num_bytes` in pieces: bytes, arrays, views."""

    blob: Blob
    chunks: Callable[[], Iterable[Any]]


def laid_out(key: str, matrices: Sequence[tuple[str, str, int, int, int]]) -> Blob:
    """A blob of matrices (name, format, rows, columns, bytes in kernel layout), one after another,
    each where kernels want it."""
    pieces: list[Piece] = []
    at = 0
    for name, format_name, rows, columns, num_bytes in matrices:
        at += -at % ALIGNMENT
        pieces.append(Piece(name, format_name, rows, columns, at, num_bytes))
        at += num_bytes
    return Blob(key, tuple(pieces), at)


def write(
    folder: Path,
    config: Mapping[str, object],
    contents: Sequence[Content],
    *,
    bits: int,
    unreached: Sequence[tuple[int, int]] = (),
    max_shard_bytes: int = 4_000_000_000,
) -> Manifest:
    """config.json, the shards and last the manifest, into an existing folder that nobody reads yet.

    `config` is the model's as the hub has it; `bits` what most matrices have; `unreached` the
    (layer, expert) pairs without calibration. Tokenizer files are the caller's to add. A full disk
    is an OSError.
    """
    keys = [content.blob.key for content in contents]
    assert keys and len(set(keys)) == len(keys)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shards = [
        _write_shard(folder / f"packed-{index:05}.safetensors", shard)
        for index, shard in enumerate(_shards(contents, max_shard_bytes), start=1)
    ]
    manifest = Manifest(bits=bits, shards=tuple(shards), unreached=tuple(unreached))
    document = {"layout": LAYOUT, **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return manifest


def _shards(contents: Sequence[Content], max_bytes: int) -> Iterator[list[Content]]:
    shard: list[Content] = []
    size = 0
    for content in contents:
        num_bytes = content.blob.padded_bytes
        if shard and (size + num_bytes > max_bytes or len(shard) == _MAX_BLOBS):
            yield shard
            shard, size = [], 0
        shard.append(content)
        size += num_bytes
    yield shard


def _write_shard(file: Path, contents: Sequence[Content]) -> Shard:
    """The data first: their checksums go into a header whose length is known before."""
    blobs = [content.blob for content in contents]
    length = len(_head(blobs, [_NO_CHECKSUM] * len(blobs)))
    with file.open("xb") as stream:
        stream.seek(length)
        checksums = [_write_blob(stream, content) for content in contents]
        size = stream.tell()
        head = _head(blobs, checksums)
        assert len(head) == length
        check_head_size(file, size, length - 8)
        stream.seek(0)
        stream.write(head)
    return Shard(file.name, size, xxh3_64_hexdigest(head))


def _write_blob(stream: Any, content: Content) -> str:
    checksum = xxh3_64()
    size = 0
    for chunk in content.chunks():
        view = memoryview(chunk).cast("B")
        checksum.update(view)
        stream.write(view)
        size += len(view)
    assert size == content.blob.num_bytes, (content.blob.key, size)
    stream.write(bytes(-size % PAGE))
    return checksum.hexdigest()


def _head(blobs: Sequence[Blob], checksums: Sequence[str]) -> bytes:
    """Length and header, filled up with spaces so that the data begin at a page."""
    about = {
        blob.key: {
            "num_bytes": blob.num_bytes,
            "checksum": checksum,
            "pieces": [asdict(piece) for piece in blob.pieces],
        }
        for blob, checksum in zip(blobs, checksums, strict=True)
    }
    header: dict[str, object] = {METADATA: {DOCUMENT: _compact(about)}}
    at = 0
    for blob in blobs:
        end = at + blob.padded_bytes
        header[blob.key] = {"dtype": "U8", "shape": [end - at], "data_offsets": [at, end]}
        at = end
    text = _compact(header).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
