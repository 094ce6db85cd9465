"""Rotary frequencies against transformers and against their formulas in float64."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from expertly.config import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    YarnScaling,
)
from expertly.kernels import rotate
from expertly.model.rope import angles, frequencies, lengthening

SIZES = [2, 6, 64, 128]


def plain(base: float, head_size: int) -> np.ndarray:
    return base ** -(np.arange(0, head_size, 2) / head_size)


def theirs(rope: dict, head_size: int, seq_len: int | None = None) -> tuple[np.ndarray, float]:
    """What transformers computes for a Llama with these rope parameters."""
    config = transformers.LlamaConfig(
        head_dim=head_size, max_position_embeddings=4096, rope_parameters=rope
    )
    found, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=seq_len)
    return found.numpy(), scale


@pytest.mark.parametrize("head_size", SIZES)
@pytest.mark.parametrize("base", [100.0, 10000.0, 1e6])
def test_plain_frequencies_are_powers_of_the_base(base, head_size) -> None:
    found, scale = frequencies(Rope(base=base), head_size)
    np.testing.assert_allclose(found.numpy(), plain(base, head_size), rtol=1e-6)
    assert scale == 1.0


@pytest.mark.parametrize("head_size", SIZES)
def test_linear_scaling_equals_transformers_and_its_formula(head_size) -> None:
    found, scale = frequencies(Rope(base=500.0, scaling=LinearScaling(factor=3.0)), head_size)
    np.testing.assert_allclose(found.numpy(), plain(500.0, head_size) / 3.0, rtol=1e-6)
    expected, their_scale = theirs(
        {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}, head_size
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert scale == their_scale == 1.0


@pytest.mark.parametrize("head_size", SIZES)
@pytest.mark.parametrize("original", [16, 512, 8192])
@pytest.mark.parametrize("bands", [(1.0, 4.0), (0.5, 32.0)], ids=str)
def test_llama3_scaling_equals_transformers(head_size, original, bands) -> None:
    low, high = bands
    scaling = Llama3Scaling(
        factor=8.0, low_freq_factor=low, high_freq_factor=high, original_context=original
    )
    found, scale = frequencies(Rope(base=500000.0, scaling=scaling), head_size)
    expected, their_scale = theirs(
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        },
        head_size,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=3e-6)
    assert scale == their_scale == 1.0


def test_llama3_keeps_what_turns_often_and_divides_what_hardly_turns() -> None:
    # turns in the original context of 2 pi * 8: 8 times the frequency
    scaling = Llama3Scaling(
        factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=50
    )
    found, _ = frequencies(Rope(base=1000.0, scaling=scaling), 16)
    for ours, bare in zip(found.tolist(), plain(1000.0, 16), strict=True):
        turns = 50 * bare / (2 * math.pi)
        share = min(max((turns - 1) / 3, 0), 1)
        assert ours == pytest.approx(bare * share + bare / 4 * (1 - share), rel=1e-6)
    assert found[0].item() == pytest.approx(1.0)
    assert found[-1].item() == pytest.approx(plain(1000.0, 16)[-1] / 4, rel=1e-6)


@pytest.mark.parametrize("head_size", SIZES)
@pytest.mark.parametrize("original", [32, 4096])
@pytest.mark.parametrize("betas", [(32.0, 1.0), (4.0, 2.0), (3.0, 3.0)], ids=str)
@pytest.mark.parametrize("is_truncated", [True, False])
def test_yarn_scaling_equals_transformers(head_size, original, betas, is_truncated) -> None:
    fast, slow = betas
    scaling = YarnScaling(
        factor=4.0,
        original_context=original,
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=1.25,
        is_truncated=is_truncated,
    )
    found, scale = frequencies(Rope(base=10000.0, scaling=scaling), head_size)
    expected, their_scale = theirs(
        {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": original,
            "beta_fast": fast,
            "beta_slow": slow,
            "attention_factor": 1.25,
            "truncate": is_truncated,
        },
        head_size,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=3e-6)
    assert scale == their_scale == 1.25


def test_yarn_keeps_the_fastest_frequency_and_divides_the_slowest() -> None:
    scaling = YarnScaling(factor=8.0, original_context=2048, attention_factor=1.0)
    found, _ = frequencies(Rope(base=10000.0, scaling=scaling), 128)
    bare = plain(10000.0, 128)
    assert found[0].item() == pytest.approx(bare[0], rel=1e-6)
    assert found[-1].item() == pytest.approx(bare[-1] / 8, rel=1e-6)
    ratios = bare / found.numpy()
    assert (np.diff(ratios) > -1e-5).all()
    assert ((ratios > 1.5) & (ratios < 7)).any()


LONG = LongScaling(
    short_factors=(1.0, 1.25, 2.0),
    long_factors=(1.5, 3.0, 5.0),
    short_scale=1.1,
    long_scale=1.3,
    original_context=12,
)


@pytest.mark.parametrize("is_long", [False, True])
def test_longrope_divides_by_one_of_two_sets_of_factors(is_long) -> None:
    found, scale = frequencies(Rope(base=700.0, scaling=LONG), 6, is_long=is_long)
    factors = LONG.long_factors if is_long else LONG.short_factors
    np.testing.assert_allclose(found.numpy(), plain(700.0, 6) / factors, rtol=1e-6)
    assert scale == (1.3 if is_long else 1.1)
    expected, _ = theirs(
        {
            "rope_type": "longrope",
            "rope_theta": 700.0,
            "short_factor": list(LONG.short_factors),
            "long_factor": list(LONG.long_factors),
            "original_max_position_embeddings": 12,
        },
        6,
        seq_len=13 if is_long else 12,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_each_sequence_chooses_its_own_longrope_factors() -> None:
    rope = Rope(base=700.0, scaling=LONG)
    positions_BS = torch.arange(5).expand(3, -1)
    cos, sin = angles(rope, 6, positions_BS, torch.tensor([12, 13, 5]))
    assert cos.shape == sin.shape == (3, 1, 5, 3)
    for b, (factors, scale) in enumerate(
        [(LONG.short_factors, 1.1), (LONG.long_factors, 1.3), (LONG.short_factors, 1.1)]
    ):
        turned = np.arange(5)[:, None] * plain(700.0, 6) / factors
        np.testing.assert_allclose(cos[b, 0].numpy(), np.cos(turned) * scale, atol=1e-6)
        np.testing.assert_allclose(sin[b, 0].numpy(), np.sin(turned) * scale, atol=1e-6)


def test_angles_are_position_times_frequency_with_the_factor_on_cos_and_sin() -> None:
    scaling = YarnScaling(factor=4.0, original_context=32, attention_factor=1.7)
    rope = Rope(base=100.0, scaling=scaling)
    positions_BS = torch.tensor([[0, 3, 250], [7, 8, 9]])
    cos, sin = angles(rope, 8, positions_BS, torch.tensor([3, 3]))
    turned = positions_BS.double()[:, None, :, None] * frequencies(rope, 8)[0].double()
    torch.testing.assert_close(cos.double(), turned.cos() * 1.7, rtol=0, atol=3e-5)
    torch.testing.assert_close(sin.double(), turned.sin() * 1.7, rtol=0, atol=3e-5)
    assert cos[0, 0, 0].tolist() == pytest.approx([1.7] * 4)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_a_score_depends_on_the_distance_between_query_and_key_alone(query, key, shift) -> None:
    rope = Rope(base=300.0)
    generator = torch.Generator().manual_seed(query)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator).unbind(0)

    def turned(x, position):
        return rotate(x, *angles(rope, 8, torch.tensor([[position]]), torch.tensor([1])))

    score = (turned(q, query) * turned(k, key)).sum()
    moved = (turned(q, query + shift) * turned(k, key + shift)).sum()
    torch.testing.assert_close(moved, score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("before", "after", "crossing"),
    [
        ([5, 11], [6, 12], None),
        ([13, 20], [14, 21], None),
        ([12, 3], [13, 4], [True, False]),
        ([2, 12], [30, 13], [True, True]),
        ([12, 13], [13, 14], [True, False]),
    ],
)
def test_keys_turn_for_the_sequences_that_cross_the_original_context(
    before, after, crossing
) -> None:
    rope = Rope(base=700.0, scaling=LONG)
    positions_BN = torch.arange(max(before)).expand(2, -1)
    turn = lengthening(rope, 6, positions_BN, torch.tensor(before), torch.tensor(after))
    assert (turn is None) == (crossing is None)
    if turn is None:
        return
    k = torch.randn(2, 1, max(before), 6, generator=torch.Generator().manual_seed(0))
    short = rotate(k, *angles(rope, 6, positions_BN, torch.tensor([1, 1])))
    long = rotate(k, *angles(rope, 6, positions_BN, torch.tensor([99, 99])))
    found = rotate(short, *turn)
    for row, crosses in enumerate(crossing):
        expected = long[row] if crosses else short[row]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaling", [None, LinearScaling(factor=2.0)])
def test_other_scalings_never_turn_cached_keys(scaling) -> None:
    positions_BN = torch.arange(4)[None]
    lengths = torch.tensor([4]), torch.tensor([5000])
    assert lengthening(Rope(base=10.0, scaling=scaling), 6, positions_BN, *lengths) is None


def test_ropes_with_equal_numbers_are_one_key_of_a_dictionary() -> None:
    twin = Rope(base=700.0, scaling=dataclasses.replace(LONG))
    assert {Rope(base=700.0, scaling=LONG): 1}[twin] == 1
