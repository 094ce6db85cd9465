"""Products with weights of every format, on every kernel set: close, equal, and by row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import (
    FORMATS,
    SAME_BITS,
    SETS,
    TILE,
    TOKENS,
    TOLERANCES,
    WEIGHT_ROWS,
    Case,
    Floats,
    as_rounded,
    columns_of,
    norms_of,
    packed,
    random_blocks,
    random_tokens,
    runtime,
    same_bits,
    weights_of,
)
from numpy.typing import NDArray

from expertly import _native
from expertly.formats.blocks import BLOCKS

SHAPES = [(name, columns) for name in FORMATS for columns in columns_of(name)]
# enough of each kind for what costs more
FEW_SHAPES = [(name, columns_of(name)[at]) for name in FORMATS for at in (0, -1)]


def product(x: NDArray[np.float64] | Floats, weights: Floats) -> NDArray[np.float64]:
    return x.astype(np.float64) @ weights.astype(np.float64).T


def relative_error(
    y: Floats, expected: NDArray[np.float64], x: Floats, weight_norms: NDArray[np.float64]
) -> float:
    """The largest error over the norms of its two rows; 0 when there is no row."""
    norms = np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * weight_norms
    return float(np.max(np.abs(y - expected) / np.maximum(norms, 1e-300), initial=0.0))


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("name", "columns"), SHAPES)
def test_products_are_within_their_formats_tolerance(name: str, columns: int, kernels: str) -> None:
    x, tolerance = random_tokens(columns), TOLERANCES[name]
    rounded = as_rounded(name, x, kernels)
    for rows in WEIGHT_ROWS:
        case = Case(name, rows, columns)
        blocks = random_blocks(case)
        weights, norms = weights_of(case, blocks), norms_of(case, blocks)
        y = runtime(kernels).linear(x, packed(case, blocks))
        assert y.shape == (len(x), rows)
        assert relative_error(y, product(rounded, weights), x, norms) <= tolerance.rounded
        assert relative_error(y, product(x, weights), x, norms) <= tolerance.exact


@pytest.mark.parametrize("name", FORMATS)
def test_a_tolerance_is_not_so_wide_that_a_wrong_code_passes(name: str) -> None:
    case = Case(name, 16, 256)
    blocks = random_blocks(case)
    weights = weights_of(case, blocks)
    x = random_tokens(case.columns)
    wrong = weights.copy()
    # one weight of 256 is off by a hundredth of the largest
    wrong[:, 100] += 0.01 * np.abs(weights).max(axis=1)
    y = runtime(SETS[0]).linear(x, packed(case, blocks))
    rounded = as_rounded(name, x, SETS[0])
    error = relative_error(y, product(rounded, wrong), x, norms_of(case, blocks))
    assert error > 10 * TOLERANCES[name].rounded


@pytest.mark.parametrize(("name", "columns"), [s for s in SHAPES if s[0] in SAME_BITS])
def test_every_kernel_set_gives_the_same_bits(name: str, columns: int) -> None:
    x = random_tokens(columns, 33)
    for rows in WEIGHT_ROWS:
        case = Case(name, rows, columns)
        matrix = packed(case, random_blocks(case))
        first, *others = [runtime(kernels).linear(x, matrix) for kernels in SETS]
        assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("name", "columns"), FEW_SHAPES)
def test_a_row_does_not_depend_on_how_many_there_are(name: str, columns: int, kernels: str) -> None:
    x, case = random_tokens(columns), Case(name, 17, columns)
    matrix = packed(case, random_blocks(case))
    whole = runtime(kernels).linear(x, matrix)
    for count in (*TOKENS, 2, 4, 5, 8, 11):
        assert same_bits(runtime(kernels).linear(x[:count], matrix), whole[:count])
        last = runtime(kernels).linear(np.ascontiguousarray(x[len(x) - count :]), matrix)
        assert same_bits(last, whole[len(x) - count :])


@given(
    st.sampled_from(FORMATS),
    st.sampled_from(SETS),
    st.lists(st.integers(0, TOKENS[-1] - 1), max_size=40),
    st.integers(1, 3),
)
@settings(max_examples=60)
def test_rows_taken_together_in_any_company_on_any_threads_are_the_same(
    name: str, kernels: str, chosen: list[int], threads: int
) -> None:
    columns = columns_of(name)[-1]
    x, case = random_tokens(columns), Case(name, 40, columns)
    matrix = packed(case, random_blocks(case))
    whole = runtime(kernels).linear(x, matrix)
    together = runtime(kernels, threads).linear(x[chosen], matrix)
    assert same_bits(together, whole[chosen])


def test_more_rows_than_are_taken_at_once_are_the_same_rows() -> None:
    case = Case("q4_k", 300, 256)
    matrix = packed(case, random_blocks(case))
    x = random_tokens(256, 300)
    whole = runtime(SETS[0], 2).linear(x, matrix)
    for row in (0, 127, 128, 255, 256, 299):
        assert same_bits(runtime(SETS[0]).linear(x[row : row + 1], matrix), whole[row : row + 1])


def strange_rows(columns: int) -> dict[str, Floats]:
    """Rows of activations beyond what a model should have."""
    rng = np.random.default_rng(5)
    ordinary = rng.standard_normal(columns).astype(np.float32)
    spiked, poisoned, infinite = ordinary.copy(), ordinary.copy(), ordinary.copy()
    spiked[columns // 2] = 3e38
    poisoned[columns // 2] = np.nan
    infinite[columns - 1] = -np.inf
    return {
        "ordinary": ordinary,
        "zeros": np.zeros(columns, np.float32),
        "minus zeros": np.full(columns, -0.0, np.float32),
        "huge": np.full(columns, 1e30, np.float32),
        "spiked": spiked,
        "subnormal": np.float32(1e-39) * np.sign(ordinary),
        "small": np.float32(1e-30) * ordinary,
        "poisoned": poisoned,
        "infinite": infinite,
    }


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize(("name", "columns"), FEW_SHAPES)
def test_extreme_activations_touch_no_row_but_their_own(
    name: str, columns: int, kernels: str
) -> None:
    rows = strange_rows(columns)
    case = Case(name, 17, columns)
    matrix = packed(case, random_blocks(case))
    together = runtime(kernels).linear(np.stack(list(rows.values())), matrix)
    alone = [runtime(kernels).linear(row[None], matrix)[0] for row in rows.values()]
    assert same_bits(together, np.stack(alone))
    results = dict(zip(rows, together, strict=True))
    assert not results["zeros"].any() and not results["minus zeros"].any()
    assert not np.isfinite(results["poisoned"]).any()
    assert not np.isfinite(results["infinite"]).any()
    assert np.isfinite(results["ordinary"]).all() and np.isfinite(results["small"]).all()


@pytest.mark.parametrize(("name", "columns"), [s for s in FEW_SHAPES if s[0] in SAME_BITS])
def test_extreme_activations_give_the_same_bits_on_every_kernel_set(
    name: str, columns: int
) -> None:
    x = np.stack(list(strange_rows(columns).values()))
    case = Case(name, 17, columns)
    for has_any_bits in (False, True):
        matrix = packed(case, random_blocks(case, has_any_bits=has_any_bits))
        first, *others = [runtime(kernels).linear(x, matrix) for kernels in SETS]
        assert all(same_bits(first, other) for other in others)


# float16: zero, the smallest and the largest subnormal, the smallest normal, the largest
EXTREME_SCALES = (0x0000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF)


@pytest.mark.parametrize("kernels", SETS)
@pytest.mark.parametrize("bits", EXTREME_SCALES)
def test_extreme_scales_are_within_tolerance(kernels: str, bits: int) -> None:
    case = Case("q4_0", 17, 64)
    blocks = random_blocks(case).reshape(-1, BLOCKS["q4_0"].num_bytes).copy()
    blocks[:, :2] = np.array([bits], "<u2").view(np.uint8)
    weights, norms = weights_of(case, blocks.reshape(-1)), norms_of(case, blocks.reshape(-1))
    x = random_tokens(64, 17)
    y = runtime(kernels).linear(x, packed(case, blocks.reshape(-1)))
    expected = product(as_rounded("q4_0", x, kernels), weights)
    assert relative_error(y, expected, x, norms) <= TOLERANCES["q4_0"].rounded
    assert y.any() == (bits != 0)


def test_one_row_of_ones_worked_out_by_hand() -> None:
    # codes 8 + 1 in the low halves and 8 + 2 in the high ones, scale 2: 16 * 2 * (1 + 2)
    block = np.frombuffer(b"\x00\x40" + b"\xa9" * 16, np.uint8)
    matrix = packed(Case("q4_0", 1, 32), block)
    for kernels in SETS:
        y = runtime(kernels).linear(np.ones((1, 32), np.float32), matrix)
        assert y.tolist() == [[pytest.approx(96, rel=1e-6)]]


def test_rows_of_another_width_are_refused() -> None:
    case = Case("q4_0", 16, 64)
    matrix = packed(case, random_blocks(case))
    with pytest.raises(ValueError, match="differ in columns"):
        runtime(SETS[0]).linear(np.zeros((1, 32), np.float32), matrix)


def test_a_poisoned_row_of_weights_touches_no_other() -> None:
    case = Case("q8_0", 17, 64)
    blocks = random_blocks(case).reshape(17, -1)
    matrix = packed(case, blocks.reshape(-1))
    x = random_tokens(64, 5)
    clean = runtime(SETS[0]).linear(x, matrix)
    blocks[7, :2] = np.array([0x7E00], "<u2").view(np.uint8)
    for kernels in SETS:
        y = runtime(kernels).linear(x, packed(case, blocks.reshape(-1)))
        assert np.isnan(y[:, 7]).all()
        assert same_bits(np.delete(y, 7, axis=1), np.delete(clean, 7, axis=1))


def test_the_best_kernel_set_comes_first_and_the_plain_one_is_always_there() -> None:
    assert SETS[-1] == "generic"
    assert _native.Runtime(1).kernels == SETS[0]
    x86 = {"amx-bf16", "avx512-bf16", "avx512", "avx2", "generic"}
    arm = {"neon-i8mm", "neon", "generic"}
    assert x86 >= set(SETS) or arm >= set(SETS)


@pytest.mark.parametrize("kernels", SETS)
def test_a_tile_writes_all_sixteen_results_of_a_row_and_no_more(kernels: str) -> None:
    case, count = Case("f32", TILE, 3), 4
    weights = random_blocks(case).view(np.float32).reshape(TILE, 3)
    tile = np.ascontiguousarray(weights.T).view(np.uint8).reshape(-1)
    x = random_tokens(3, count)
    y = np.full((count + 1, TILE), np.nan, np.float32)
    _native.rows.tile(runtime(kernels), "f32", 3, tile, [x.view(np.uint8).reshape(-1)], y[:count])
    assert np.isfinite(y[:count]).all() and np.isnan(y[count]).all()
    assert np.allclose(y[:count], product(x, weights), rtol=1e-5)
