"""Weights in kernel layout: packing loses nothing of any format."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import (
    CASES,
    FORMATS,
    TILE,
    Case,
    columns_of,
    packed,
    random_blocks,
    same_bits,
    weights_of,
)

from expertly import _native
from expertly.formats.blocks import BLOCKS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unpacked_weights_are_what_the_blocks_mean(case: Case) -> None:
    for has_any_bits in (False, True):
        blocks = random_blocks(case, has_any_bits=has_any_bits)
        weights = packed(case, blocks).unpack(0, case.rows)
        assert same_bits(weights, weights_of(case, blocks))


@pytest.mark.parametrize("name", FORMATS)
def test_packing_tile_by_tile_gives_the_same_as_all_at_once(name: str) -> None:
    case = Case(name, 40, columns_of(name)[-1])
    blocks = random_blocks(case)
    rows = blocks.reshape(case.rows, -1)
    matrix = _native.Matrix(name, case.rows, case.columns)
    # the last one first, and two at once
    for first, end in ((32, 40), (0, 32)):
        matrix.pack(np.ascontiguousarray(rows[first:end]).reshape(-1), first)
    assert same_bits(matrix.unpack(0, 40), packed(case, blocks).unpack(0, 40))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_in_the_middle_unpack_by_themselves(name: str) -> None:
    case = Case(name, 40, columns_of(name)[-1])
    blocks = random_blocks(case)
    assert same_bits(packed(case, blocks).unpack(15, 3), weights_of(case, blocks)[15:18])


@pytest.mark.parametrize("name", FORMATS)
def test_packing_again_leaves_nothing_of_what_was_there(name: str) -> None:
    case = Case(name, 17, columns_of(name)[0])
    matrix = packed(case, random_blocks(case, seed=1, has_any_bits=True))
    blocks = random_blocks(case, seed=2)
    matrix.pack(blocks)
    assert same_bits(matrix.unpack(0, 17), weights_of(case, blocks))


@pytest.mark.parametrize("name", FORMATS)
def test_two_matrices_in_one_buffer_leave_each_other_alone(name: str) -> None:
    case = Case(name, 17, columns_of(name)[-1])
    size = _native.layout_bytes(name, case.rows, case.columns)
    buffer = _native.Buffer(2 * size)
    blocks = [random_blocks(case, seed) for seed in range(2)]
    matrices = [
        _native.Matrix.view(name, case.rows, case.columns, buffer, place * size)
        for place in range(2)
    ]
    for matrix, bytes_of_one in zip(matrices, blocks, strict=True):
        matrix.pack(bytes_of_one)
    for matrix, bytes_of_one in zip(matrices, blocks, strict=True):
        assert same_bits(matrix.unpack(0, 17), weights_of(case, bytes_of_one))


@pytest.mark.parametrize("name", FORMATS)
def test_kernel_layout_is_no_larger_than_the_file_but_for_padding(name: str) -> None:
    size, columns = _native.layout_bytes(name, 64, 2048), 2048
    # 16 scales, or 8 and 8 minima, are 8 bits each here and 6 in files
    allowed = {"q3_k": 114 / 110, "q4_k": 148 / 144, "q5_k": 180 / 176}.get(name, 1.0)
    assert size <= BLOCKS[name].num_bytes_of((64, columns)) * allowed + 4 * 3 * 64


def block_of(name: str, *pieces: bytes) -> np.ndarray:
    block = np.frombuffer(b"".join(pieces), np.uint8)
    assert len(block) == BLOCKS[name].num_bytes
    return block


# column c and column c + 16 share a byte: codes 0..15, then 15..0
ALL_NIBBLES = bytes(code | (15 - code) << 4 for code in range(16))
CODES = [*range(16), *reversed(range(16))]
HALF_TWO, HALF_THREE = b"\x00\x40", b"\x00\x42"  # float16 2 and 3
MXFP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def test_all_sixteen_codes_of_the_small_formats_worked_out_by_hand() -> None:
    blocks = {
        "q4_0": (block_of("q4_0", HALF_TWO, ALL_NIBBLES), [2 * (c - 8) for c in CODES]),
        "q4_1": (block_of("q4_1", HALF_TWO, HALF_THREE, ALL_NIBBLES), [2 * c + 3 for c in CODES]),
        "q5_0": (
            # the fifth bit set in the first 16 columns
            block_of("q5_0", HALF_TWO, b"\xff\xff\x00\x00", ALL_NIBBLES),
            [2 * (c + (16 if at < 16 else 0) - 16) for at, c in enumerate(CODES)],
        ),
        "iq4_nl": (block_of("iq4_nl", HALF_TWO, ALL_NIBBLES), [2 * IQ4_NL[c] for c in CODES]),
        # an exponent of 129 is a scale of 4
        "mxfp4": (block_of("mxfp4", b"\x81", ALL_NIBBLES), [4 * MXFP4[c] for c in CODES]),
    }
    for name, (block, weights) in blocks.items():
        matrix = packed(Case(name, 1, 32), block)
        assert matrix.unpack(0, 1)[0].tolist() == weights, name


def test_a_row_of_i4_worked_out_by_hand() -> None:
    row = np.array([0.5, 0.25], "<f4").tobytes() + bytes([6, 4]) + ALL_NIBBLES
    matrix = packed(Case("i4", 1, 32), np.frombuffer(row, np.uint8))
    assert matrix.unpack(0, 1)[0].tolist() == [0.5 * 6 * c - 0.25 * 4 for c in CODES]


@given(st.sampled_from(FORMATS), st.data())
@settings(max_examples=40)
def test_any_blocks_in_any_shape_unpack_to_what_they_mean(name: str, data: st.DataObject) -> None:
    size = BLOCKS[name].size
    steps = st.integers(1, 3).map(lambda n: n * size) if size > 32 else st.integers(1, 200)
    case = Case(name, data.draw(st.integers(1, 3 * TILE)), data.draw(steps))
    blocks = random_blocks(case, seed=data.draw(st.integers(0, 999)), has_any_bits=True)
    assert same_bits(packed(case, blocks).unpack(0, case.rows), weights_of(case, blocks))


@pytest.mark.parametrize(
    ("rows", "columns", "what"),
    [(0, 256, "rows and columns"), (1, 0, "rows and columns"), (16, 255, "super-blocks")],
)
def test_shapes_without_a_layout_are_refused(rows: int, columns: int, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        _native.Matrix("q4_k", rows, columns)


def test_blocks_that_do_not_fit_the_matrix_are_refused() -> None:
    matrix = _native.Matrix("q4_0", 40, 32)
    row = BLOCKS["q4_0"].num_bytes
    for size, first in ((row - 1, 0), (41 * row, 0), (16 * row, 32), (16 * row, -16)):
        with pytest.raises(ValueError, match="rows"):
            matrix.pack(np.zeros(size, np.uint8), first)
    for size, first in ((15 * row, 0), (16 * row, 8)):
        with pytest.raises(ValueError, match="inside a tile"):
            matrix.pack(np.zeros(size, np.uint8), first)


def test_unknown_formats_and_kernel_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="no weight format q9_9"):
        _native.Matrix("q9_9", 16, 32)
    with pytest.raises(ValueError, match="no kernels abacus"):
        _native.Runtime(1, "abacus")
