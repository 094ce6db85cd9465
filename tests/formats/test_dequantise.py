"""The meaning of every format: to the bit what the public package computes, and by hand."""

import struct

import gguf as oracle
import numpy as np
import pytest
from numpy.typing import NDArray

from expertly.formats.blocks import BLOCKS, BY_ID, Block
from expertly.formats.dequantise import dequantise

Bytes = NDArray[np.uint8]
ALL = pytest.mark.parametrize("block", BY_ID.values(), ids=lambda block: block.name)
# where each format keeps its f16 scales
SCALES = {
    "q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q4_k": [0, 2],
    "q5_k": [0, 2], "q6_k": [208], "q3_k": [108], "q2_k": [80, 82], "iq4_nl": [0],
}  # fmt: skip
# zeros, the smallest and the largest subnormal, the smallest normal, the largest number
EDGES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00]
BEYOND = [0x7C00, 0xFC00, 0x7E00, 0xFE01]


def expected(block: Block, raw: Bytes) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return oracle.quants.dequantize(raw, oracle.GGMLQuantizationType(block.ggml_id))


def random_blocks(block: Block, rows: int, columns: int, seed: int = 0) -> Bytes:
    """Random bytes with finite scales."""
    rng = np.random.default_rng(seed)
    count = columns // block.size
    raw = rng.integers(0, 256, (rows, count, block.num_bytes), np.uint8)
    for at in SCALES.get(block.name, []):
        scales = rng.standard_normal((rows, count)).astype(np.float16)
        raw[:, :, at : at + 2] = scales[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def assert_same_bits(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert found.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))


@ALL
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (3, 512), (64, 1024)])
def test_random_blocks_are_the_public_packages_to_the_bit(
    block: Block, rows: int, columns: int
) -> None:
    raw = random_blocks(block, rows, columns)
    assert_same_bits(dequantise(block, raw, (rows, columns)), expected(block, raw))


@ALL
def test_all_values_of_every_byte_are_the_public_packages(block: Block) -> None:
    # block after block, each of its bytes takes each value while the scales stay what they are
    base = random_blocks(block, 1, block.size, seed=1)
    raw = np.repeat(base, 256 * block.num_bytes, axis=0)
    free = [at for at in range(block.num_bytes) if not any(at - s in (0, 1) for s in SCALES.get(block.name, []))]  # noqa: E501  # fmt: skip
    for n, at in enumerate(free):
        raw[n * 256 : (n + 1) * 256, at] = np.arange(256)
    shape = (len(raw), block.size)
    assert_same_bits(dequantise(block, raw, shape), expected(block, raw))


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("bits", [*EDGES, *BEYOND], ids=hex)
def test_subnormal_and_infinite_scales_are_as_the_public_packages(name: str, bits: int) -> None:
    block = BLOCKS[name]
    for at in SCALES[name]:
        raw = random_blocks(block, 2, 2 * block.size, seed=2).reshape(-1, block.num_bytes)
        raw[:, at : at + 2] = np.frombuffer(struct.pack("<H", bits), np.uint8)
        raw = raw.reshape(2, -1)
        assert_same_bits(dequantise(block, raw, (2, 2 * block.size)), expected(block, raw))


def test_all_65536_halves_are_the_public_packages() -> None:
    raw = np.arange(65536, dtype="<u2").view(np.uint8).reshape(256, -1)
    for name in ("f16", "bf16"):
        assert_same_bits(dequantise(BLOCKS[name], raw, (256, 256)), expected(BLOCKS[name], raw))


def test_all_256_exponents_of_mxfp4_are_the_public_packages() -> None:
    raw = np.tile(np.arange(17, dtype=np.uint8) * 15, (256, 1))
    raw[:, 0] = np.arange(256)
    found = dequantise(BLOCKS["mxfp4"], raw, (256, 32))
    assert_same_bits(found, expected(BLOCKS["mxfp4"], raw))


def test_mxfp4_is_a_power_of_two_by_the_sixteen_values_of_e2m1() -> None:
    nibbles = bytes(low | (15 - low) << 4 for low in range(16))
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values += [-value for value in values]
    for exponent in (0, 1, 2, 100, 127, 130, 252):
        found = dequantise(BLOCKS["mxfp4"], bytes([exponent]) + nibbles, (1, 32))
        scale = 2.0 ** (exponent - 127)
        assert found.tolist() == [[v * scale for v in [*values, *values[::-1]]]]


