"""Experts that a folder keeps as MXFP4 codes and scales apart: as blocks, or as numbers."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expertly import _native
from expertly.checkpoint.filling import Bytes, Job, ReadRows
from expertly.checkpoint.shards import Entry, Reader
from expertly.families.naming import Coded, CodedPart
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise
from expertly.model.weights import NativeWeights

MXFP4 = BLOCKS["mxfp4"]
_CODE_BYTES = 16


def mxfp4_blocks(codes: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Bytes:
    """Blocks (rows, groups * 17) from codes (rows, groups, 16) and scales (rows, groups): a byte
    holds two neighbouring columns there, and two that are 16 apart in a block."""
    columns = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], 32)
    halves = columns[..., :16] | columns[..., 16:] << 4
    return np.concatenate([scales[..., None], halves], axis=-1).reshape(len(codes), -1)


def coded_jobs(
    coded: Coded, entries: dict[str, Entry], weights: NativeWeights, source: Reader
) -> Iterator[Job]:
    """The matrices of every expert, in their own format."""
    for part in coded.parts:
        for expert in range(coded.shape[0]):
            matrix = weights.matrix(part.parameter, expert)
            row_bytes = coded.shape[2] * MXFP4.num_bytes
            yield Job(matrix, _row_reader(coded, part, expert, matrix, entries, source), row_bytes)


def _row_reader(
    coded: Coded,
    part: CodedPart,
    expert: int,
    matrix: _native.Matrix,
    entries: dict[str, Entry],
    source: Reader,
) -> ReadRows:
    def read(first: int, count: int, room: Bytes) -> Bytes:
        blocks = read_blocks(coded, part, expert, (first, count), entries, source).reshape(-1)
        if matrix.format == MXFP4.name:
            return blocks
        rows = dequantise(MXFP4, blocks, (count, matrix.columns))
        return _native.quantise(matrix.format, rows, None, 1).reshape(-1)

    return read


def fill_coded(
    coded: Coded, targets: dict[str, torch.nn.Parameter], entries: dict[str, Entry], source: Reader
) -> None:
    """The parameters (experts, rows, columns) that `coded` holds, as numbers."""
    for part in coded.parts:
        for expert, target in enumerate(targets[part.parameter].data):
            target.copy_(_expert(coded, part, expert, tuple(target.shape), entries, source))


def _expert(
    coded: Coded,
    part: CodedPart,
    expert: int,
    shape: tuple[int, ...],
    entries: dict[str, Entry],
    source: Reader,
) -> Tensor:
    blocks = read_blocks(coded, part, expert, (0, shape[0]), entries, source)
    return torch.from_numpy(dequantise(MXFP4, blocks, shape))


def read_blocks(
    coded: Coded,
    part: CodedPart,
    expert: int,
    rows: tuple[int, int],
    entries: dict[str, Entry],
    source: Reader,
) -> Bytes:
    """Rows first .. first + count of a part's expert as blocks (count, groups * 17)."""
    first, count = rows
    _, num_rows, groups = coded.shape
    start = expert * num_rows + first * part.step
    codes = np.empty((count * part.step, groups, _CODE_BYTES), np.uint8)
    scales = np.empty((count * part.step, groups), np.uint8)
    for name, room in ((coded.codes, codes), (coded.scales, scales)):
        stride = room.nbytes // len(room)
        source.read_range(room.reshape(-1), name, entries[name], start * stride)
    own = slice(part.first, None, part.step)
    return mxfp4_blocks(codes[own], scales[own])
