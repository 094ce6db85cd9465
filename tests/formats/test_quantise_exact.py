"""Bytes by hand, values that a format can hold, and rows at the edges of what floats are."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from expertly import _native
from expertly.formats.blocks import BLOCKS
from expertly.formats.dequantise import dequantise

Floats = NDArray[np.float32]
NAMES = list(BLOCKS)
HALF_MAX = 65504.0


def there_and_back(name: str, w: Floats, importance: Floats | None = None) -> Floats:
    blocks = _native.quantise(name, w, importance, 1)
    return dequantise(BLOCKS[name], blocks.reshape(-1), w.shape)


def row(values: list[float]) -> Floats:
    return np.array([values], np.float32)


def bytes_of(name: str, values: list[float]) -> bytes:
    return _native.quantise(name, row(values), None, 1).tobytes()


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def test_q8_0_holds_whole_numbers_as_they_are() -> None:
    values = [127.0, -127.0, *range(30)]
    assert bytes_of("q8_0", values) == half(1) + struct.pack("<32b", *map(int, values))


def test_q4_0_has_its_first_half_in_the_low_nibbles() -> None:
    values = [-8.0, 7, 0, 1, *[0] * 12, *[-8.0] * 16]
    codes = bytes([0x00, 0x0F, 0x08, 0x09, *[0x08] * 12])
    assert bytes_of("q4_0", values) == half(1) + codes


def test_q4_1_has_its_least_weight_as_minimum() -> None:
    values = [3.0 + 0.5 * (i % 16) for i in range(32)]
    codes = bytes(i | i << 4 for i in range(16))
    assert bytes_of("q4_1", values) == half(0.5) + half(3) + codes


def test_q5_0_keeps_the_fifth_bits_apart() -> None:
    values = [-16.0, *[15.0] * 15, *[-1.0] * 16]
    fifths = struct.pack("<I", 0x0000FFFE)
    codes = bytes([0xF0, *[0xFF] * 15])
    assert bytes_of("q5_0", values) == half(1) + fifths + codes


def test_i4_counts_scale_and_minimum_in_levels_of_255() -> None:
    values = [0.5 * (i % 16) - 2 for i in range(32)]
    blocks = bytes_of("i4", values)
    d, dmin = struct.unpack_from("<2f", blocks)
    assert blocks[8:10] == b"\xff\xff"
    assert (255 * d, 255 * dmin) == pytest.approx((0.5, 2))
    assert blocks[10:] == bytes(i | i << 4 for i in range(16))


def test_mxfp4_takes_the_power_of_two_that_loses_nothing() -> None:
    values = [0.5 * v for v in (0, 0.5, 1, 1.5, 2, 3, 4, 6)] * 2 + [-3.0] * 16
    codes = bytes((i % 8) | 0xF0 for i in range(16))
    assert bytes_of("mxfp4", values) == bytes([126]) + codes


def test_iq4_nl_finds_the_values_of_its_table() -> None:
    table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    codes = bytes(i | i << 4 for i in range(16))
    assert bytes_of("iq4_nl", [0.25 * v for v in table * 2]) == half(0.25) + codes


def test_bf16_rounds_ties_to_even() -> None:
    words = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000]
    values = np.array([words], np.uint32).view(np.float32)
    found = _native.quantise("bf16", values, None, 1).view(np.uint16)[0]
    assert [hex(v) for v in found] == ["0x3f80", "0x3f80", "0x3f82", "0x3f81", "0xbf80"]


def test_f16_is_what_numpy_makes_of_it() -> None:
    w = np.random.default_rng(0).standard_normal((3, 77)).astype(np.float32) * 1e-4
    assert np.array_equal(there_and_back("f16", w), w.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_zeros_come_back_as_zeros(name: str) -> None:
    assert not there_and_back(name, np.zeros((2, 512), np.float32)).any()


@pytest.mark.parametrize("value", [1.0, -1.0, 0.37, -3e-3, 123.0])
@pytest.mark.parametrize("name", NAMES)
def test_constant_rows_come_back_as_constants(name: str, value: float) -> None:
    back = there_and_back(name, np.full((2, 256), value, np.float32))
    assert np.ptp(back) == 0
    # a power of two alone is all that mxfp4 has; others are as good as their scale
    bound = 0.15 if name == "mxfp4" else 2**-8 if name == "bf16" else 2**-10
    assert np.abs(back - value).max() <= bound * abs(value)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_quantising_what_comes_back_changes_next_to_nothing(name: str, seed: int) -> None:
    w = np.random.default_rng(seed).standard_normal((4, 256)).astype(np.float32)
    once = there_and_back(name, w)
    again = there_and_back(name, once)
    # levels of super-blocks can be chosen again; where a scale stands alone nothing can
    share = 0.15 if BLOCKS[name].size == 256 else 1e-3
    first = ((once - w) ** 2).sum()
    assert ((again - once) ** 2).sum() <= share * first + 1e-12


BOOKS = {
    "q8_0": range(-127, 128),
    "q5_0": range(-16, 16),
    "q4_0": range(-8, 8),
    "iq4_nl": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
}


@pytest.mark.parametrize("name", BOOKS)
@given(data=st.data(), scale=st.floats(2**-10, 2**8, width=16), sign=st.sampled_from([-1, 1]))
@settings(max_examples=100, deadline=None)
def test_what_a_block_with_a_scale_can_hold_is_held(
    name: str, data: st.DataObject, scale: float, sign: int
) -> None:
    values = st.lists(st.sampled_from(BOOKS[name]), min_size=32, max_size=32)
    w = np.array([data.draw(values)], np.float32) * np.float32(sign * scale)
    assert np.array_equal(there_and_back(name, w), w)


@pytest.mark.parametrize(("name", "top"), [("q4_1", 15), ("q5_1", 31)])
@given(data=st.data(), scale=st.floats(2**-6, 2**4, width=16), least=st.floats(-64, 64, width=16))
@settings(max_examples=100, deadline=None)
def test_what_a_block_with_a_minimum_can_hold_is_held(
    name: str, top: int, data: st.DataObject, scale: float, least: float
) -> None:
    codes = data.draw(st.lists(st.integers(0, top), min_size=32, max_size=32))
    w = np.array([codes], np.float32) * np.float32(scale) + np.float32(least)
    is_exact = np.array_equal(w, np.array([codes]) * float(scale) + float(least))
    back = there_and_back(name, w)
    # a single weight shows no steps, and a sum that was rounded is nobody's to find again
    if is_exact and len(set(codes)) > 1:
        assert np.array_equal(back, w)
    else:
        assert np.abs(back - w).max() <= 2**-21 * np.abs(w).max()


@pytest.mark.parametrize("name", ["q4_1", "q5_1"])
@pytest.mark.parametrize("value", [0.5 + 2**-24, -0.37, 1 / 3, 6.3])
def test_a_single_weight_is_a_minimum_and_a_code(name: str, value: float) -> None:
    w = np.full((1, 32), value, np.float32)
    assert np.abs(there_and_back(name, w) - w).max() <= 2**-21 * abs(value)


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q5_0", "q4_1", "q5_1", "iq4_nl", "mxfp4"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_quantising_blocks_of_32_again_changes_nothing(name: str, seed: int) -> None:
    w = np.random.default_rng(seed).standard_normal((32, 256)).astype(np.float32)
    once = there_and_back(name, w)
    assert np.array_equal(there_and_back(name, once), once)


@pytest.mark.parametrize("name", NAMES[3:])
def test_an_outlier_spoils_its_own_block_alone(name: str) -> None:
    w = np.random.default_rng(2).standard_normal((4, 1024)).astype(np.float32)
    size = BLOCKS[name].size
    clean = there_and_back(name, w)
    w[:, 700] = 1000
    back = there_and_back(name, w)
    # the outlier itself stays
    assert np.allclose(back[:, 700], 1000, rtol=0.25 if name == "mxfp4" else 0.01)
    if name != "i4":
        others = np.arange(1024) // size != 700 // size
        assert np.array_equal(back[:, others], clean[:, others])


def test_an_outlier_costs_a_row_of_i4_no_more_than_its_levels() -> None:
    w = np.random.default_rng(3).standard_normal((16, 1024)).astype(np.float32)
    w[:, 700] = 20
    off = np.delete(there_and_back("i4", w) - w, range(672, 704), axis=1)
    assert np.sqrt(np.mean(off**2)) < 0.073


@pytest.mark.parametrize("size", [3.3e38, 1e38, 1e20, 1e-20, 1e-38, 1e-42, 1e-45])
@pytest.mark.parametrize("name", NAMES)
def test_huge_and_tiny_rows_come_back_finite_and_no_further_off_than_zeros(
    name: str, size: float
) -> None:
    w = (np.random.default_rng(4).uniform(-1, 1, (2, 256)) * size).astype(np.float32)
    back = there_and_back(name, w)
    assert np.isfinite(back).all()
    off = ((back / size - w / size).astype(np.float64) ** 2).sum()
    assert off <= ((w / size).astype(np.float64) ** 2).sum() * (1 + 1e-6)


@pytest.mark.parametrize("name", ["f32", "bf16", "i4", "mxfp4"])
@pytest.mark.parametrize("size", [1e37, 1e-33])
def test_formats_of_full_exponents_are_as_good_at_any_size(name: str, size: float) -> None:
    w = np.random.default_rng(5).standard_normal((4, 256)).astype(np.float32)
    off = [
        ((there_and_back(name, (w * s).astype(np.float32)).astype(np.float64) / s - w) ** 2).sum()
        for s in (1.0, size)
    ]
    assert off[1] == pytest.approx(off[0], rel=0.2, abs=1e-10)


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1", "q4_k", "q6_k"])
def test_halves_that_would_be_infinite_are_the_greatest_half(name: str) -> None:
    back = there_and_back(name, np.full((1, 256), 3e38, np.float32))
    assert np.isfinite(back).all() and back.min() >= HALF_MAX * (7 if name == "q4_0" else 1)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_floats_that_would_be_infinite_are_the_greatest_of_their_type(name: str) -> None:
    back = there_and_back(name, row([3.4e38, -3.4e38]))
    greatest = HALF_MAX if name == "f16" else 3.3895314e38
    assert back[0] == pytest.approx([greatest, -greatest])


def test_scales_below_the_least_half_are_not_lost() -> None:
    # steps of 2^-24 are the finest that q4_k has here: 0, 1, 2 of them
    w = np.tile(np.array([0, 2**-24, 2**-23], np.float32), 256)[None, :768]
    assert np.array_equal(there_and_back("q4_k", w), w)