def test_q4_0_by_hand() -> None:
    # scale 0.5; byte k holds column k and column k + 16
    raw = struct.pack("<e", 0.5) + bytes([0xF0] + [0x88] * 14 + [0x19])
    found = dequantise(BLOCKS["q4_0"], raw, (32,))
    assert found.tolist() == [-4.0] + [0.0] * 14 + [0.5] + [3.5] + [0.0] * 14 + [-3.5]


def test_q5_1_by_hand() -> None:
    # the fifth bit of columns 0 and 31 only
    raw = struct.pack("<eeI", 2.0, 1.0, 1 | 1 << 31) + bytes([0x21] + [0] * 14 + [0x43])
    found = dequantise(BLOCKS["q5_1"], raw, (32,)).tolist()
    assert (found[0], found[16]) == (2.0 * 17 + 1, 2.0 * 2 + 1)
    assert (found[15], found[31]) == (2.0 * 3 + 1, 2.0 * 20 + 1)
    assert set(found[1:15] + found[17:31]) == {1.0}


def test_q8_0_by_hand() -> None:
    raw = struct.pack("<e32b", 0.25, *range(-16, 16))
    assert dequantise(BLOCKS["q8_0"], raw, (32,)).tolist() == [n / 4 for n in range(-16, 16)]


def test_i4_by_hand() -> None:
    row = struct.pack("<ff", 0.5, 0.25)
    first = bytes([2, 4]) + bytes(low | (15 - low) << 4 for low in range(16))
    second = bytes([0, 8]) + bytes([0xFF]) * 16
    found = dequantise(BLOCKS["i4"], row + first + second, (1, 64))
    assert found[0, :16].tolist() == [1.0 * q - 1.0 for q in range(16)]
    assert found[0, 16:32].tolist() == [1.0 * q - 1.0 for q in range(15, -1, -1)]
    assert found[0, 32:].tolist() == [-2.0] * 32


@pytest.mark.parametrize("columns", [1, 31, 33, 48, 64])
def test_i4_rows_of_any_width_end_in_padding_that_is_left_out(columns: int) -> None:
    groups = -(-columns // 32)
    rng = np.random.default_rng(columns)
    raw = rng.integers(0, 256, (2, 3, 8 + 18 * groups), np.uint8)
    raw[..., :8] = rng.standard_normal((2, 3, 2)).astype("<f4").view(np.uint8)
    found = dequantise(BLOCKS["i4"], raw.tobytes(), (2, 3, columns))
    for index in np.ndindex(2, 3):
        row = raw[index].tobytes()
        d, dmin = struct.unpack_from("<ff", row)
        for column in range(columns):
            group = row[8 + column // 32 * 18 :]
            code = group[2 + column % 16] >> (4 if column % 32 >= 16 else 0) & 15
            exact = d * group[0] * code - dmin * group[1]
            assert found[(*index, column)] == pytest.approx(exact, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=lambda block: block.name)
@pytest.mark.parametrize("shape", [(0, 256), (2, 0), (3, 0, 256)])
def test_no_rows_and_no_columns_are_no_weights(block: Block, shape: tuple[int, ...]) -> None:
    # in i4 rows without columns still have the head that a row begins with
    found = dequantise(block, bytes(block.num_bytes_of(shape)), shape)
    assert found.shape == shape and found.dtype == np.float32


def test_shapes_are_kept_and_a_scalar_is_one_weight() -> None:
    raw = random_blocks(BLOCKS["q4_k"], 6, 256)
    cube = dequantise(BLOCKS["q4_k"], raw, (2, 3, 256))
    assert cube.shape == (2, 3, 256) and cube.flags.c_contiguous
    np.testing.assert_array_equal(cube.reshape(6, 256), dequantise(BLOCKS["q4_k"], raw, (6, 256)))
    assert dequantise(BLOCKS["f32"], struct.pack("<f", 1.5), ()).item() == 1.5


def test_bytes_that_do_not_fill_the_shape_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="q4_0"):
        dequantise(BLOCKS["q4_0"], bytes(19), (32,))
