"""A packed folder into memory: blobs are read straight into place, as the kernels want them."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.checkpoint.packed_layout import VECTORS
from expertly.checkpoint.packed_opening import PackedModel, open_packed
from expertly.checkpoint.recipe import layer_of
from expertly.config import ModelConfig
from expertly.families import parameters
from expertly.formats.packed import expert_key
from expertly.formats.packed_header import StoredBlob
from expertly.formats.packed_reader import Reader, reader, verify
from expertly.model.weights import NativeWeights, Place
from expertly.text import Tokenizer

Bytes = NDArray[np.uint8]


def load_packed(
    folder: Path, threads: int = 1, *, has_experts: bool = True
) -> tuple[ModelConfig, NativeWeights, Tokenizer | None]:
    """What a packed folder holds (`formats.packed.is_packed` tells one), every checksum compared;
    without its routed experts where somebody else reads those.

    Peak memory is the weights alone. Raises ConfigError for a config that is not understood,
    CheckpointError for files that are missing, damaged or not what the config asks for.
    """
    model = open_packed(folder)
    tokenizer = Tokenizer.open(folder) if (folder / "tokenizer.json").exists() else None
    slots = [slot for slot in _slots(model) if has_experts or slot.layer is None]
    with reader(model.files) as source:
        _fill(slots, source, threads)
    weights = NativeWeights()
    for slot in slots:
        _put(slot, model.config, weights)
    return model.config, weights, tokenizer


@dataclass(frozen=True)
class _Slot:
    """Where a blob goes: `offset` bytes into the buffer of its layer's experts, or of its own."""

    stored: StoredBlob
    group: list[Place]
    layer: int | None
    buffer: _native.Buffer
    offset: int

    def target(self) -> Bytes:
        return self.buffer.array()[self.offset : self.offset + self.stored.blob.padded_bytes]


def _slots(model: PackedModel) -> Iterator[_Slot]:
    def layer_of_experts(key: str) -> int | None:
        first = model.groups[key][0] if key != VECTORS else None
        return None if first is None or first.expert is None else layer_of(first.parameter)

    for layer, keys in groupby([VECTORS, *model.groups], key=layer_of_experts):
        own = list(keys)
        for together in [own] if layer is not None else [[key] for key in own]:
            stored = [model.files.blobs[key] for key in together]
            buffer = _native.Buffer(sum(one.blob.padded_bytes for one in stored))
            offset = 0
            for key, one in zip(together, stored, strict=True):
                yield _Slot(one, model.groups.get(key, []), layer, buffer, offset)
                offset += one.blob.padded_bytes


def _fill(slots: Iterable[_Slot], source: Reader, threads: int) -> None:
    def fill_one(slot: _Slot) -> None:
        target = slot.target()
        source.read_into(target, slot.stored)
        verify(slot.stored, target)

    with ThreadPoolExecutor(threads) as workers:
        for _ in workers.map(fill_one, slots):
            pass


def _put(slot: _Slot, config: ModelConfig, weights: NativeWeights) -> None:
    matrices = _matrices(slot.stored, slot.buffer, slot.offset)
    for place, matrix in zip(slot.group, matrices, strict=False):
        weights.matrices[place.parameter, place.expert] = matrix
    if slot.group:
        return
    shapes = parameters(config)
    for piece in slot.stored.blob.pieces:
        values = slot.target()[piece.offset : piece.offset + piece.num_bytes].view(np.float32)
        weights.vectors[piece.name] = values.reshape(shapes[piece.name])


def _matrices(stored: StoredBlob, buffer: _native.Buffer, offset: int) -> Iterator[_native.Matrix]:
    """The matrices of a blob that lies `offset` bytes into a buffer."""
    for piece in stored.blob.pieces:
        yield _native.Matrix.view(
            piece.format, piece.rows, piece.columns, buffer, offset + piece.offset
        )


class PackedExperts:
    """The experts of a packed folder one by one, each a single read into the caller's memory."""

    def __init__(self, model: PackedModel, source: Reader) -> None:
        self._blobs = model.files.blobs
        self._source = source

    def num_bytes(self, layer: int, expert: int) -> int:
        """What an expert takes: whole pages."""
        return self._blobs[expert_key(layer, expert)].blob.padded_bytes

    def read(self, layer: int, expert: int, target: Bytes, *, is_checked: bool = True) -> None:
        """Fill `target`, of the expert's `num_bytes`, from any thread. CheckpointError if the file
        changed, or (when it is to be checked) if its bytes are not those that were packed."""
        stored = self._blobs[expert_key(layer, expert)]
        self._source.read_into(target, stored)
        if is_checked:
            verify(stored, target)

    def matrices(
        self, layer: int, expert: int, buffer: _native.Buffer, offset: int
    ) -> list[_native.Matrix]:
        """Gate, up and down of an expert that was read to `offset` (whole pages) of a buffer."""
        return [*_matrices(self._blobs[expert_key(layer, expert)], buffer, offset)]


@contextmanager
def packed_experts(folder: Path) -> Iterator[PackedExperts]:
    """The experts of a folder, whose files are open until the block ends."""
    model = open_packed(folder)
    with reader(model.files) as source:
        yield PackedExperts(model, source)
