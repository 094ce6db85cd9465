"""Which columns of a batch are tokens: hand-made masks, and masks of all against none."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expertly.model.columns import Columns

# padding on the left, on both sides, and in between; the last sequence ends with padding
MASK_BS = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]).bool()


def rows(count: int) -> Tensor:
    return torch.arange(1.0, count + 1)[:, None] * torch.tensor([1.0, 10.0])


def test_tokens_are_counted_by_sequence_and_in_the_order_of_their_columns() -> None:
    columns = Columns((3, 4), MASK_BS)
    assert columns.counts_B == [3, 2, 3]
    assert columns.num_tokens == 8
    assert columns.sequence_T.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert columns.rank_T.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_ids_of_padding_are_left_out() -> None:
    ids_BS = torch.arange(12).view(3, 4)
    assert Columns((3, 4), MASK_BS).tokens_of(ids_BS).tolist() == [1, 2, 3, 5, 7, 8, 9, 10]
    assert Columns((3, 4)).tokens_of(ids_BS).tolist() == list(range(12))


def test_a_sequence_that_ends_with_padding_has_no_last_row() -> None:
    columns = Columns((3, 4), MASK_BS)
    assert columns.last_rows().tolist() == [2, 4]
    found_BX = columns.spread_last(rows(2))
    assert found_BX.tolist() == [[1.0, 10.0], [2.0, 20.0], [0.0, 0.0]]


def test_rows_go_to_their_columns_and_padding_is_zeros() -> None:
    found_BSX = Columns((3, 4), MASK_BS).spread(rows(8))
    assert found_BSX[:, :, 0].tolist() == [[0, 1, 2, 3], [0, 4, 0, 5], [6, 7, 8, 0]]
    assert torch.equal(found_BSX[:, :, 1], 10 * found_BSX[:, :, 0])


def test_all_columns_are_known_to_routings_whichever_are_tokens() -> None:
    padded, full = Columns((3, 4), MASK_BS).tokens(), Columns((3, 4)).tokens()
    assert padded.mask_T.tolist() == MASK_BS.flatten().tolist()
    assert full.mask_T.tolist() == [True] * 12
    for tokens in (padded, full):
        assert tokens.sequence_T.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@given(st.integers(1, 5), st.integers(1, 6))
def test_no_mask_is_a_mask_of_all(num_sequences: int, num_columns: int) -> None:
    shape = (num_sequences, num_columns)
    plain, masked = Columns(shape), Columns(shape, torch.ones(shape, dtype=torch.bool))
    assert plain.counts_B == masked.counts_B
    ids_BS = torch.arange(num_sequences * num_columns).view(shape)
    for found, expected in (
        (plain.sequence_T, masked.sequence_T),
        (plain.rank_T, masked.rank_T),
        (plain.last_rows(), masked.last_rows()),
        (plain.tokens_of(ids_BS), masked.tokens_of(ids_BS)),
    ):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
    rows_TX = rows(plain.num_tokens)
    assert torch.equal(plain.spread(rows_TX), masked.spread(rows_TX))
    last_LX = rows_TX[torch.from_numpy(plain.last_rows())]
    assert torch.equal(plain.spread_last(last_LX), masked.spread_last(last_LX))
    assert torch.equal(plain.spread(rows_TX)[:, -1], plain.spread_last(last_LX))
