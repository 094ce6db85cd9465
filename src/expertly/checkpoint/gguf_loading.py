"""A GGUF file into a native decoder: its blocks go straight into the kernels' layout, as they are
or quantised anew."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from expertly import _native
from expertly.checkpoint.filling import Bytes, Job, ReadRows, fill
from expertly.checkpoint.native_loading import kept_or_quantised
from expertly.config import ModelConfig
from expertly.errors import CheckpointError
from expertly.families import parameters
from expertly.families.gguf_archs import arch_in
from expertly.families.gguf_config import read_gguf_config
from expertly.families.gguf_names import (
    ROPE_TENSORS,
    GgufPart,
    GgufStored,
    gguf_tensors,
    rows_in_order,
)
from expertly.formats import gguf
from expertly.formats.blocks import Block
from expertly.formats.dequantise import dequantise
from expertly.formats.gguf import Gguf, GgufTensor
from expertly.formats.gguf_reader import Reader, reader
from expertly.model.allocate import Formats, allocate
from expertly.model.weights import Floats, NativeWeights, Place, Shape, is_matrix, is_stack, places

# tensors like these say nothing new
_HARMLESS = (*ROPE_TENSORS, "rope_freqs")
_MOST_ROPE_FACTORS = 1 << 16


def open_gguf(path: Path) -> tuple[Gguf, ModelConfig]:
    """The head of a GGUF file, and the model that it describes.

    Raises CheckpointError for a damaged file, ConfigError for a model that is not understood.
    """
    file = gguf.read(path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    return file, read_gguf_config(file.metadata, shapes, lambda name: _factors(file, name))


def load_gguf(
    file: Gguf, config: ModelConfig, dtype: str, threads: int, *, has_experts: bool = True
) -> NativeWeights:
    """Every parameter of `config`: "native" keeps the blocks that the file has, "int8" and "int4"
    quantise all matrices but the routers, whose weights are float32 always. Without the matrices
    of routed experts where somebody else reads those.

    Raises CheckpointError for tensors that are missing, left over, or of another shape.
    """
    stored, shapes = checked_tensors(file, config), parameters(config)
    wanted = [
        place
        for name, shape in shapes.items()
        if is_matrix(name) and (has_experts or not is_stack(name))
        for place in places(name, shape)
    ]
    weights = allocate(wanted, _formats(file, stored, dtype, wanted))
    with reader(file) as source:
        fill(_all_jobs(file, stored, shapes, weights, source), threads)
        for each in stored:
            for part in each.parts:
                if not is_matrix(part.parameter):
                    own = file.tensors[each.name]
                    weights.vectors[part.parameter] = _vector(
                        own, part, shapes[part.parameter], source
                    )
    return weights


def checked_tensors(file: Gguf, config: ModelConfig) -> list[GgufStored]:
    """What the file's tensors are. Raises CheckpointError as `load_gguf`."""
    stored = list(gguf_tensors(config, arch_in(file.metadata, file.tensors)))
    _check(file, stored)
    return stored


def _factors(file: Gguf, name: str) -> tuple[float, ...]:
    tensor = file.tensors[name]
    if tensor.block.name != "f32" or tensor.num_bytes > 4 * _MOST_ROPE_FACTORS:
        raise CheckpointError(
            f"{file.path}: {name} is {tensor.block.name} of the shape {list(tensor.shape)}",
            hint="convert the model again with a current tool",
        )
    with reader(file) as source:
        return tuple(source.read(tensor).view(np.float32).tolist())


def _check(file: Gguf, stored: list[GgufStored]) -> None:
    wanted = {each.name: each.shape for each in stored}
    missing = [name for name in wanted if name not in file.tensors]
    left = [name for name in file.tensors if name not in wanted and name not in _HARMLESS]
    if missing and "blk.0.ffn_gate.0.weight" in file.tensors:
        raise CheckpointError(
            f"{file.path}: each expert is a tensor of its own, as in files of before April 2024",
            hint="get a newer conversion of the model, or convert it again",
        )
    for names, what in ((missing, "lacks"), (left, "has no place for")):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            who = str(file.path) if names is missing else "a model of this architecture"
            raise CheckpointError(
                f"{who} {what} {', '.join(names[:5])}{more}",
                hint=f"check that {file.path.name} is whole and of a known kind",
            )
    for name, shape in wanted.items():
        # a single row may be told as a vector
        if file.tensors[name].shape not in (shape, (1, *shape)):
            raise CheckpointError(
                f"{file.path}: {name} has the shape {list(file.tensors[name].shape)}, its "
                f"metadata ask for {list(shape)}",
                hint="the file contradicts itself; get or convert it again",
            )


def _formats(file: Gguf, stored: list[GgufStored], dtype: str, wanted: list[Place]) -> Formats:
    stored_as = {
        part.parameter: file.tensors[each.name].block.name for each in stored for part in each.parts
    }
    return kept_or_quantised(wanted, stored_as, dtype)


def _all_jobs(
    file: Gguf,
    stored: list[GgufStored],
    shapes: dict[str, Shape],
    weights: NativeWeights,
    source: Reader,
) -> Iterator[Job]:
    for each in stored:
        tensor = file.tensors[each.name]
        for part in each.parts:
            if not is_matrix(part.parameter):
                continue
            first = part.first_row
            for place in places(part.parameter, shapes[part.parameter]):
                if (place.parameter, place.expert) not in weights.matrices:
                    continue
                matrix = weights.matrix(place.parameter, place.expert)
                read = _row_reader(source, tensor, part, first, matrix)
                yield Job(matrix, read, tensor.block.num_bytes_of((1, place.columns)))
                first += place.rows


def _row_reader(
    source: Reader, tensor: GgufTensor, part: GgufPart, start: int, matrix: _native.Matrix
) -> ReadRows:
    stride = tensor.block.num_bytes_of((1, matrix.columns))

    def read(first: int, count: int, room: Bytes) -> Bytes:
        if part.paired_heads is None:
            source.read_into(room, tensor, (start + first) * stride)
            return _blocks(room, tensor.block, matrix, count)
        # rows of a head are spread over it: whole heads are read
        head = matrix.rows // part.paired_heads
        begin, end = first // head * head, -(-(first + count) // head) * head
        raw = source.read(tensor, (start + begin) * stride, (end - begin) * stride)
        order = np.array(rows_in_order(end - begin, (end - begin) // head))
        rows = raw.reshape(-1, stride)[order[first - begin : first - begin + count]]
        return _blocks(rows.reshape(-1), tensor.block, matrix, count)

    return read


def _blocks(raw: Bytes, block: Block, matrix: _native.Matrix, count: int) -> Bytes:
    """Rows of blocks in the matrix's format, by way of floats unless they are that already."""
    if matrix.format == block.name:
        return raw
    rows = dequantise(block, raw, (count, matrix.columns))
    if matrix.format == "f32":
        return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    return _native.quantise(matrix.format, rows, None, 1).reshape(-1)


def _vector(tensor: GgufTensor, part: GgufPart, shape: Shape, source: Reader) -> Floats:
    values = dequantise(tensor.block, source.read(tensor), tensor.shape).astype(np.float32)
    values = values.reshape(-1)[part.first_row : part.first_row + math.prod(shape)]
    if part.paired_heads is not None:
        values = values[rows_in_order(values.size, part.paired_heads)]
    return np.ascontiguousarray(values.reshape(shape))
