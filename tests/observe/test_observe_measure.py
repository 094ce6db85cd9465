"""Definitions of what is observed, on counts worked out by hand and over random ones."""

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
