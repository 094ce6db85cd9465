"""What the bytes of every weight format mean: the definition that kernels are held against.

Plain numpy, a block a row of bytes, float32. Layouts and the order of operations are those of
ggml; the group of 32 or 256 weights that a block is comes last: blocks (N, bytes) to (N, weights).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from expertly.formats.blocks import Block

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# mxfp4's values doubled, so that they are whole; the scale is halved in turn
_MXFP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_IQ4_NL = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def dequantise(block: Block, raw_bytes: Bytes | bytes, shape: Sequence[int]) -> Floats:
    """The float32 weights, of `shape` (rows last), in a tensor's bytes as files hold them."""
    raw = np.frombuffer(raw_bytes, np.uint8)
    assert len(raw) == block.num_bytes_of(shape), (block.name, len(raw), tuple(shape))
    if 0 in shape:
        return np.zeros(tuple(shape), np.float32)
    columns = shape[-1] if shape else 1
    row_blocks = -(-columns // block.size)
    # scales may be infinite or no number: then so are the weights
    with np.errstate(all="ignore"):
        if block.row_bytes:
            weights = _i4(raw.reshape(-1, block.num_bytes_of((columns,))))
        else:
            weights = _DEFINITIONS[block.name](raw.reshape(-1, block.num_bytes))
    rows = weights.reshape(-1, row_blocks * block.size)[:, :columns]
    return np.ascontiguousarray(rows).reshape(tuple(shape))


def _half(blocks: Bytes, at: int) -> Floats:
    """The f16 at a byte of each block: (N, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _planes(packed: Bytes, shifts: Sequence[int], mask: int) -> Bytes:
    """(..., n) to (..., len(shifts), n): the bits from each shift on, plane after plane."""
    planes: Bytes = packed[..., None, :] >> np.array(shifts, np.uint8)[:, None] & np.uint8(mask)
    return planes


def _nibbles(packed: Bytes) -> Bytes:
    """(N, n) to (N, 2n): the low halves of all bytes, then the high ones."""
    return _planes(packed, (0, 4), 15).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """(N, 4) to (N, 32): bit k of a little-endian word, for column k."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _f32(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks).view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return _half(blocks, 0)


def _bf16(blocks: Bytes) -> Floats:
    upper = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32)
    return (upper << np.uint32(16)).view(np.float32)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (codes.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _iq4_nl(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _IQ4_NL[_nibbles(blocks[:, 2:])]


def _mxfp4(blocks: Bytes) -> Floats:
    exponent = blocks[:, :1].astype(np.uint32)
    # 2^(exponent - 128), below 2^-126 as a subnormal
    small, normal = np.uint32(0x200000) << (exponent & 1), (exponent - 1) << np.uint32(23)
    scale = np.where(exponent < 2, small, normal).astype(np.uint32).view(np.float32)
    return scale * _MXFP4[_nibbles(blocks[:, 1:])]


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """12 bytes to 8 scales and 8 minima of 6 bits: 4 of each whole, 4 in nibbles and top bits."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=-1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=-1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _with_k_scales(blocks: Bytes, codes: Bytes) -> Floats:
    """`codes` (N, 8, 32) under the head that q4_k and q5_k share."""
    scales, minima = _k_scales(blocks[:, 4:16])
    scale, minimum = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return scale[..., None] * codes.astype(np.float32) - minimum[..., None]


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes to (N, 8, 32): pairs of groups share 32 bytes, the even one in the low halves."""
    return _planes(packed.reshape(-1, 4, 32), (0, 4), 15).reshape(-1, 8, 32)


def _q4_k(blocks: Bytes) -> Floats:
    return _with_k_scales(blocks, _k_nibbles(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> Floats:
    fifth = _planes(blocks[:, 16:48], range(8), 1) << np.uint8(4)
    return _with_k_scales(blocks, _k_nibbles(blocks[:, 48:]) | fifth)


def _q6_k(blocks: Bytes) -> Floats:
    # halves of 128 columns: 64 bytes of low nibbles and 32 of high pairs each
    low = _planes(blocks[:, :128].reshape(-1, 2, 64), (0, 4), 15)
    high = _planes(blocks[:, 128:192].reshape(-1, 2, 32), (0, 2, 4, 6), 3)
    codes = low.reshape(-1, 16, 16) | high.reshape(-1, 16, 16) << np.uint8(4)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return scale[..., None] * (codes.astype(np.float32) - 32)


def _k_pairs(packed: Bytes) -> Bytes:
    """64 bytes to (N, 16, 16): halves of 128 columns in 32 bytes, a group in each pair of bits."""
    return _planes(packed.reshape(-1, 2, 32), (0, 2, 4, 6), 3).reshape(-1, 16, 16)


def _q3_k(blocks: Bytes) -> Floats:
    third = _planes(blocks[:, :32], range(8), 1).reshape(-1, 16, 16) << np.uint8(2)
    codes = (_k_pairs(blocks[:, 32:96]) | third).astype(np.float32) - 4
    low = _nibbles(blocks[:, 96:104])
    high = _planes(blocks[:, 104:108], (0, 2, 4, 6), 3).reshape(-1, 16)
    scales = (low | high << np.uint8(4)).astype(np.float32) - 32
    return (_half(blocks, 108) * scales)[..., None] * codes


def _q2_k(blocks: Bytes) -> Floats:
    scales, codes = blocks[:, :16], _k_pairs(blocks[:, 16:80]).astype(np.float32)
    scale = _half(blocks, 80) * (scales & 15).astype(np.float32)
    minimum = _half(blocks, 82) * (scales >> 4).astype(np.float32)
    return scale[..., None] * codes - minimum[..., None]


def _i4(rows: Bytes) -> Floats:
    """Rows of [f32 d][f32 dmin], then groups of [u8 scale][u8 min][16 bytes of nibbles]."""
    head = np.ascontiguousarray(rows[:, :8]).view("<f4").astype(np.float32)
    groups = rows[:, 8:].reshape(len(rows), -1, 18)
    codes = _planes(groups[..., 2:], (0, 4), 15).reshape(*groups.shape[:2], 32)
    scale = head[:, :1] * groups[..., 0].astype(np.float32)
    minimum = head[:, 1:] * groups[..., 1].astype(np.float32)
    return scale[..., None] * codes.astype(np.float32) - minimum[..., None]


_DEFINITIONS: Mapping[str, Callable[[Bytes], Floats]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "q3_k": _q3_k,
    "q2_k": _q2_k,
    "iq4_nl": _iq4_nl,
    "mxfp4": _mxfp4,
}
