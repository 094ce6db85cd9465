"""The plain way to round weights to each format: least to greatest weight, no search.

Weights as they come back, not bytes; halves where blocks hold halves. Rows of whole blocks.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
_HALVES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float64) / 2
_MXFP4 = np.concatenate([-_HALVES[:0:-1], _HALVES])


def _half(x: Floats) -> Floats:
    return x.astype(np.float16).astype(np.float32)


def _over(x: Floats, y: Floats) -> Floats:
    return np.divide(
        x, y, out=np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32), where=y != 0
    )


def _extreme(x: Floats) -> Floats:
    """The value furthest from 0, of the last dimension."""
    at = np.abs(x).argmax(-1)[..., None]
    return np.take_along_axis(x, at, -1)


def _scaled(x: Floats, low: int, high: int) -> Floats:
    d = _half(_extreme(x) / np.float32(low))
    return d * np.clip(np.round(_over(x, d)), low, high)


def _nearest(x: Floats, d: Floats, values: NDArray[np.float64]) -> Floats:
    at = np.abs(_over(x, d)[..., None] - values).argmin(-1)
    return (d * values[at]).astype(np.float32)


def _mxfp4(x: Floats) -> Floats:
    most = np.abs(x).max(-1, keepdims=True)
    exponent = np.floor(np.log2(most, out=np.zeros_like(most), where=most > 0)) - 2
    return _nearest(x, np.exp2(exponent).astype(np.float32), _MXFP4)


def _affine(x: Floats, top: int) -> Floats:
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    d, m = _half((high - low) / np.float32(top)), _half(low)
    return d * np.clip(np.round(_over(x - m, d)), 0, top) + m


def _levels(value: Floats, most: int, store: Callable[[Floats], Floats], axis: int = -2) -> Floats:
    """Values as whole multiples of one unit a block, the greatest the multiple `most`."""
    unit = store(value.max(axis, keepdims=True) / np.float32(most))
    return unit * np.clip(np.round(_over(value, unit)), 0, most)


def _affine_levels(
    x: Floats, top: int, most: int, store: Callable[[Floats], Floats] = _half
) -> Floats:
    """x (..., groups, columns), minima at or below 0."""
    low = np.minimum(x.min(-1, keepdims=True), 0)
    width = np.maximum(x.max(-1, keepdims=True) - low, 0)
    scale, minimum = _levels(width / np.float32(top), most, store), _levels(-low, most, store)
    return scale * np.clip(np.round(_over(x + minimum, scale)), 0, top) - minimum


def _signed_levels(x: Floats, low_code: int, low_level: int) -> Floats:
    scale = _extreme(x) / np.float32(low_code)
    unit = _half(_extreme(scale[..., 0])[..., None] / np.float32(low_level))
    scale = unit * np.clip(np.round(_over(scale, unit)), low_level, -low_level - 1)
    return scale * np.clip(np.round(_over(x, scale)), low_code, -low_code - 1)


def _bf16(x: Floats) -> Floats:
    return (((x.view(np.uint32) + 0x8000) >> 16) << 16).view(np.float32)


# groups of a block last but one, then their columns; the block's name before
_ROUNDED: Mapping[str, tuple[tuple[int, ...], Callable[[Floats], Floats]]] = {
    "f32": ((1,), lambda x: x),
    "f16": ((1,), _half),
    "bf16": ((1,), _bf16),
    "q8_0": ((32,), lambda x: _scaled(x, -127, 127)),
    "q4_0": ((32,), lambda x: _scaled(x, -8, 7)),
    "q5_0": ((32,), lambda x: _scaled(x, -16, 15)),
    "q4_1": ((32,), lambda x: _affine(x, 15)),
    "q5_1": ((32,), lambda x: _affine(x, 31)),
    "iq4_nl": ((32,), lambda x: _nearest(x, _half(_extreme(x) / np.float32(-127)), _IQ4_NL)),
    "mxfp4": ((32,), _mxfp4),
    "q4_k": ((8, 32), lambda x: _affine_levels(x, 15, 63)),
    "q5_k": ((8, 32), lambda x: _affine_levels(x, 31, 63)),
    "q2_k": ((16, 16), lambda x: _affine_levels(x, 3, 15)),
    "q6_k": ((16, 16), lambda x: _signed_levels(x, -32, -128)),
    "q3_k": ((16, 16), lambda x: _signed_levels(x, -4, -32)),
}


def naive(name: str, w: Floats) -> Floats:
    """(rows, columns) of weights as plain rounding gives them back."""
    if name == "i4":
        groups = w.reshape(len(w), -1, 32)
        return _affine_levels(groups, 15, 255, lambda x: x).reshape(w.shape)
    shape, rounded = _ROUNDED[name]
    return rounded(w.reshape(len(w), -1, *shape)).reshape(w.shape).astype(np.float32)
