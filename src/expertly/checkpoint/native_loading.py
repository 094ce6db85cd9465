"""A folder's tensors into a native decoder: kept in their type, or quantised as they are read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expertly import _native
from expertly.checkpoint.coded import MXFP4, coded_jobs
from expertly.checkpoint.filling import Bytes, Job, ReadRows, fill
from expertly.checkpoint.finding import find_all, view_of
from expertly.checkpoint.recipe import formats_of, recipe_of_bits
from expertly.checkpoint.shards import Entry, Reader, reader
from expertly.config import ModelConfig
from expertly.families import coded_tensors, parameters, stored_tensors
from expertly.families.naming import Part, Stored
from expertly.model.allocate import Formats, allocate
from expertly.model.weights import NativeWeights, Place, Shape, is_matrix, is_router, places

_FORMATS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_DTYPES = {name: dtype for dtype, name in _FORMATS.items()}
_BITS = {"int8": 8, "int4": 4}


def load_folder(config: ModelConfig, folder: Path, dtype: str, threads: int) -> NativeWeights:
    """Every parameter of `config` from safetensors: "native" keeps the stored types, "int8" and
    "int4" quantise all matrices but the routers, whose weights are float32 always."""
    entries = find_all(config, folder)
    shapes = parameters(config)
    wanted = [p for name, shape in shapes.items() if is_matrix(name) for p in places(name, shape)]
    weights = allocate(wanted, _formats(config, entries, dtype, wanted))
    with reader() as source:
        fill(_all_plain_jobs(config, entries, shapes, weights, source), threads)
        for coded in coded_tensors(config):
            fill(coded_jobs(coded, entries, weights, source), threads)
        for stored in stored_tensors(config):
            if not _is_plain(stored):
                tensor = source.read(stored.name, entries[stored.name])
                fill(_viewed_jobs(stored, tensor, shapes, weights), threads)
    return weights


def _formats(
    config: ModelConfig, entries: dict[str, Entry], dtype: str, wanted: list[Place]
) -> Formats:
    stored_as = {
        part.parameter: _FORMATS[entries[stored.name].dtype]
        for stored in stored_tensors(config)
        for part in stored.parts
    }
    for coded in coded_tensors(config):
        stored_as |= {part.parameter: MXFP4.name for part in coded.parts}

    return kept_or_quantised(wanted, stored_as, dtype)


def kept_or_quantised(wanted: list[Place], stored_as: dict[str, str], dtype: str) -> Formats:
    """The format of each matrix for a dtype: as parameters are stored, or as `expertly pack`
    quantises them at so many bits; routers are f32."""
    if dtype in _BITS:
        return formats_of(recipe_of_bits(_BITS[dtype]), wanted)
    return {
        (p.parameter, p.expert): "f32" if is_router(p.parameter) else stored_as[p.parameter]
        for p in wanted
    }


def _is_plain(stored: Stored) -> bool:
    """Whether the stored rows are the matrix's rows, one after another."""
    return (
        len(stored.parts) == 1
        and stored.parts[0].view is None
        and is_matrix(stored.parts[0].parameter)
    )


def _all_plain_jobs(
    config: ModelConfig,
    entries: dict[str, Entry],
    shapes: dict[str, Shape],
    weights: NativeWeights,
    source: Reader,
) -> Iterator[Job]:
    for stored in stored_tensors(config):
        if _is_plain(stored):
            yield from _plain_jobs(stored, entries[stored.name], shapes, weights, source)


def _plain_jobs(
    stored: Stored, entry: Entry, shapes: dict[str, Shape], weights: NativeWeights, source: Reader
) -> Iterator[Job]:
    part = stored.parts[0]
    start = 0
    for place in places(part.parameter, shapes[part.parameter]):
        if part.expert in (None, place.expert):
            matrix = weights.matrix(place.parameter, place.expert)
            read = _row_reader(source, stored.name, entry, start, matrix)
            yield Job(matrix, read, place.columns * entry.dtype.itemsize)
            start += place.rows


def _row_reader(
    source: Reader, name: str, entry: Entry, start: int, matrix: _native.Matrix
) -> ReadRows:
    stride = matrix.columns * entry.dtype.itemsize

    def read(first: int, count: int, room: Bytes) -> Bytes:
        source.read_range(room, name, entry, (start + first) * stride)
        rows = torch.from_numpy(room).view(entry.dtype).view(count, matrix.columns)
        return _blocks(rows, matrix.format)

    return read


def _blocks(rows: Tensor, name: str) -> Bytes:
    """Rows of floats as blocks of a format."""
    if name in _DTYPES:
        blocks: Bytes = rows.to(_DTYPES[name]).contiguous().view(-1).view(torch.uint8).numpy()
        return blocks
    return _native.quantise(name, rows.float().contiguous().numpy(), None, 1).reshape(-1)


def _viewed_jobs(
    stored: Stored, tensor: Tensor, shapes: dict[str, Shape], weights: NativeWeights
) -> Iterator[Job]:
    """The parts of a tensor that was read whole; vectors are filled at once."""
    for part in stored.parts:
        whole = shapes[part.parameter]
        shape = whole if part.expert is None else whole[1:]
        found = view_of(part, tensor, torch.empty(shape, device="meta"))
        if is_matrix(part.parameter):
            yield from _matrix_jobs(part, found, whole, weights)
        else:
            _put_vector(part, found, whole, weights)


def _matrix_jobs(part: Part, found: Tensor, whole: Shape, weights: NativeWeights) -> Iterator[Job]:
    own = [p for p in places(part.parameter, whole) if part.expert in (None, p.expert)]
    stack = found.reshape(len(own), own[0].rows, own[0].columns)
    for place, matrix_RC in zip(own, stack, strict=True):
        matrix = weights.matrix(place.parameter, place.expert)
        yield Job(matrix, _cutter(matrix_RC, matrix.format), place.columns * 4)


def _cutter(matrix_RC: Tensor, name: str) -> ReadRows:
    return lambda first, count, room: _blocks(matrix_RC[first : first + count], name)


def _put_vector(part: Part, found: Tensor, whole: Shape, weights: NativeWeights) -> None:
    values = found.float().contiguous().numpy()
    if part.expert is None:
        weights.vectors[part.parameter] = values.copy()
        return
    stack = weights.vectors.setdefault(part.parameter, np.zeros(whole, np.float32))
    stack[part.expert] = values
