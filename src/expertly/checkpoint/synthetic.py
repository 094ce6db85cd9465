"""A packed folder of a real shape with random weights: for measuring what it takes to run a model
that nobody has to fetch.

One matrix of each kind is drawn and quantised; every other one of that kind has its rows in another
order, which in the kernels' layout is its tiles of 16 rows turned around: no two experts are the
same, and a folder takes as long as its disk does.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.checkpoint.packed_layout import (
    all_places,
    all_vectors,
    blob_of,
    groups,
    vector_blob,
)
from expertly.checkpoint.packed_saving import Progress, check_fit, counted
from expertly.checkpoint.recipe import BITS, Recipe, formats_of
from expertly.checkpoint.saving import whole_folder
from expertly.checkpoint.shards import read_json
from expertly.config import ModelConfig
from expertly.errors import OutputError
from expertly.formats.packed import is_packed
from expertly.formats.packed_header import Blob, Piece
from expertly.formats.packed_writer import Content, write
from expertly.model.native_layers import check_native

# says that the weights beside it are random, and how they were drawn
MARK = "synthetic.json"
_TILE_ROWS = 16
# float32 weights that are drawn at a time
_CHUNK_WEIGHTS = 4 << 20

Bytes = NDArray[np.uint8]
# whether it is an embedding, format, rows, columns
_Kind = tuple[bool, str, int, int]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """What will be written, and how many bytes that takes."""

    config: ModelConfig
    recipe: Recipe
    seed: int
    contents: list[Content]

    @property
    def num_bytes(self) -> int:
        return sum(content.blob.padded_bytes for content in self.contents)

    @property
    def mark(self) -> dict[str, object]:
        about = {"experts": self.recipe.experts, "others": self.recipe.others, "seed": self.seed}
        return {"weights": "random", **about, "config": dict(self.config.source)}


def synthetic(config: ModelConfig, recipe: Recipe, *, seed: int = 0, threads: int = 1) -> Synthetic:
    """Raises ConfigError for a model that the native kernels do not compute."""
    check_native(config)
    formats = formats_of(recipe, all_places(config))
    drawn = _Drawn(seed, threads)
    contents = []
    for key, group in groups(config).items():
        blob = blob_of(key, group, formats)
        contents.append(Content(blob, partial(drawn.chunks, blob)))
    vectors = vector_blob(config)
    contents.append(Content(vectors, partial(_vectors, config, vectors)))
    return Synthetic(config=config, recipe=recipe, seed=seed, contents=contents)


def save_synthetic(made: Synthetic, folder: Path, *, progress: Progress | None = None) -> None:
    """The folder appears when all of it is on disk; nothing is left of one that was interrupted.

    Peak memory is one matrix of each kind. Raises OutputError if the folder exists, does not fit on
    its disk (checked before anything is written) or cannot be written.
    """
    with whole_folder(folder) as unfinished:
        check_fit(folder, made.contents)
        contents = [counted(made.contents, i, progress) for i in range(len(made.contents))]
        write(unfinished, made.config.source, contents, bits=BITS[made.recipe.experts])
        (unfinished / MARK).write_text(json.dumps(made.mark, indent=1) + "\n", encoding="utf-8")


def is_there(made: Synthetic, folder: Path) -> bool:
    """Whether the folder was written already. Raises OutputError for one that is another's."""
    if not is_packed(folder):
        return False
    if (folder / MARK).is_file() and read_json(folder / MARK) == made.mark:
        return True
    raise OutputError(f"{folder} holds another model", hint="give a new folder, or remove that one")


class _Drawn:
    """One matrix a kind, and how many of it were handed out."""

    def __init__(self, seed: int, threads: int) -> None:
        self._seed = seed
        self._threads = threads
        self._kinds: dict[_Kind, Bytes] = {}
        self._uses: Counter[_Kind] = Counter()

    def chunks(self, blob: Blob) -> Iterator[Bytes | bytes]:
        at = 0
        for piece in blob.pieces:
            yield bytes(piece.offset - at)
            yield from self._turned(piece)
            at = piece.offset + piece.num_bytes

    def _turned(self, piece: Piece) -> Iterator[Bytes]:
        """The kind's matrix with its whole tiles turned by one more than the last time."""
        kind = piece.name == "embed_VD", piece.format, piece.rows, piece.columns
        # a router's few rows have no orders enough for all layers
        if kind not in self._kinds or piece.name == "w_ED":
            self._kinds[kind] = self._draw(piece, self._uses[kind])
        data, whole = self._kinds[kind], piece.rows // _TILE_ROWS
        tile_bytes = len(data) // -(-piece.rows // _TILE_ROWS)
        turn = self._uses[kind] % max(1, whole) * tile_bytes
        self._uses[kind] += 1
        end = whole * tile_bytes
        yield from (data[turn:end], data[:turn], data[end:])

    def _draw(self, piece: Piece, number: int) -> Bytes:
        """Normal weights that keep the size of what they are multiplied with; the embedding's are
        as large as what norms make."""
        seed = [self._seed, piece.rows, piece.columns, number]
        generator = np.random.Generator(np.random.SFC64(seed))
        scale = 1.0 if piece.name == "embed_VD" else 1.0 / sqrt(piece.columns)
        buffer = _native.Buffer(piece.num_bytes)
        matrix = _native.Matrix.view(piece.format, piece.rows, piece.columns, buffer, 0)
        step = max(1, _CHUNK_WEIGHTS // (piece.columns * _TILE_ROWS)) * _TILE_ROWS
        for first in range(0, piece.rows, step):
            shape = min(step, piece.rows - first), piece.columns
            rows = generator.standard_normal(shape, np.float32) * np.float32(scale)
            blocks = _native.quantise(piece.format, rows, None, self._threads)
            matrix.pack(blocks.reshape(-1), first)
        return buffer.array()[: piece.num_bytes]


def _vectors(config: ModelConfig, blob: Blob) -> Iterator[NDArray[np.float32] | bytes]:
    """Norms of one, biases of zero."""
    shapes = all_vectors(config)
    at = 0
    for piece in blob.pieces:
        yield bytes(piece.offset - at)
        is_norm = "norm" in piece.name and "bias" not in piece.name
        yield np.full(shapes[piece.name], 1.0 if is_norm else 0.0, np.float32)
        at = piece.offset + piece.num_bytes
