"""Quantised weights come back close, closer than plain rounding, and closest where it matters."""

import numpy as np
import pytest
from formats.naive_rounding import naive
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from expertly import _native
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise

Floats = NDArray[np.float32]
NAMES = list(BLOCKS)
QUANTISED = NAMES[3:]

# root of the mean squared error of normal weights, in their standard deviations: what a search
# reaches (measured), rounded up; plain rounding to q4_k gives 0.078, to q4_0 0.088
BOUNDS = {
    "f32": 0,
    "f16": 3e-4,
    "bf16": 2e-3,
    "q8_0": 0.0052,
    "q4_0": 0.082,
    "q4_1": 0.070,
    "q5_0": 0.041,
    "q5_1": 0.034,
    "q4_k": 0.071,
    "q5_k": 0.035,
    "q6_k": 0.0175,
    "q3_k": 0.146,
    "q2_k": 0.264,
    "iq4_nl": 0.075,
    "mxfp4": 0.114,
    "i4": 0.070,
}


def there_and_back(name: str, w: Floats, importance: Floats | None = None) -> Floats:
    blocks = _native.quantise(name, w, importance, 1)
    return dequantise(BLOCKS[name], blocks.reshape(-1), w.shape)


def errors(name: str, w: Floats, importance: Floats | None = None) -> NDArray[np.float64]:
    """What each row loses, squared and weighted."""
    off = there_and_back(name, w, importance).astype(np.float64) - w
    return (off**2 * (1 if importance is None else importance)).sum(-1)


def naive_errors(name: str, w: Floats, importance: Floats | None = None) -> NDArray[np.float64]:
    off = naive(name, w).astype(np.float64) - w
    return (off**2 * (1 if importance is None else importance)).sum(-1)


def normal(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_normal_weights_come_back_within_the_bound_of_their_format(name: str) -> None:
    w = normal(64, 512)
    off = (there_and_back(name, w) - w) / w.std()
    assert np.sqrt(np.mean(off**2)) <= BOUNDS[name]


def test_every_format_has_a_bound() -> None:
    assert list(BOUNDS) == NAMES


@pytest.mark.parametrize("name", QUANTISED)
def test_a_search_gains_on_plain_rounding_of_normal_weights(name: str) -> None:
    w = normal(32, 512, seed=1)
    gain = 0.93 if name in ("q8_0", "q4_0", "q5_0", "q6_k", "iq4_nl", "q3_k") else 0.85
    gain = 0.99 if name == "mxfp4" else gain
    assert errors(name, w).sum() <= gain * naive_errors(name, w).sum()


@st.composite
def strange_rows(draw: st.DrawFn) -> Floats:
    """Rows of 256 with groups of very different sizes, signs, ties and zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = rng.standard_t(draw(st.integers(1, 5)), (2, 8, 32))
    w *= 10.0 ** rng.uniform(-draw(st.integers(0, 3)), 0, (2, 8, 1))
    kind = draw(st.sampled_from(["plain", "positive", "negative", "ties", "shifted", "sparse"]))
    if kind == "positive":
        w = np.abs(w)
    elif kind == "negative":
        w = -np.abs(w)
    elif kind == "ties":
        w = np.round(w * 2) / 2
    elif kind == "shifted":
        w += rng.standard_normal((2, 8, 1))
    elif kind == "sparse":
        w *= rng.random(w.shape) < 0.1
    return np.clip(w, -1e3, 1e3).reshape(2, 256).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@given(w=strange_rows())
@settings(max_examples=40, deadline=None)
def test_no_row_comes_back_further_off_than_plain_rounding_leaves_it(name: str, w: Floats) -> None:
    assert np.all(errors(name, w) <= naive_errors(name, w) * (1 + 1e-4) + 1e-12)


@pytest.mark.parametrize("name", QUANTISED)
@given(w=strange_rows(), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_no_weighted_row_comes_back_further_off_than_plain_rounding_leaves_it(
    name: str, w: Floats, seed: int
) -> None:
    importance = np.random.default_rng(seed).exponential(1, 256).astype(np.float32) ** 3
    best = naive_errors(name, w, importance)
    assert np.all(errors(name, w, importance) <= best * (1 + 1e-3) + 1e-9)


@pytest.mark.parametrize("name", QUANTISED)
def test_importance_moves_the_error_to_where_it_is_cheap(name: str) -> None:
    w = normal(64, 256, seed=2)
    importance = np.where(np.arange(256) % 8 == 3, 100, 1).astype(np.float32)
    plain, weighted = (there_and_back(name, w, i) - w for i in (None, importance))
    dear = importance == 100
    assert np.mean(weighted[:, dear] ** 2) < 0.95 * np.mean(plain[:, dear] ** 2)
    assert np.mean(weighted[:, ~dear] ** 2) > np.mean(plain[:, ~dear] ** 2)


def test_a_lone_column_that_matters_is_kept_almost_exactly() -> None:
    w = normal(32, 32, seed=3)
    importance = np.zeros(32, np.float32)
    importance[[4, 20]] = 1
    off = there_and_back("i4", w, importance)[:, [4, 20]] - w[:, [4, 20]]
    assert np.abs(off).max() < 0.01


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_equal_importance_is_no_importance_whatever_its_size(name: str, size: float) -> None:
    w = normal(4, 256, seed=4)
    equal = np.full(256, size, np.float32)
    assert np.allclose(errors(name, w, equal) / (size or 1), 0 if not size else errors(name, w))
    assert np.allclose(there_and_back(name, w, equal), there_and_back(name, w), atol=0.05)


def test_columns_of_no_importance_are_rounded_too() -> None:
    w = normal(8, 64, seed=5)
    importance = np.repeat(np.array([1, 0], np.float32), 32)
    off = there_and_back("q4_1", w, importance) - w
    assert np.mean(off[:, 32:] ** 2) == pytest.approx(np.mean(off[:, :32] ** 2), rel=0.4)


@pytest.mark.parametrize("name", ["q4_k", "q5_k", "q2_k", "q6_k", "q3_k", "i4"])
def test_groups_much_smaller_than_their_neighbours_keep_some_of_their_shape(name: str) -> None:
    w = normal(8, 256, seed=6)
    w[:, 64:128] *= 0.05
    off = there_and_back(name, w) - w
    share = (off[:, 64:128] ** 2).sum() / (w[:, 64:128] ** 2).sum()
    assert share < (0.9 if name == "q2_k" else 0.35)
