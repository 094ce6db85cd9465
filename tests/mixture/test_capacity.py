"""Room for so many rows an expert: by hand, and what holds of every case."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expertly.config import Capacity, Router
from expertly.mixture.capacity import fit, rows_of_room
from expertly.mixture.routers import choose
from expertly.mixture.routing import Tokens, sort_rows

POLICIES = ["drop_weight", "drop_position", "next"]

# four tokens, all of which want expert 0 first
PROBS = torch.tensor(
    [
        [0.50, 0.30, 0.15, 0.05],
        [0.70, 0.10, 0.15, 0.05],
        [0.40, 0.35, 0.05, 0.20],
        [0.60, 0.05, 0.25, 0.10],
    ]
)
ALL = torch.ones(4, dtype=torch.bool)


def fitted(
    num_chosen: int, policy: str, factor: float, mask_T: Tensor = ALL, probs_TE: Tensor = PROBS
) -> list[list[int | None]]:
    """The expert of each slot of each token, None where the row is dropped."""
    ids_TK = probs_TE.topk(num_chosen).indices
    capacity = Capacity(factor=factor, policy=policy)
    ids_TK, kept_TK = fit(ids_TK, probs_TE, probs_TE, mask_T, capacity, probs_TE.shape[1])
    pairs = zip(ids_TK.tolist(), kept_TK.tolist(), strict=True)
    return [[e if k else None for e, k in zip(*pair, strict=True)] for pair in pairs]


@pytest.mark.parametrize(
    ("tokens", "chosen", "experts", "factor", "room"),
    [(4, 1, 4, 1.0, 1), (4, 1, 4, 1.25, 2), (10, 2, 4, 1.0, 5), (3, 2, 8, 0.1, 1), (0, 2, 4, 2, 0)],
)
def test_room_is_the_fair_share_times_the_factor_rounded_up(
    tokens, chosen, experts, factor, room
) -> None:
    assert rows_of_room(tokens, chosen, experts, factor) == room


def test_the_least_probable_rows_are_dropped() -> None:
    # room for ceil(4 / 4 * 2) = 2
    assert fitted(1, "drop_weight", 2.0) == [[None], [0], [None], [0]]


def test_the_last_rows_are_dropped() -> None:
    assert fitted(1, "drop_position", 2.0) == [[0], [0], [None], [None]]


def test_rows_beyond_go_to_their_tokens_next_choice() -> None:
    # room for 1: token 1 keeps 0; then 0 and 2 ask 1, where 2 is surer; 3 gets 2; 0 asks 2, which
    # is full, and gets 3
    assert fitted(1, "next", 1.0) == [[3], [0], [1], [2]]


def test_two_slots_of_a_token_go_on_to_two_experts() -> None:
    # room for 2 each. 0: tokens 1, 3; 1: tokens 2, 0; 2: tokens 3, 1. Token 0 lost 0, and 2 is
    # full: 3. Token 2 lost 0: 3.
    assert fitted(2, "next", 1.0) == [[3, 1], [0, 2], [3, 1], [0, 2]]


def test_padding_takes_no_room_and_counts_for_none() -> None:
    mask_T = torch.tensor([True, False, True, True])
    # room for ceil(3 / 4 * 1) = 1, and token 1, which is surest, is none
    assert fitted(1, "drop_weight", 1.0, mask_T) == [[None], [None], [None], [0]]
    assert fitted(1, "drop_position", 1.0, mask_T) == [[0], [None], [None], [None]]
    assert fitted(1, "next", 1.0, mask_T) == [[2], [None], [1], [0]]


def test_zero_experts_have_room_for_all() -> None:
    capacity = Capacity(factor=1.0, policy="drop_weight")
    probs_TE = torch.tensor([[0.1, 0.2, 0.7]] * 5)
    mask_T = torch.ones(5, dtype=torch.bool)
    ids_TK, kept_TK = fit(probs_TE.topk(2).indices, probs_TE, probs_TE, mask_T, capacity, 2)
    # experts 0 and 1 have room for ceil(5 * 2 / 2) = 5: nothing is lost
    assert kept_TK.all()
    tight = Capacity(factor=0.2, policy="drop_weight")
    _, kept_TK = fit(ids_TK, probs_TE, probs_TE, mask_T, tight, 2)
    assert kept_TK[:, 0].all()
    assert kept_TK[:, 1].tolist() == [True, False, False, False, False]


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Tensor, int, Tensor, float]:
    """Probabilities that favour the first experts, K, a mask and a factor."""
    num_tokens, num_experts = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32))
    logits_TE = torch.randn(
        num_tokens, num_experts, generator=torch.Generator().manual_seed(seed)
    ) - torch.arange(num_experts)
    mask = draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    factor = draw(st.sampled_from([0.2, 0.5, 1.0, 1.25, 2.0]))
    num_chosen = draw(st.integers(1, num_experts))
    return logits_TE.softmax(-1), num_chosen, torch.tensor(mask), factor


@settings(max_examples=200)
@given(crowds(), st.sampled_from(POLICIES))
def test_no_expert_has_more_rows_than_room_and_no_token_one_twice(case, policy) -> None:
    probs_TE, num_chosen, mask_T, factor = case
    num_experts = probs_TE.shape[1]
    found = fitted(num_chosen, policy, factor, mask_T, probs_TE)
    room = math.ceil(int(mask_T.sum()) * num_chosen / num_experts * factor)
    rows = [e for token in found for e in token if e is not None]
    assert all(rows.count(e) <= room for e in range(num_experts))
    for token, is_real in zip(found, mask_T.tolist(), strict=True):
        kept = [e for e in token if e is not None]
        assert len(set(kept)) == len(kept)
        assert is_real or not kept


@settings(max_examples=200)
@given(crowds())
def test_with_next_nobody_is_dropped_while_an_expert_it_lacks_has_room(case) -> None:
    probs_TE, num_chosen, mask_T, factor = case
    num_experts = probs_TE.shape[1]
    found = fitted(num_chosen, "next", factor, mask_T, probs_TE)
    room = math.ceil(int(mask_T.sum()) * num_chosen / num_experts * factor)
    rows = [e for token in found for e in token if e is not None]
    for token in (token for token, is_real in zip(found, mask_T.tolist(), strict=True) if is_real):
        if None in token:
            lacks = set(range(num_experts)) - set(token)
            assert all(rows.count(e) == room for e in lacks)


@settings(max_examples=200)
@given(crowds(), st.sampled_from(["drop_weight", "drop_position"]))
def test_what_is_dropped_comes_after_all_that_its_expert_kept(case, policy) -> None:
    probs_TE, num_chosen, mask_T, factor = case
    found = fitted(num_chosen, policy, factor, mask_T, probs_TE)
    wanted = probs_TE.topk(num_chosen).indices.tolist()
    for e in range(probs_TE.shape[1]):
        real = [t for t in range(len(found)) if mask_T[t] and e in wanted[t]]
        kept = [t for t in real if e in found[t]]
        lost = [t for t in real if e not in found[t]]
        if policy == "drop_position":
            assert all(k < t for k in kept for t in lost)
        else:
            assert all(probs_TE[k, e] >= probs_TE[t, e] for k in kept for t in lost)


@pytest.mark.parametrize("policy", POLICIES)
def test_room_enough_for_all_changes_nothing(policy: str) -> None:
    expected = PROBS.topk(2).indices.tolist()
    assert fitted(2, policy, 4.0) == expected


def test_capacity_acts_in_training_alone() -> None:
    logits_TE = PROBS.log()
    router = Router(capacity=Capacity(factor=1.0))
    assert choose(logits_TE, 1, router).kept_TK is None
    kept_TK = choose(logits_TE, 1, router, is_training=True).kept_TK
    assert kept_TK.flatten().tolist() == [False, True, False, False]


def test_rows_sent_on_are_weighed_by_the_expert_that_has_them() -> None:
    router = Router(capacity=Capacity(factor=1.0, policy="next"))
    choice = choose(PROBS.log(), 1, router, is_training=True)
    torch.testing.assert_close(choice.weight_TK.flatten(), torch.tensor([0.05, 0.7, 0.35, 0.25]))


def test_padding_has_no_rows_where_room_is_short() -> None:
    tokens = Tokens(torch.tensor([True, False, True, True]), torch.zeros(4).long())
    router = Router(capacity=Capacity(factor=8.0))
    choice = choose(PROBS.log(), 2, router, tokens=tokens, is_training=True)
    rows = sort_rows(choice.ids_TK, 4, choice.kept_TK)
    assert 1 not in (rows.order_R // 2).tolist()
    assert len(rows.order_R) == rows.counts_E.sum() == 6
