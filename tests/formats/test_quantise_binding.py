"""What `quantise` takes and refuses, and that threads and neighbours do not matter."""

import numpy as np
import pytest
from numpy.typing import NDArray

from expertly import _native
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise

Floats = NDArray[np.float32]
NAMES = list(BLOCKS)
SUPER = [name for name in NAMES if BLOCKS[name].size == 256]
OTHERS = [name for name in NAMES if BLOCKS[name].size != 256]


def normal(rows: int, columns: int) -> Floats:
    rng = np.random.default_rng(rows * 1000 + columns)
    return rng.standard_normal((rows, columns), np.float32)


def test_the_formats_are_those_of_the_table() -> None:
    assert _native.block_formats() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_takes_the_bytes_that_the_table_says(name: str) -> None:
    blocks = _native.quantise(name, normal(3, 512), None, 1)
    assert blocks.dtype == np.uint8
    assert blocks.shape == (3, BLOCKS[name].num_bytes_of((512,)))


@pytest.mark.parametrize("columns", [1, 31, 33, 100])
@pytest.mark.parametrize("name", OTHERS)
def test_columns_short_of_a_block_are_padded_and_cost_the_rest_nothing(
    name: str, columns: int
) -> None:
    w = normal(8, columns) + 3
    blocks = _native.quantise(name, w, None, 1)
    back = dequantise(BLOCKS[name], blocks.reshape(-1), w.shape)
    padded = np.zeros((8, -(-columns // 32) * 32), np.float32)
    padded[:, :columns] = w
    whole = dequantise(
        BLOCKS[name], _native.quantise(name, padded, None, 1).reshape(-1), padded.shape
    )[:, :columns]
    assert ((back - w) ** 2).sum() <= ((whole - w) ** 2).sum() * 1.001 + 1e-9


@pytest.mark.parametrize("columns", [1, 255, 257, 300])
@pytest.mark.parametrize("name", SUPER)
def test_columns_short_of_a_super_block_are_refused(name: str, columns: int) -> None:
    with pytest.raises(ValueError, match="no whole super-blocks"):
        _native.quantise(name, normal(2, columns), None, 1)


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_nothing(name: str) -> None:
    w, importance = normal(13, 256), np.abs(normal(1, 256)[0])
    alone = _native.quantise(name, w, importance, 1)
    for threads in (2, 3, 20):
        assert np.array_equal(_native.quantise(name, w, importance, threads), alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    w = normal(5, 512) * np.array([[1], [100], [1e-3], [1], [0]], np.float32)
    whole = _native.quantise(name, w, None, 1)
    for i in range(5):
        assert np.array_equal(_native.quantise(name, w[i : i + 1], None, 1)[0], whole[i])


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("i4",)])
def test_a_block_does_not_depend_on_its_neighbours(name: str) -> None:
    w = normal(2, 512)
    left, right = (
        _native.quantise(name, np.ascontiguousarray(h), None, 1) for h in np.split(w, 2, 1)
    )
    assert np.array_equal(_native.quantise(name, w, None, 1), np.concatenate([left, right], 1))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_no_bytes(name: str) -> None:
    assert _native.quantise(name, np.zeros((0, 256), np.float32), None, 2).size == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_no_numbers_are_counted_and_refused(name: str, value: float) -> None:
    w = normal(3, 256)
    w[0, 5] = w[2, 255] = value
    with pytest.raises(ValueError, match=r"^2 weights are not finite$"):
        _native.quantise(name, w, None, 1)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_importance_must_be_finite_and_not_negative(bad: float) -> None:
    importance = np.ones(64, np.float32)
    importance[63] = bad
    with pytest.raises(ValueError, match="importance is finite and not negative"):
        _native.quantise("i4", normal(2, 64), importance, 1)


def test_importance_must_have_a_value_for_every_column() -> None:
    with pytest.raises(ValueError, match="differ in columns"):
        _native.quantise("i4", normal(2, 64), np.ones(63, np.float32), 1)


def test_a_format_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no weight format q7_0"):
        _native.quantise("q7_0", normal(2, 64), None, 1)


def test_a_thread_is_needed_to_quantise() -> None:
    with pytest.raises(ValueError, match="needs a thread"):
        _native.quantise("i4", normal(2, 64), None, 0)


@pytest.mark.parametrize(
    "w", [np.zeros(64, np.float32), np.zeros((2, 64), np.float64), np.zeros((2, 2, 64), np.float32)]
)
def test_only_rows_of_floats_are_taken(w: NDArray[np.float64]) -> None:
    with pytest.raises(TypeError):
        _native.quantise("i4", w, None, 1)  # type: ignore[arg-type]
