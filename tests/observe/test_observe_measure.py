"""Definitions of what is observed, on counts worked out by hand and over random ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.observe import measure


@st.composite
def tables(draw: st.DrawFn) -> list[list[int]]:
    width = draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 50), min_size=width, max_size=width)
    return draw(st.lists(row, min_size=1, max_size=6))


def test_load_is_the_share_of_the_rows_of_all_domains() -> None:
    rows_ME = torch.tensor([[1, 0, 3], [1, 2, 1]])
    assert measure.load(rows_ME).tolist() == [0.25, 0.25, 0.5]


def test_coactivation_divides_by_the_expert_of_the_row() -> None:
    pairs_EE = torch.tensor([[4, 1, 3], [1, 2, 1], [3, 1, 6]])
    expected = [[1.0, 0.25, 0.75], [0.5, 1.0, 0.5], [0.5, 1 / 6, 1.0]]
    assert measure.coactivation(pairs_EE).tolist() == expected


def test_coactivation_of_an_expert_nobody_chose_is_zero() -> None:
    pairs_EE = torch.tensor([[0, 0], [0, 3]])
    assert measure.coactivation(pairs_EE).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_domain_shares_are_of_the_domains_own_rows_and_tokens() -> None:
    # two experts a token: three tokens of the first domain, one of the second
    rows_ME, tokens_M = torch.tensor([[3, 2, 1], [0, 1, 1]]), torch.tensor([3, 1])
    by_row = [[1 / 2, 1 / 3, 1 / 6], [0.0, 0.5, 0.5]]
    by_token = [[1.0, 2 / 3, 1 / 3], [0.0, 1.0, 1.0]]
    assert measure.domain_row_share(rows_ME).tolist() == by_row
    assert measure.domain_token_share(rows_ME, tokens_M).tolist() == by_token


def test_vocabulary_shares_are_of_the_ids_own_rows() -> None:
    rows_UE = torch.tensor([[4, 0, 4], [1, 2, 1]])
    assert measure.vocabulary_row_share(rows_UE).tolist() == [[0.5, 0.0, 0.5], [0.25, 0.5, 0.25]]


def test_favourites_are_the_ids_with_the_highest_share_at_the_expert() -> None:
    rows_UE = torch.tensor([[10, 90], [3, 1], [5, 5]])
    uses_U = rows_UE.sum(dim=1)
    assert measure.favourites(rows_UE, uses_U, top=2) == [[1, 2], [0, 2]]


def test_favourites_of_equal_share_come_in_order_of_use_then_of_id() -> None:
    rows_UE = torch.tensor([[2, 0], [7, 0], [2, 0]])
    assert measure.favourites(rows_UE, torch.tensor([2, 7, 2]), top=3) == [[1, 0, 2], []]


def test_favourites_without_any_tracked_id_are_empty_lists() -> None:
    nothing = torch.zeros(0, 3, dtype=torch.int64)
    assert measure.favourites(nothing, torch.zeros(0, dtype=torch.int64), top=4) == [[], [], []]


def test_shares_of_a_domain_without_tokens_are_zero() -> None:
    rows_ME = torch.tensor([[0, 0], [1, 3]])
    assert measure.domain_row_share(rows_ME).tolist() == [[0.0, 0.0], [0.25, 0.75]]


@given(tables())
def test_row_shares_sum_to_one_wherever_there_is_a_row(table: list[list[int]]) -> None:
    share = measure.domain_row_share(torch.tensor(table))
    for row, total in zip(table, share.sum(dim=1).tolist(), strict=True):
        assert total == pytest.approx(1.0 if sum(row) else 0.0, abs=1e-12)


@given(tables(), st.integers(1, 4))
def test_favourites_agree_with_sorting_every_share_by_hand(
    table: list[list[int]], top: int
) -> None:
    rows_UE, uses = torch.tensor(table), [sum(row) for row in table]
    expected = [
        sorted(
            (u for u, row in enumerate(table) if row[e]),
            key=lambda u: (-table[u][e] / uses[u], -uses[u], u),
        )[:top]
        for e in range(len(table[0]))
    ]
    assert measure.favourites(rows_UE, torch.tensor(uses), top) == expected


def test_lift_is_one_where_partners_are_chosen_without_regard() -> None:
    # a_i * a_j off the diagonal, a = 1, 2, 3, 4
    a_E = torch.tensor([1, 2, 3, 4])
    pairs_EE = a_E.unsqueeze(1) * a_E
    off_EE = measure.lift(pairs_EE) + torch.eye(4)
    assert torch.allclose(off_EE, torch.ones(4, 4, dtype=torch.float64), atol=1e-9)


def test_lift_of_two_couples_that_never_part_is_three() -> None:
    # four experts alike: each pair would have 10 / 3
    pairs_EE = torch.tensor([[10, 10, 0, 0], [10, 10, 0, 0], [0, 0, 10, 10], [0, 0, 10, 10]])
    lift_EE = measure.lift(pairs_EE)
    expected_EE = torch.tensor([[0, 3, 0, 0], [3, 0, 0, 0], [0, 0, 0, 3], [0, 0, 3, 0]])
    assert torch.allclose(lift_EE, expected_EE.double(), atol=1e-9)


def test_an_expert_of_every_token_is_tied_to_nobody() -> None:
    # tokens choose 0 and one other: nothing is left to chance but the other's load
    pairs_EE = torch.tensor([[60, 10, 20, 30], [10, 10, 0, 0], [20, 0, 20, 0], [30, 0, 0, 30]])
    assert measure.lift(pairs_EE)[0, 1:].tolist() == pytest.approx([1, 1, 1], abs=0.02)


def test_lift_without_pairs_is_zero() -> None:
    assert not measure.lift(torch.diag(torch.tensor([3, 0, 5]))).any()
    assert measure.lift(torch.tensor([[4]])).tolist() == [[0.0]]


def test_information_by_hand() -> None:
    # shares 3/8 1/8, 1/8 3/8: 2 * 3/8 * log2(3/2) + 2 * 1/8 * log2(1/2)
    by_hand = 0.75 * math.log2(1.5) - 0.25
    assert measure.information(torch.tensor([[3, 1], [1, 3]])) == pytest.approx(by_hand)


def test_information_is_all_of_the_domain_where_experts_are_its_own() -> None:
    rows_ME = torch.tensor([[5, 0, 0], [0, 3, 2]])
    assert measure.information(rows_ME) == pytest.approx(1.0)
    assert measure.domain_entropy(rows_ME) == pytest.approx(1.0)


def test_information_of_experts_that_all_domains_use_alike_is_none() -> None:
    assert measure.information(torch.tensor([[2, 4, 6], [1, 2, 3]])) == pytest.approx(0, abs=1e-12)
    assert measure.information(torch.zeros(2, 3, dtype=torch.int64)) == 0.0


def test_shuffles_of_independent_rows_are_near_none_and_like_what_was_seen() -> None:
    generator = torch.Generator().manual_seed(1)
    rows_ME = torch.stack(
        [torch.randint(0, 8, (20_000,), generator=generator).bincount(minlength=8) for _ in "ab"]
    )
    shuffled = measure.shuffled_information(rows_ME)
    # (E - 1) * (M - 1) / (2 * rows * ln 2) = 0.000126
    assert sum(shuffled) / len(shuffled) == pytest.approx(0.000126, rel=0.5)
    assert measure.information(rows_ME) < 3 * max(shuffled)


def test_shuffles_know_nothing_of_a_structure_that_is_there() -> None:
    rows_ME = torch.tensor([[500, 0], [0, 500]])
    assert measure.information(rows_ME) == pytest.approx(1.0)
    assert max(measure.shuffled_information(rows_ME)) < 0.02


def test_shuffles_repeat_themselves_and_keep_all_sums() -> None:
    rows_ME = torch.tensor([[7, 0, 3], [0, 9, 1], [2, 2, 2]])
    assert measure.shuffled_information(rows_ME) == measure.shuffled_information(rows_ME)
    dealt_ME = measure._dealt(rows_ME, np.random.default_rng(4))
    assert dealt_ME.sum(0).tolist() == rows_ME.sum(0).tolist()
    assert dealt_ME.sum(1).tolist() == rows_ME.sum(1).tolist()


def test_halves_of_a_text_are_compared_within_it() -> None:
    # the first text changes its expert at half time, the second, three times as long, never does
    rows_ME, later_ME = torch.tensor([[5, 5], [15, 15]]), torch.tensor([[0, 5], [10, 10]])
    assert measure.halves_information(rows_ME, later_ME) == pytest.approx(0.25)


@pytest.mark.parametrize("later", [[[0, 0], [1, 1]], [[5, 5], [1, 1]]])
def test_a_text_with_one_half_only_is_not_compared(later: list[list[int]]) -> None:
    rows_ME = torch.tensor([[5, 5], [4, 4]])
    assert measure.halves_information(rows_ME, torch.tensor(later)) is None
