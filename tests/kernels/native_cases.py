"""The cases that every native kernel is held against: formats, shapes, weights, tolerances."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FLOATS = ("f32", "f16", "bf16")
FORMATS = tuple(BLOCKS)
SETS = tuple(_native.kernel_sets())
# bfloat16's dot products round differently where the processor has an instruction for them
SAME_BITS = tuple(name for name in FORMATS if name != "bf16")
TILE = 16
GROUP = 32
ORIGIN = 0x4B400000  # the bits of 1.5 * 2^23, from which sums of products start

WEIGHT_ROWS = (1, 15, 16, 17, 40)
TOKENS = (0, 1, 3, 16, 17, 33, 101)
WHOLE_COLUMNS = (32, 64, 96, 256, 512)
ODD_COLUMNS = (1, 2, 7, 33, 50)

# where the float16 scales and minima of a block lie
_HALVES_AT: Mapping[str, tuple[int, ...]] = {
    "q8_0": (0,),
    "q4_0": (0,),
    "q4_1": (0, 2),
    "q5_0": (0,),
    "q5_1": (0, 2),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
    "q3_k": (108,),
    "q2_k": (80, 82),
    "iq4_nl": (0,),
}


@dataclass(frozen=True)
class Tolerance:
    """Errors of a result over the norms of its row of weights and its row of activations."""

    rounded: float  # against float64, activations rounded as the kernel has them
    exact: float  # against float64, activations as they were given


# float32 sums of up to 512 products, or of 16 groups with a minimum each
_SUM = 2e-6
# x to 8 bits of significand, by up to half a unit
_BF16 = Tolerance(rounded=_SUM, exact=2.0**-8 + _SUM)
# a group's largest magnitude is 127 steps, so that 32 roundings by up to half a step have a norm
# of at most sqrt(32) / 254 of the group's
_GROUPS = Tolerance(rounded=_SUM, exact=math.sqrt(GROUP) / 254 + _SUM)
TOLERANCES: Mapping[str, Tolerance] = {
    name: {"f32": Tolerance(_SUM, _SUM), "f16": Tolerance(_SUM, _SUM), "bf16": _BF16}.get(
        name, _GROUPS
    )
    for name in FORMATS
}


@dataclass(frozen=True)
class Case:
    """A matrix of weights in a format."""

    format: str
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.format}-{self.rows}x{self.columns}"


def columns_of(name: str) -> tuple[int, ...]:
    """The widths to try in a format: rows of super-blocks are never padded."""
    size = BLOCKS[name].size
    return tuple(n for n in (*ODD_COLUMNS, *WHOLE_COLUMNS) if size <= GROUP or n % size == 0)


# every format in every shape
CASES = tuple(
    Case(name, rows, columns)
    for name in FORMATS
    for columns in columns_of(name)
    for rows in WEIGHT_ROWS
)


def random_blocks(case: Case, seed: int = 0, has_any_bits: bool = False) -> Bytes:
    """A tensor's bytes as files hold them: codes at random, scales of a sensible size.

    With `has_any_bits` scales are random bits too: infinite, subnormal, no number.
    """
    block = BLOCKS[case.format]
    rng = np.random.default_rng([seed, case.rows, case.columns, FORMATS.index(case.format)])
    if case.format in FLOATS:
        return _float_bytes(case, rng, has_any_bits)
    raw = rng.integers(0, 256, (case.rows, block.num_bytes_of((case.columns,))), np.uint8)
    if has_any_bits:
        return raw.reshape(-1)
    blocks = raw[:, block.row_bytes :].reshape(-1, block.num_bytes)
    for at in _HALVES_AT.get(case.format, ()):
        scales = rng.uniform(0.01, 0.1, len(blocks)) * rng.choice([-1, 1], len(blocks))
        blocks[:, at : at + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    if case.format == "mxfp4":
        blocks[:, 0] = rng.integers(118, 131, len(blocks))
    raw[:, block.row_bytes :] = blocks.reshape(case.rows, -1)
    if block.row_bytes:
        head = rng.uniform(1e-3, 1e-2, (case.rows, 2)).astype("<f4")
        raw[:, : block.row_bytes] = head.view(np.uint8)
    return raw.reshape(-1)


def _float_bytes(case: Case, rng: np.random.Generator, has_any_bits: bool) -> Bytes:
    num_bytes = BLOCKS[case.format].num_bytes
    if has_any_bits:
        return rng.integers(0, 256, case.rows * case.columns * num_bytes, np.uint8)
    weights = rng.standard_normal(case.rows * case.columns, np.float32)
    if case.format == "f32":
        return weights.astype("<f4").view(np.uint8)
    if case.format == "f16":
        return weights.astype("<f2").view(np.uint8)
    # the upper half of a float32's bytes
    return np.ascontiguousarray(weights.astype("<f4").view("<u2")[1::2]).view(np.uint8)


def weights_of(case: Case, blocks: Bytes) -> Floats:
    """What the blocks mean, (rows, columns)."""
    return dequantise(BLOCKS[case.format], blocks, (case.rows, case.columns))


def norms_of(case: Case, blocks: Bytes) -> NDArray[np.float64]:
    """Norms of the rows of weights, padding too: a weight errs by the size of what it is the
    difference of, which its neighbours show.
    """
    size = BLOCKS[case.format].size
    whole = Case(case.format, case.rows, -(-case.columns // size) * size)
    return np.linalg.norm(weights_of(whole, blocks).astype(np.float64), axis=1)


def packed(case: Case, blocks: Bytes) -> _native.Matrix:
    matrix = _native.Matrix(case.format, case.rows, case.columns)
    matrix.pack(blocks)
    return matrix


def runtime(name: str, threads: int = 1) -> _native.Runtime:
    """Not kept for all tests: the extension reports what still lives when Python ends."""
    return _native.Runtime(threads, name)


def random_tokens(columns: int, count: int = TOKENS[-1], seed: int = 1) -> Floats:
    """Activations (tokens, columns), each row of a size of its own."""
    rng = np.random.default_rng([seed, columns])
    sizes = 10.0 ** rng.uniform(-2, 2, (count, 1))
    return (rng.standard_normal((count, columns)) * sizes).astype(np.float32)


def group_parts(rows: int, columns: int) -> list[Bytes]:
    """Room for a panel of rows in groups of int8: the records of groups, and of their halves."""
    groups = rows * -(-columns // GROUP)
    return [np.zeros(groups * size, np.uint8) for size in (GROUP + 16, 16)]


def unpanel(parts: list[Bytes], rows: int) -> dict[str, np.ndarray]:
    """What a panel holds, by name: codes (rows, groups, 32), the halves' (rows, groups, 2), the
    others (rows, groups); starts of sums without the origin that they are added to."""
    records = parts[0].reshape(-1, rows * (GROUP + 16))
    halves = parts[1].reshape(-1, rows * 16)
    groups = len(records)
    cut = np.cumsum([rows * GROUP, rows * 4, rows * 4, rows * 4])
    codes, scale, start, signed, total = (
        np.ascontiguousarray(p) for p in np.split(records, cut, axis=1)
    )
    half_starts, half_sums = (np.ascontiguousarray(p) for p in np.split(halves, [rows * 8], axis=1))
    return {
        "codes": codes.view(np.int8).reshape(groups, rows, GROUP).swapaxes(0, 1),
        "scale": scale.view(np.float32).T,
        "start": start.view(np.int32).T - ORIGIN,
        "signed_start": signed.view(np.int32).T - ORIGIN,
        "sum": total.view(np.float32).T,
        "half_starts": half_starts.view(np.int32).reshape(groups, rows, 2).swapaxes(0, 1) - ORIGIN,
        "half_sums": half_sums.view(np.float32).reshape(groups, rows, 2).swapaxes(0, 1),
    }


def as_rounded(name: str, x: Floats, kernels: str) -> NDArray[np.float64]:
    """`x` (tokens, columns) as the kernels of a format see it."""
    if name in ("f32", "f16"):
        return x.astype(np.float64)
    rows = [_row_as_rounded(name, row, runtime(kernels)) for row in x]
    return np.stack(rows) if rows else x.astype(np.float64)


def _row_as_rounded(name: str, row: Floats, on: _native.Runtime) -> NDArray[np.float64]:
    if name == "bf16":
        half = np.zeros(len(row) + len(row) % 2, np.uint16)
        _native.rows.to_bf16(on, row, half)
        return (half.astype(np.uint32) << 16).view(np.float32)[: len(row)].astype(np.float64)
    parts = group_parts(1, len(row))
    _native.rows.quantise(on, row, parts)
    found = unpanel(parts, 1)
    return (found["codes"][0].astype(np.float64) * found["scale"][0][:, None]).reshape(-1)[
        : len(row)
    ]


def same_bits(a: Floats, b: Floats) -> bool:
    """Equal to the bit, signs of zeros too; one NaN is as good as another."""
    is_nan = np.isnan(a)
    same = np.array_equal(is_nan, np.isnan(b))
    return same and np.array_equal(a.view(np.int32)[~is_nan], b.view(np.int32)[~is_nan])
