"""Measures of load against numbers worked out by hand and direct float64 formulas."""

import math

import pytest
import torch
from hand_routing import routing_of
from hypothesis import assume, given
from hypothesis import strategies as st

from expertly.mixture import measures

loads = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


def test_counts_leave_the_rows_of_padding_out() -> None:
    routing = routing_of([[0, 1], [1, 3], [3, 0]], 4, mask=[False, True, True])
    assert routing.counts_E.tolist() == [2, 2, 0, 2]
    assert measures.counts(routing).tolist() == [1, 1, 0, 2]


def test_counts_name_every_expert_even_after_only_padding() -> None:
    routing = routing_of([[0], [1]], 3, mask=[False, False])
    assert measures.counts(routing).tolist() == [0, 0, 0]


def test_row_experts_follow_the_order_of_the_rows() -> None:
    routing = routing_of([[3, 1], [1, 0]], 4)
    assert measures.row_experts(routing).tolist() == [0, 1, 1, 3]
    assert routing.token_R.tolist() == [1, 0, 1, 0]


def test_max_violation_of_a_load_worked_out_by_hand() -> None:
    # mean 2.5, largest 6: (6 - 2.5) / 2.5
    assert measures.max_violation(torch.tensor([1, 3, 6, 0])) == pytest.approx(1.4, abs=1e-15)


def test_max_violation_of_everything_at_one_expert_is_the_number_of_the_others() -> None:
    assert measures.max_violation(torch.tensor([0, 7, 0, 0, 0])) == 4.0


def test_load_entropy_of_a_load_worked_out_by_hand() -> None:
    # shares 1/2, 1/4, 1/4, 0: 1.5 bits of 2
    assert measures.load_entropy(torch.tensor([2, 1, 1, 0])) == pytest.approx(0.75, abs=1e-15)


def test_load_entropy_of_everything_at_one_expert_is_zero() -> None:
    assert measures.load_entropy(torch.tensor([0, 9, 0])) == 0.0


def test_a_single_row_is_all_at_one_expert() -> None:
    assert measures.load_entropy(torch.tensor([0, 1, 0])) == 0.0
    assert measures.max_violation(torch.tensor([0, 1, 0])) == 2.0
    assert measures.gini(torch.tensor([0, 1, 0])) == pytest.approx(2 / 3, abs=1e-15)


def test_gini_of_a_load_worked_out_by_hand() -> None:
    # pairs of 1, 2, 5: differences 1, 4, 3, each twice: 16 / (2 * 3 * 8)
    assert measures.gini(torch.tensor([5, 1, 2])) == pytest.approx(1 / 3, abs=1e-15)


def test_gini_of_everything_at_one_expert_is_one_less_the_fair_share() -> None:
    assert measures.gini(torch.tensor([0, 0, 8, 0])) == pytest.approx(0.75, abs=1e-15)


def test_dead_experts_are_those_strictly_below_the_floor() -> None:
    # fair is 100 rows of 400; a hundredth of that is 1 row, which is not below it
    assert measures.dead_experts(torch.tensor([399, 0, 1, 0])) == [1, 3]


def test_dead_experts_depend_on_the_floor_that_is_asked_for() -> None:
    counts_E = torch.tensor([60, 5, 35])
    assert measures.dead_experts(counts_E) == []
    assert measures.dead_experts(counts_E, floor=0.2) == [1]
    assert measures.dead_experts(counts_E, floor=1.1) == [1, 2]


def test_one_expert_alone_is_balanced_by_every_measure() -> None:
    counts_E = torch.tensor([12])
    assert measures.load_entropy(counts_E) == 1.0
    assert measures.max_violation(counts_E) == 0.0
    assert measures.gini(counts_E) == 0.0
    assert measures.dead_experts(counts_E) == []


def test_no_rows_at_all_count_as_balanced() -> None:
    counts_E = torch.zeros(5, dtype=torch.int64)
    assert measures.load_entropy(counts_E) == 1.0
    assert measures.max_violation(counts_E) == 0.0
    assert measures.gini(counts_E) == 0.0
    assert measures.dead_experts(counts_E) == []


