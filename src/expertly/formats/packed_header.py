"""The header of one shard: safetensors, and in it what each blob's bytes are.

Refused is whatever safetensors would refuse, and blobs that are not aligned to 4 KiB, do not touch
or do not fill the file, and matrices that are not inside their blob.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from expertly.formats.blocks import BLOCKS
from expertly.formats.packed_fields import Fields, error, items, parse, short, whole

PAGE = 4096
# what the kernels ask of a matrix's first byte
ALIGNMENT = 64
MAX_HEAD_BYTES = 1 << 24
METADATA = "__metadata__"
DOCUMENT = "expertly"

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)
_FORMAT = re.compile("|".join(BLOCKS))
_CHECKSUM = re.compile(r"[0-9a-f]{16}")
_U8 = re.compile("U8")
_MOST = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Piece:
    """One matrix in a blob (a vector is one row): `offset` counts from the blob's first byte."""

    name: str
    format: str
    rows: int
    columns: int
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Blob:
    """What is read at once: `num_bytes` of it mean something, the rest of its pages is zero."""

    key: str
    pieces: tuple[Piece, ...]
    num_bytes: int

    @property
    def padded_bytes(self) -> int:
        return self.num_bytes + -self.num_bytes % PAGE

    def piece(self, name: str) -> Piece:
        return next(piece for piece in self.pieces if piece.name == name)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob and where it lies: `offset` from the file's first byte, whole pages; `checksum` is
    the xxh3-64 of its `num_bytes`."""

    blob: Blob
    file: Path
    offset: int
    checksum: str


def check_head_size(file: Path, size: int, length: int) -> None:
    """`length`: what the first 8 bytes of a file of `size` bytes say."""
    if size < 8 or not 2 <= length <= min(size - 8, MAX_HEAD_BYTES):
        raise error(str(file), f"a header of {length} bytes is not in a file of {size}")
    if (8 + length) % PAGE:
        raise error(str(file), f"its data begin at byte {8 + length}, not at a page")


def parse_head(file: Path, size: int, head: bytes) -> dict[str, StoredBlob]:
    """The blobs of a shard of `size` bytes; `head` includes the 8 bytes of length."""
    check_head_size(file, size, len(head) - 8)
    document = parse(str(file), head[8:])
    if not isinstance(document, dict) or METADATA not in document:
        raise error(str(file), f"its header has no {METADATA}")
    about = _about(file, document.pop(METADATA))
    if about.keys() != document.keys():
        strange = sorted(about.keys() ^ document.keys())[0]
        raise error(str(file), f"the blob {short(strange)} is only half described")
    ranges = {key: _range(f"{file}, {key}", value) for key, value in document.items()}
    _check_ranges(file, ranges, size - len(head))
    return {
        key: _stored(file, key, about[key], len(head) + start, end - start)
        for key, (start, end) in sorted(ranges.items(), key=lambda item: item[1])
    }


def _about(file: Path, metadata: object) -> dict[str, object]:
    """What the document in the metadata says of each blob."""
    value = Fields(f"{file}, {METADATA}", metadata, DOCUMENT).value(DOCUMENT)
    where = f"{file}, {DOCUMENT}"
    if not isinstance(value, str):
        raise error(where, f"a text belongs here, not {short(value)}")
    blobs = parse(where, value)
    if not isinstance(blobs, dict):
        raise error(where, f"a JSON object belongs here, not {short(blobs)}")
    if strange := [key for key in blobs if not _KEY.fullmatch(key)]:
        raise error(where, f"{short(strange[0])} is no name of a blob")
    return blobs


def _range(where: str, value: object) -> tuple[int, int]:
    """First and last byte of a tensor of safetensors, counted from the header's end."""
    fields = Fields(where, value, "dtype", "shape", "data_offsets")
    fields.text("dtype", _U8)
    shape = [whole(where, n, 1, _MOST) for n in items(where, fields.value("shape"))]
    ends = [whole(where, n, 0, _MOST) for n in items(where, fields.value("data_offsets"))]
    if len(shape) != 1 or len(ends) != 2 or ends[1] - ends[0] != shape[0] or shape[0] % PAGE:
        raise error(where, f"bytes {short(ends)} of shape {short(shape)} are no whole pages")
    return ends[0], ends[1]


def _check_ranges(file: Path, ranges: dict[str, tuple[int, int]], num_bytes: int) -> None:
    at = 0
    for key, (start, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if start != at:
            raise error(str(file), f"the blob {key} begins at {start}, where {at} bytes are taken")
        at = end
    if at != num_bytes:
        raise error(str(file), f"its blobs take {at} bytes of {num_bytes}")


def _stored(file: Path, key: str, value: object, offset: int, num_bytes: int) -> StoredBlob:
    where = f"{file}, {key}"
    fields = Fields(where, value, "num_bytes", "checksum", "pieces")
    used = fields.whole("num_bytes", num_bytes - PAGE + 1, num_bytes)
    pieces = tuple(_piece(where, item) for item in fields.items("pieces"))
    _check_pieces(where, pieces, used)
    checksum = fields.text("checksum", _CHECKSUM)
    return StoredBlob(Blob(key, pieces, used), file, offset, checksum)


def _piece(where: str, value: object) -> Piece:
    fields = Fields(where, value, "name", "format", "rows", "columns", "offset", "num_bytes")
    piece = Piece(
        name=fields.text("name", _KEY),
        format=fields.text("format", _FORMAT),
        rows=fields.whole("rows", 1, _MOST),
        columns=fields.whole("columns", 1, _MOST),
        offset=fields.whole("offset", 0, _MOST),
        num_bytes=fields.whole("num_bytes", 1, _MOST),
    )
    # no format has fewer than 2 bits a weight: what is allocated for one is bounded by the file
    if piece.rows * piece.columns > 4 * piece.num_bytes:
        raise error(
            where, f"{piece.rows} x {piece.columns} weights are not in {piece.num_bytes} bytes"
        )
    return piece


def _check_pieces(where: str, pieces: tuple[Piece, ...], num_bytes: int) -> None:
    at = 0
    for piece in pieces:
        if piece.offset % ALIGNMENT or piece.offset < at:
            raise error(where, f"{piece.name} begins at {piece.offset}, unaligned or before {at}")
        at = piece.offset + piece.num_bytes
    if at != num_bytes:
        raise error(where, f"its matrices end at {at}, the blob at {num_bytes}")
    if len({piece.name for piece in pieces}) != len(pieces):
        raise error(where, "two of its matrices have one name")
