"""A model into a packed folder: every matrix quantised as a recipe says, an expert a blob."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from shutil import disk_usage

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.checkpoint.calibrating import Calibration
from expertly.checkpoint.float_rows import FloatRows, folder_rows
from expertly.checkpoint.packed_layout import (
    all_places,
    all_vectors,
    blob_of,
    groups,
    vector_blob,
)
from expertly.checkpoint.recipe import BITS, Key, Recipe, formats_of, name_of
from expertly.checkpoint.saving import whole_folder
from expertly.checkpoint.shards import read_json
from expertly.config import ModelConfig
from expertly.errors import CheckpointError, OutputError
from expertly.families import parameters, read_config
from expertly.formats.packed_header import PAGE, Blob
from expertly.formats.packed_writer import Content, write
from expertly.model.native_layers import check_native
from expertly.model.weights import Floats, Place, is_router
from expertly.text import Tokenizer

# float32 weights that are quantised at a time
_CHUNK_WEIGHTS = 4 << 20
_TILE_ROWS = 16

Bytes = NDArray[np.uint8]
# bytes done, of all
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """`weight_bytes`: without the padding of blobs to pages. `weights`: how many are in each
    format. `fell_back`: matrices by (format asked for, format that their width takes)."""

    num_bytes: int
    weight_bytes: int
    num_weights: int
    weights: Mapping[str, int]
    fell_back: Mapping[tuple[str, str], int]
    unreached: tuple[tuple[int, int], ...]

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weight_bytes / self.num_weights


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is packed: a config and its parameters, and the files that go along."""

    config: ModelConfig
    rows: FloatRows
    tokenizer: Tokenizer | None


@contextmanager
def open_folder(folder: Path) -> Iterator[Source]:
    """A folder of safetensors to pack from. Raises ConfigError or CheckpointError."""
    config = read_config(read_json(folder / "config.json"))
    check_native(config)
    tokenizer = Tokenizer.open(folder) if (folder / "tokenizer.json").exists() else None
    with folder_rows(config, folder) as rows:
        yield Source(config=config, rows=rows, tokenizer=tokenizer)


def save_packed(
    source: Source,
    folder: Path,
    recipe: Recipe,
    *,
    calibration: Calibration | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    max_shard_bytes: int = 4_000_000_000,
) -> PackReport:
    """The folder appears when all of it is on disk.

    Peak memory is one blob, a chunk of float32 weights and what the source holds. Raises
    InputError for a pattern of the recipe that matches nothing, OutputError if the folder exists,
    does not fit on its disk (checked before anything is read) or cannot be written, and
    CheckpointError for weights that are not finite.
    """
    places = all_places(source.config)
    formats = formats_of(recipe, places)
    contents = list(_contents(source, formats, _Quantiser(source.rows, calibration, threads)))
    unreached = () if calibration is None else calibration.unreached
    with whole_folder(folder) as unfinished:
        check_fit(folder, contents)
        write(
            unfinished,
            source.config.source,
            [counted(contents, i, progress) for i in range(len(contents))],
            bits=BITS[recipe.experts],
            unreached=unreached,
            max_shard_bytes=max_shard_bytes,
        )
        if source.tokenizer is not None:
            source.tokenizer.save(unfinished)
        num_bytes = sum(path.stat().st_size for path in unfinished.iterdir())
    return PackReport(
        num_bytes=num_bytes,
        weight_bytes=sum(content.blob.num_bytes for content in contents),
        num_weights=sum(map(prod, parameters(source.config).values())),
        weights=_weights(places, formats, source.config),
        fell_back=_fell_back(recipe, places, formats),
        unreached=unreached,
    )


def _contents(
    source: Source, formats: Mapping[Key, str], quantiser: "_Quantiser"
) -> Iterator[Content]:
    for key, group in groups(source.config).items():
        blob = blob_of(key, group, formats)
        yield Content(blob, partial(quantiser.chunks, blob, group))
    vectors = vector_blob(source.config)
    yield Content(vectors, partial(_vectors, source, vectors))


def _vectors(source: Source, blob: Blob) -> Iterator[Floats | bytes]:
    at = 0
    for piece in blob.pieces:
        yield bytes(piece.offset - at)
        yield source.rows.vector(piece.name)
        at = piece.offset + piece.num_bytes


def counted(contents: list[Content], index: int, progress: Progress | None) -> Content:
    """A content that says how far the work is when its bytes are asked for."""
    if progress is None:
        return contents[index]
    sizes = [content.blob.num_bytes for content in contents]
    done, total = sum(sizes[: index + 1]), sum(sizes)

    def chunks() -> Iterator[object]:
        yield from contents[index].chunks()
        progress(done, total)

    return Content(contents[index].blob, chunks)


def check_fit(folder: Path, contents: list[Content]) -> None:
    """Raises OutputError where the disk has too little free for a packed folder."""
    # a header's line a piece, generously; the tokenizer's files are small beside it
    needed = sum(content.blob.padded_bytes + 1000 for content in contents) + 4 * PAGE
    free = disk_usage(folder.parent).free
    if needed > free:
        raise OutputError(
            f"{folder} needs {needed:,} bytes, and its disk has {free:,} free",
            hint="free some space, choose another disk or fewer bits",
        )


class _Quantiser:
    """Makes the bytes of blobs; it holds one at a time."""

    def __init__(self, rows: FloatRows, calibration: Calibration | None, threads: int) -> None:
        self._rows = rows
        self._calibration = calibration
        self._threads = threads

    def chunks(self, blob: Blob, group: list[Place]) -> Iterator[Bytes]:
        buffer = _native.Buffer(blob.padded_bytes)
        for place, piece in zip(group, blob.pieces, strict=True):
            matrix = _native.Matrix.view(
                piece.format, piece.rows, piece.columns, buffer, piece.offset
            )
            self._fill(matrix, place)
        yield buffer.array()[: blob.num_bytes]

    def _fill(self, matrix: _native.Matrix, place: Place) -> None:
        importance = None
        if self._calibration is not None and not is_router(place.parameter):
            importance = self._calibration.importance(place)
        step = max(1, _CHUNK_WEIGHTS // (place.columns * _TILE_ROWS)) * _TILE_ROWS
        for first in range(0, place.rows, step):
            rows = self._rows.rows(place, first, min(step, place.rows - first))
            if not np.isfinite(rows).all():
                raise CheckpointError(
                    f"{name_of(place)} has weights that are not finite numbers",
                    hint="the checkpoint is damaged; get it again",
                )
            blocks = _native.quantise(matrix.format, rows, importance, self._threads)
            matrix.pack(blocks.reshape(-1), first)


def _weights(
    places: list[Place], formats: Mapping[Key, str], config: ModelConfig
) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for place in places:
        counts[formats[place.parameter, place.expert]] += place.rows * place.columns
    counts["f32"] += sum(prod(shape) for shape in all_vectors(config).values())
    return dict(counts)


def _fell_back(
    recipe: Recipe, places: list[Place], formats: Mapping[Key, str]
) -> dict[tuple[str, str], int]:
    """Of what somebody asked for: not where a budget chose what the widths take."""
    asked = [p for p in places if not recipe.is_chosen(p)]
    pairs = [(recipe.wanted(place), formats[place.parameter, place.expert]) for place in asked]
    return dict(Counter(pair for pair in pairs if pair[0] != pair[1]))
