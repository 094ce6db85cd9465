"""Rows sorted by expert: nothing lost, nothing twice, weights with their rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from expertly.mixture.routing import Choice, Routing, Tokens, sort_rows, to_routing


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """Experts of each token, all distinct, and how many experts there are."""
    num_experts = draw(st.integers(1, 7))
    num_chosen = draw(st.integers(1, num_experts))
    token = st.permutations(range(num_experts)).map(lambda order: order[:num_chosen])
    return draw(st.lists(token, min_size=1, max_size=9)), num_experts


def routing_of(chosen: list[list[int]], num_experts: int) -> Routing:
    ids_TK = torch.tensor(chosen)
    # a weight that tells its token and slot
    weight_TK = torch.arange(ids_TK.numel(), dtype=torch.float32).view_as(ids_TK) + 0.5
    table_TE = torch.randn(len(chosen), num_experts, generator=torch.Generator().manual_seed(0))
    choice = Choice(ids_TK, weight_TK, table_TE, table_TE + 1, table_TE + 2)
    mask_T = torch.arange(len(chosen)) % 2 == 0
    tokens = Tokens(mask_T, torch.arange(len(chosen)) // 3)
    return to_routing(choice, sort_rows(ids_TK, num_experts), tokens)


def test_rows_of_two_tokens_sorted_by_hand() -> None:
    rows = sort_rows(torch.tensor([[2, 0], [0, 3]]), 5)
    assert rows.order_R.tolist() == [1, 2, 0, 3]
    assert rows.counts_E.tolist() == [2, 0, 1, 1, 0]


@given(choices())
def test_rows_come_by_expert_and_within_one_by_token(case) -> None:
    chosen, num_experts = case
    routing = routing_of(chosen, num_experts)
    flat = [(e, t, k) for t, experts in enumerate(chosen) for k, e in enumerate(experts)]
    expert_R = torch.arange(num_experts).repeat_interleave(routing.counts_E).tolist()
    rows = list(zip(expert_R, routing.token_R.tolist(), routing.slot_R.tolist(), strict=True))
    # sorted, and the same (expert, token, slot) triples: each exactly once
    assert rows == sorted(flat)
    assert routing.counts_E.tolist() == [
        sum(e == i for e, _, _ in flat) for i in range(num_experts)
    ]


@given(choices())
def test_weights_follow_their_rows(case) -> None:
    chosen, num_experts = case
    routing = routing_of(chosen, num_experts)
    expected = routing.token_R * len(chosen[0]) + routing.slot_R + 0.5
    assert torch.equal(routing.weight_R, expected)


def test_rows_of_one_expert_keep_the_order_of_many_tokens() -> None:
    # long enough for a sort that is not stable to show
    ids_TK = (torch.arange(2000) % 2)[:, None]
    order = sort_rows(ids_TK, 2).order_R
    assert torch.equal(order, torch.cat((torch.arange(0, 2000, 2), torch.arange(1, 2000, 2))))


def test_a_routing_hands_on_tables_and_tokens_as_they_are() -> None:
    routing = routing_of([[1, 0], [0, 2], [2, 1], [0, 1]], 3)
    assert torch.equal(routing.probs_TE, routing.logits_TE + 1)
    assert torch.equal(routing.scores_TE, routing.logits_TE + 2)
    assert routing.mask_T.tolist() == [True, False, True, False]
    assert routing.sequence_T.tolist() == [0, 0, 0, 1]


def test_no_tokens_make_no_rows() -> None:
    rows = sort_rows(torch.zeros(0, 2, dtype=torch.int64), 3)
    assert rows.order_R.shape == (0,)
    assert rows.counts_E.tolist() == [0, 0, 0]
