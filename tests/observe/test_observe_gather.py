"""Counts of a layer against counts by hand, and against every token looked at one by one."""

import math

import torch
from hand_routing import routing_of, windows
from hypothesis import given

from expertly.observe.gather import LayerCounts, count, nothing

TRACKED = torch.tensor([1, 3])


def hand() -> LayerCounts:
    """Five tokens, the first one padding; three experts, two a token; domain 1 of 2."""
    chosen = [[0, 1], [2, 0], [2, 1], [0, 2], [0, 1]]
    mask = [False, True, True, True, True]
    ids_T = torch.tensor([3, 3, 5, 1, 3])
    routing = routing_of(chosen, 3, mask)
    return count(ids_T, routing, domain=1, num_domains=2, tracked_U=TRACKED)


def test_rows_are_counted_for_the_domain_of_the_window_only() -> None:
    assert hand().rows_ME.tolist() == [[0, 0, 0], [3, 2, 3]]
    assert hand().tokens_M.tolist() == [0, 4]


def test_pairs_are_tokens_that_chose_both_and_singles_stand_on_the_diagonal() -> None:
    assert hand().pairs_EE.tolist() == [[3, 1, 2], [1, 2, 1], [2, 1, 3]]


def test_tracked_ids_are_counted_without_padding_and_others_not_at_all() -> None:
    assert hand().uses_U.tolist() == [1, 2]
    assert hand().rows_UE.tolist() == [[1, 0, 1], [2, 1, 1]]


def test_repeats_are_counted_among_tokens_that_follow_a_token() -> None:
    # first experts after the padding: 2 2 0 0
    assert (hand().repeats, hand().neighbours) == (2, 3)


def test_entropy_is_summed_over_tokens() -> None:
    assert math.isclose(hand().entropy_sum, 4 * math.log(3), rel_tol=1e-6)


def test_nothing_tracked_gives_an_empty_table() -> None:
    none = torch.tensor([], dtype=torch.int64)
    routing = routing_of([[0], [1]], 2)
    counts = count(torch.tensor([4, 4]), routing, domain=0, num_domains=1, tracked_U=none)
    assert counts.rows_UE.shape == (0, 2)
    assert counts.uses_U.tolist() == []


def test_a_token_id_beyond_the_last_tracked_one_is_not_mistaken_for_it() -> None:
    routing = routing_of([[0], [1]], 2)
    counts = count(torch.tensor([9, 2]), routing, domain=0, num_domains=1, tracked_U=TRACKED)
    assert counts.uses_U.tolist() == [0, 0]


def test_nothing_is_the_zero_of_the_sum() -> None:
    total = nothing(3, 2, 2).plus(hand())
    for name, value in hand()._asdict().items():
        assert torch.equal(torch.as_tensor(getattr(total, name)), torch.as_tensor(value)), name


def test_adding_doubles_every_count_when_the_window_comes_twice() -> None:
    twice = hand().plus(hand())
    for name, value in hand()._asdict().items():
        doubled = 2 * torch.as_tensor(value)
        assert torch.equal(torch.as_tensor(getattr(twice, name)), doubled), name


@given(windows())
def test_sums_over_windows_agree_with_looking_at_every_token(case) -> None:  # type: ignore[no-untyped-def]
    num_experts, parts = case
    total = nothing(num_experts, 3, 2)
    rows = [[0] * num_experts for _ in range(3)]
    tokens = [0] * 3
    pairs = [[0] * num_experts for _ in range(num_experts)]
    by_id = [[0] * num_experts for _ in range(2)]
    uses = [0, 0]
    repeats = neighbours = 0
    for domain, chosen, ids, mask in parts:
        routing = routing_of(chosen, num_experts, mask)
        total = total.plus(
            count(torch.tensor(ids), routing, domain=domain, num_domains=3, tracked_U=TRACKED)
        )
        for t, experts in enumerate(chosen):
            if not mask[t]:
                continue
            tokens[domain] += 1
            if t and mask[t - 1]:
                neighbours += 1
                repeats += experts[0] == chosen[t - 1][0]
            if ids[t] in (1, 3):
                uses[(1, 3).index(ids[t])] += 1
            for i in experts:
                rows[domain][i] += 1
                if ids[t] in (1, 3):
                    by_id[(1, 3).index(ids[t])][i] += 1
                for j in experts:
                    pairs[i][j] += 1
    assert total.rows_ME.tolist() == rows
    assert total.tokens_M.tolist() == tokens
    assert total.pairs_EE.tolist() == pairs
    assert total.rows_UE.tolist() == by_id
    assert total.uses_U.tolist() == uses
    assert (total.repeats, total.neighbours) == (repeats, neighbours)
