"""Experts cut from a feed-forward: units, new ones, factors and noise, by hand-computed numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.rewrite.cutting import (
    Cut,
    cut_down,
    cut_gate,
    cut_up,
    factors,
    generator,
    permuted,
    some,
)

W_FD = torch.arange(12.0).reshape(4, 3)
NONE = torch.empty(0, dtype=torch.int64)


def cut_of(*units: int, **changes) -> Cut:
    return Cut(units=torch.tensor(units), **{"redrawn": NONE, **changes})


def test_gate_and_up_take_rows_and_down_takes_columns() -> None:
    cut = cut_of(2, 0)
    want = torch.tensor([[6.0, 7.0, 8.0], [0.0, 1.0, 2.0]])
    assert torch.equal(cut_gate(W_FD, cut), want)
    assert torch.equal(cut_up(W_FD, cut), want)
    assert torch.equal(cut_down(W_FD.T, cut), want.T)


def test_factors_reach_up_and_down_and_never_the_gate() -> None:
    cut = cut_of(1, up=4.0, down=2.0)
    assert torch.equal(cut_gate(W_FD, cut), W_FD[1:2])
    assert torch.equal(cut_up(W_FD, cut), W_FD[1:2] * 4)
    assert torch.equal(cut_down(W_FD.T, cut), W_FD[1:2].T * 2)


@pytest.mark.parametrize(
    ("scale", "want"),
    [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (8, (4, 2)), (3, (2, 1.5)), (0.5, (1, 0.5))],
)
def test_a_scale_is_shared_between_up_and_down(scale: float, want: tuple[float, float]) -> None:
    assert factors(float(scale)) == want


@given(st.integers(1, 4096))
def test_factors_multiply_to_the_scale_and_up_is_a_power_of_two(scale: int) -> None:
    up, down = factors(float(scale))
    assert up * down == scale
    assert math.log2(up).is_integer()
    # neither matrix takes more than a square root, but for one doubling
    assert max(up, down) <= 2 * math.sqrt(scale)


@pytest.mark.parametrize("scale", [2.0, 8.0, 64.0])
def test_powers_of_two_change_no_digit_of_a_bfloat16_weight(scale: float) -> None:
    w_FD = torch.randn(6, 5, generator=generator("w")).bfloat16()
    up, down = factors(scale)
    cut = cut_of(*range(6), up=up, down=down)
    back = cut_up(w_FD, cut).float() / up, cut_down(w_FD.T, cut).float() / down
    assert torch.equal(back[0], w_FD.float())
    assert torch.equal(back[1], w_FD.T.float())


def test_the_same_units_are_drawn_anew_in_all_three_matrices() -> None:
    size, width = 40, 500
    cut = Cut(units=torch.arange(size), redrawn=torch.tensor([3, 17, 30]))
    w_FD = torch.randn(size, width, generator=generator("w"))
    for cut_one, matrix, dim in (
        (cut_gate, w_FD, 1),
        (cut_up, w_FD, 1),
        (cut_down, w_FD.T, 0),
    ):
        changed = (cut_one(matrix, cut, "expert") != matrix).any(dim)
        assert changed.nonzero().flatten().tolist() == [3, 17, 30]


def test_new_units_have_the_mean_and_deviation_of_those_that_they_replace() -> None:
    w_FD = torch.zeros(4, 40_000)
    w_FD[1:3] = 5.0 + 0.1 * torch.randn(2, 40_000, generator=generator("w"))
    new = cut_gate(w_FD, Cut(units=torch.arange(4), redrawn=torch.tensor([1, 2])), "key")[1:3]
    assert float(new.mean()) == pytest.approx(5.0, abs=0.003)
    assert float(new.std()) == pytest.approx(0.1, rel=0.02)


def test_units_are_drawn_anew_by_their_place_in_the_expert() -> None:
    w_FD = torch.randn(6, 9, generator=generator("w"))
    cut = Cut(units=torch.tensor([4, 5]), redrawn=torch.tensor([1]))
    found = cut_gate(w_FD, cut, "key")
    assert torch.equal(found[0], w_FD[4])
    assert not torch.equal(found[1], w_FD[5])


def test_gate_up_and_down_are_drawn_from_streams_of_their_own() -> None:
    w_FD = torch.randn(8, 8, generator=generator("w"))
    cut = Cut(units=torch.arange(8), redrawn=torch.arange(8))
    assert not torch.equal(cut_gate(w_FD, cut, 1), cut_up(w_FD, cut, 1))
    assert not torch.equal(cut_gate(w_FD, cut, 1), cut_gate(w_FD, cut, 2))
    assert torch.equal(cut_gate(w_FD, cut, 1), cut_gate(w_FD, cut, 1))


def test_noise_is_counted_in_deviations_of_the_matrix() -> None:
    w_FD = 3.0 * torch.randn(200, 200, generator=generator("w"))
    found = cut_up(w_FD, Cut(units=torch.arange(200), redrawn=NONE, noise=0.01), "key")
    assert float((found - w_FD).std()) == pytest.approx(0.03, rel=0.02)


def test_a_cut_keeps_the_type_of_the_weights() -> None:
    w_FD = W_FD.bfloat16()
    for changes in ({}, {"up": 1.5}, {"noise": 0.1}, {"redrawn": torch.tensor([0])}):
        assert cut_up(w_FD, cut_of(1, 2, **changes), "key").dtype == torch.bfloat16


@given(size=st.integers(0, 200), share=st.floats(0, 1), seed=st.integers(0, 5))
def test_some_places_are_so_many_ascending_and_different(
    size: int, share: float, seed: int
) -> None:
    found = some(size, share, seed).tolist()
    assert len(found) == round(share * size)
    assert found == sorted(set(found))
    assert all(0 <= place < size for place in found)


def test_a_permutation_belongs_to_its_key_whatever_was_drawn_before() -> None:
    first = permuted(50, 0, "layer", 3)
    permuted(50, 0, "layer", 4)
    assert torch.equal(first, permuted(50, 0, "layer", 3))
    assert not torch.equal(first, permuted(50, 0, "layer", 4))
    # keys are not run together: (1, 23) is not (12, 3)
    assert not torch.equal(permuted(50, 1, 23), permuted(50, 12, 3))
