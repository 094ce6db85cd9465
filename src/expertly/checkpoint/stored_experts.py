"""Where each of a model's experts lies in its files, and what opens them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expertly import _native
from expertly.checkpoint.gguf_loading import checked_tensors
from expertly.checkpoint.packed_opening import PackedModel
from expertly.checkpoint.recipe import layer_of
from expertly.config import ModelConfig
from expertly.errors import InputError
from expertly.families import parameters
from expertly.formats import gguf_reader, packed_reader
from expertly.formats.dequantise import dequantise
from expertly.formats.gguf import Gguf, GgufTensor
from expertly.formats.packed_header import StoredBlob
from expertly.model.allocate import blob_layout, blobs
from expertly.model.weights import Floats, Place, is_matrix, is_router, is_stack, places
from expertly.store import BlobSource, Disk, Extent, Slice, SliceSource, Source, Stamp
from expertly.store.policies import Key


@dataclass(frozen=True)
class Piece:
    """A matrix of an expert, and where it lies in a slot."""

    place: Place
    format: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class StoredExperts:
    """`pieces` are gate, up and down of each, in slots of `slot_bytes` or more; `source` opens
    them, to be read into memory that is cut into slots of the size that it is told. `router` reads
    the first router's weights, by which models of one shape are told apart."""

    pieces: Mapping[Key, tuple[Piece, ...]]
    slot_bytes: int
    stamps: Mapping[Path, Stamp]
    source: Callable[[Disk, _native.Buffer, int], Source]
    router: Callable[[], Floats]

    def matrices(self, key: Key, arena: _native.Buffer, slot: int) -> list[_native.Matrix]:
        return matrices_in(self.pieces[key], arena, slot * self.slot_bytes)


def matrices_in(
    pieces: tuple[Piece, ...], arena: _native.Buffer, begin: int
) -> list[_native.Matrix]:
    return [
        _native.Matrix.view(p.format, p.place.rows, p.place.columns, arena, begin + p.offset)
        for p in pieces
    ]


def experts_of_packed(folder: Path, model: PackedModel) -> StoredExperts:
    """Raises InputError for a model without experts."""
    stored = {
        (layer_of(group[0].parameter), group[0].expert): (model.files.blobs[key], group)
        for key, group in model.groups.items()
        if group[0].expert is not None
    }
    _check(folder, stored)
    pieces = {
        key: tuple(
            Piece(place, piece.format, piece.offset)
            for place, piece in zip(group, own.blob.pieces, strict=True)
        )
        for key, (own, group) in stored.items()
    }
    extents = {key: _extent(own) for key, (own, _) in stored.items()}
    return StoredExperts(
        pieces=pieces,
        slot_bytes=max(own.blob.padded_bytes for own, _ in stored.values()),
        stamps={file: Stamp(s.size, s.mtime_ns) for file, s in model.files.files.items()},
        source=lambda disk, arena, size: BlobSource(disk, extents, arena.array().data, size),
        router=lambda: _packed_router(model),
    )


def _packed_router(model: PackedModel) -> Floats:
    key = next(key for key, group in model.groups.items() if is_router(group[0].parameter))
    stored, [place] = model.files.blobs[key], model.groups[key]
    room = _native.Buffer(stored.blob.padded_bytes)
    with packed_reader.reader(model.files) as source:
        source.read_into(room.array(), stored)
    packed_reader.verify(stored, room.array())
    matrix = _native.Matrix.view("f32", place.rows, place.columns, room, 0)
    return matrix.unpack(0, place.rows)


def _extent(stored: StoredBlob) -> Extent:
    return Extent(
        file=stored.file,
        offset=stored.offset,
        num_bytes=stored.blob.padded_bytes,
        used_bytes=stored.blob.num_bytes,
        checksum=stored.checksum,
    )


def experts_of_gguf(path: Path, file: Gguf, config: ModelConfig) -> StoredExperts:
    """Blocks stay as the file has them; they are brought into the kernels' layout as they arrive.

    Raises InputError for a model without experts, CheckpointError for other tensors than its.
    """
    tensors = {
        part.parameter: file.tensors[stored.name]
        for stored in checked_tensors(file, config)
        for part in stored.parts
    }
    pieces, slot_bytes = _laid_out(config, tensors)
    _check(path, pieces)
    slices = {
        key: tuple(_slice(tensors[piece.place.parameter], piece.place) for piece in own)
        for key, own in pieces.items()
    }

    def source(disk: Disk, arena: _native.Buffer, size: int) -> Source:
        def put(key: Key, slot: int, index: int, data: memoryview) -> None:
            [matrix] = matrices_in(pieces[key][index : index + 1], arena, slot * size)
            matrix.pack(np.frombuffer(data, np.uint8))

        return SliceSource(disk, slices, put)

    return StoredExperts(
        pieces=pieces,
        slot_bytes=slot_bytes,
        stamps={name: Stamp(s.size, s.mtime_ns) for name, s in file.files.items()},
        source=source,
        router=lambda: _gguf_router(file, tensors),
    )


def _gguf_router(file: Gguf, tensors: Mapping[str, GgufTensor]) -> Floats:
    tensor = next(own for name, own in tensors.items() if is_router(name))
    with gguf_reader.reader(file) as source:
        return dequantise(tensor.block, source.read(tensor), tensor.shape).astype(np.float32)


def _laid_out(
    config: ModelConfig, tensors: Mapping[str, GgufTensor]
) -> tuple[dict[Key, tuple[Piece, ...]], int]:
    """Each expert's matrices in a slot, and what the largest takes."""
    stacks = [
        place
        for name, shape in parameters(config).items()
        if is_stack(name) and is_matrix(name)
        for place in places(name, shape)
    ]
    found, slot_bytes = {}, 0
    for blob in blobs(stacks):
        formats = {(p.parameter, p.expert): tensors[p.parameter].block.name for p in blob}
        offsets, size = blob_layout(formats, blob)
        expert = blob[0].expert
        assert expert is not None
        found[layer_of(blob[0].parameter), expert] = tuple(
            Piece(place, formats[place.parameter, place.expert], offset)
            for place, offset in zip(blob, offsets, strict=True)
        )
        slot_bytes = max(slot_bytes, size)
    return found, slot_bytes


def _slice(tensor: GgufTensor, place: Place) -> Slice:
    num_bytes = tensor.block.num_bytes_of((place.rows, place.columns))
    assert place.expert is not None
    return Slice(tensor.file, tensor.offset + place.expert * num_bytes, num_bytes)


def _check(path: Path, experts: Mapping[Key, object]) -> None:
    if not experts:
        raise InputError(
            f"{path} has no experts that could stay on the disk", hint="leave out the memory budget"
        )
