"""A packed folder's config and headers, held against each other before any weight is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expertly import _native
from expertly.checkpoint.packed_layout import VECTORS, blob_of, groups, piece_name, vector_blob
from expertly.checkpoint.recipe import Key
from expertly.checkpoint.shards import read_json
from expertly.config import ModelConfig
from expertly.errors import CheckpointError
from expertly.families import read_config
from expertly.formats import packed
from expertly.formats.packed import Packed
from expertly.formats.packed_header import Piece, StoredBlob
from expertly.model.weights import Place, is_router

_OTHER_MODEL = "config.json and weights belong to different models; pack the model again"
_LISTED = 5


@dataclass(frozen=True)
class PackedModel:
    """`groups`: the matrices of each blob but the vectors', by its key."""

    config: ModelConfig
    files: Packed
    groups: dict[str, list[Place]]


def open_packed(folder: Path) -> PackedModel:
    """Raises ConfigError for a config that is not understood, CheckpointError for files that are
    missing, damaged or not what the config asks for."""
    config = read_config(read_json(folder / "config.json"))
    files = packed.read(folder)
    found = groups(config)
    _check_keys(folder, {*found, VECTORS}, files.blobs.keys())
    vectors = files.blobs[VECTORS]
    _check_pieces(vectors, [(p.name, p.rows, p.columns) for p in vector_blob(config).pieces])
    if strange := [p.name for p in vectors.blob.pieces if p.format != "f32"]:
        raise _wrong(vectors, f"{strange[0]} is not float32")
    for key, group in found.items():
        _check_blob(files.blobs[key], group)
    return PackedModel(config, files, found)


def _wrong(stored: StoredBlob, what: str) -> CheckpointError:
    where = f"{stored.file.name}, {stored.blob.key}"
    return CheckpointError(f"{where}: {what}", hint=_OTHER_MODEL)


def _check_keys(folder: Path, wanted: Iterable[str], found: Iterable[str]) -> None:
    missing, left = sorted({*wanted} - {*found}), sorted({*found} - {*wanted})
    for what, keys in (("lacks", missing), ("holds, beside what its config asks for,", left)):
        if keys:
            more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
            raise CheckpointError(
                f"{folder} {what} {', '.join(keys[:_LISTED])}{more}", hint=_OTHER_MODEL
            )


def _check_pieces(stored: StoredBlob, wanted: Sequence[tuple[str, int, int]]) -> None:
    found = [(piece.name, piece.rows, piece.columns) for piece in stored.blob.pieces]
    if found != list(wanted):
        pairs = zip([*found, None], [*wanted, None], strict=False)
        one, other = next(pair for pair in pairs if pair[0] != pair[1])
        raise _wrong(stored, f"{_shown(one)} is where the config asks for {_shown(other)}")


def _shown(piece: tuple[str, int, int] | None) -> str:
    return "nothing" if piece is None else f"{piece[0]} of {piece[1]} x {piece[2]}"


def _check_blob(stored: StoredBlob, group: list[Place]) -> None:
    """Raises CheckpointError unless the blob is laid out as kernels read these matrices."""
    _check_pieces(stored, [(piece_name(p), p.rows, p.columns) for p in group])
    pieces = stored.blob.pieces
    for place, piece in zip(group, pieces, strict=True):
        _check_bytes(stored, piece)
        if is_router(place.parameter) and piece.format != "f32":
            raise _wrong(stored, f"{piece.name} is {piece.format}; routers are f32")
    formats: dict[Key, str] = {
        (place.parameter, place.expert): piece.format
        for place, piece in zip(group, pieces, strict=True)
    }
    if blob_of(stored.blob.key, group, formats).pieces != pieces:
        raise _wrong(stored, "its matrices do not follow one another")


def _check_bytes(stored: StoredBlob, piece: Piece) -> None:
    try:
        num_bytes = _native.layout_bytes(piece.format, piece.rows, piece.columns)
    except ValueError as problem:
        raise _wrong(stored, f"{piece.name} in {piece.format}: {problem}") from None
    if num_bytes != piece.num_bytes:
        raise _wrong(
            stored, f"{piece.name} in {piece.format} takes {num_bytes} bytes, not {piece.num_bytes}"
        )