def test_token_entropy_is_the_mean_over_tokens_in_nats() -> None:
    probs = [[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    routing = routing_of([[0], [0], [0]], 4, probs=probs)
    expected = (math.log(2) + 0 + math.log(4)) / 3
    assert measures.token_entropy(routing) == pytest.approx(expected, abs=1e-15)


def test_token_entropy_ignores_padding() -> None:
    probs = [[0.5, 0.5], [1.0, 0.0]]
    routing = routing_of([[0], [0]], 2, mask=[True, False], probs=probs)
    assert measures.token_entropy(routing) == pytest.approx(math.log(2), abs=1e-15)


def test_token_entropy_normalises_scores_that_do_not_sum_to_one() -> None:
    routing = routing_of([[0]], 2, probs=[[0.75, 0.25]])
    doubled = routing._replace(probs_TE=routing.probs_TE * 2)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert measures.token_entropy(routing) == pytest.approx(expected, abs=1e-15)
    assert measures.token_entropy(doubled) == pytest.approx(expected, abs=1e-15)


def test_token_entropy_of_scores_that_are_all_zero_is_zero() -> None:
    routing = routing_of([[0], [1]], 2, probs=[[0.0, 0.0], [0.5, 0.5]])
    assert measures.token_entropy(routing) == pytest.approx(math.log(2) / 2, abs=1e-15)


def test_token_entropy_without_tokens_is_zero() -> None:
    assert measures.token_entropy(routing_of([[0]], 2, mask=[False])) == 0.0


def test_consecutive_repeats_compare_first_experts_only() -> None:
    # first experts 2 2 1 2: one repeat in three neighbours; second experts repeat without counting
    routing = routing_of([[2, 0], [2, 1], [1, 2], [2, 1]], 3)
    assert measures.consecutive_repeats(routing) == (1, 3)


def test_consecutive_repeats_do_not_cross_sequences_or_padding() -> None:
    experts = [[0], [0], [0], [0], [0], [0]]
    mask = [False, True, True, True, False, True]
    routing = routing_of(experts, 2, mask=mask, sequence=[0, 0, 0, 1, 1, 1])
    # only the pair of tokens 1 and 2 is within one sequence and free of padding
    assert measures.consecutive_repeats(routing) == (1, 1)


def test_consecutive_repeats_skip_tokens_whose_first_choice_was_dropped() -> None:
    routing = routing_of([[0], [0], [0]], 2)
    kept = routing.token_R != 1
    dropped = routing._replace(
        token_R=routing.token_R[kept],
        slot_R=routing.slot_R[kept],
        weight_R=routing.weight_R[kept],
        counts_E=torch.tensor([2, 0]),
    )
    assert measures.consecutive_repeats(dropped) == (0, 0)


@given(loads)
def test_measures_agree_with_their_formulas_written_out(load: list[int]) -> None:
    counts_E, size, total = torch.tensor(load), len(load), sum(load)
    if total == 0 or size == 1:
        return
    shares = [n / total for n in load]
    entropy = -sum(f * math.log(f) for f in shares if f) / math.log(size)
    gini = sum(abs(a - b) for a in load for b in load) / (2 * size * total)
    assume(all(100 * size * n != total for n in load))
    dead = [i for i, n in enumerate(load) if 100 * size * n < total]
    assert measures.load_entropy(counts_E) == pytest.approx(entropy, abs=1e-12)
    assert measures.max_violation(counts_E) == pytest.approx(max(shares) * size - 1, abs=1e-12)
    assert measures.gini(counts_E) == pytest.approx(gini, abs=1e-12)
    assert measures.dead_experts(counts_E) == dead


@given(loads)
def test_measures_stay_within_their_bounds(load: list[int]) -> None:
    counts_E, size = torch.tensor(load), len(load)
    assert 0.0 <= measures.load_entropy(counts_E) <= 1.0
    assert 0.0 <= measures.max_violation(counts_E) <= size - 1 + 1e-12
    assert 0.0 <= measures.gini(counts_E) <= 1 - 1 / size + 1e-12
    assert len(measures.dead_experts(counts_E)) < size


@given(loads, st.randoms(use_true_random=False))
def test_permuting_the_experts_changes_no_measure(load: list[int], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(load)))
    random.shuffle(order)
    before, after = torch.tensor(load), torch.tensor(load)[order]
    assert measures.load_entropy(after) == pytest.approx(measures.load_entropy(before), abs=1e-12)
    assert measures.max_violation(after) == measures.max_violation(before)
    assert measures.gini(after) == pytest.approx(measures.gini(before), abs=1e-12)
    dead = measures.dead_experts(before)
    assert sorted(order[i] for i in measures.dead_experts(after)) == dead


@given(st.integers(1, 64), st.integers(1, 10_000))
def test_an_even_load_is_perfect_by_every_measure(num_experts: int, rows: int) -> None:
    counts_E = torch.full((num_experts,), rows)
    assert measures.load_entropy(counts_E) == pytest.approx(1.0, abs=1e-12)
    assert measures.max_violation(counts_E) == 0.0
    assert measures.gini(counts_E) == pytest.approx(0.0, abs=1e-12)
    assert measures.dead_experts(counts_E) == []


@given(loads, st.integers(2, 50))
def test_the_same_load_over_more_tokens_measures_the_same(load: list[int], times: int) -> None:
    once, often = torch.tensor(load), torch.tensor(load) * times
    assert measures.load_entropy(often) == pytest.approx(measures.load_entropy(once), abs=1e-12)
    assert measures.max_violation(often) == pytest.approx(measures.max_violation(once), abs=1e-12)
    assert measures.gini(often) == pytest.approx(measures.gini(once), abs=1e-12)
    assert measures.dead_experts(often) == measures.dead_experts(once)
