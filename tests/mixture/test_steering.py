"""Biases that steer a choice: a step by hand, and what many steps lead to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expertly.mixture import steering


def counts(scores_TE: Tensor, bias_E: Tensor, num_chosen: int) -> Tensor:
    ids_TK = (scores_TE + bias_E).topk(num_chosen).indices
    return torch.bincount(ids_TK.flatten(), minlength=len(bias_E))


def skewed(num_tokens: int, num_experts: int, seed: int) -> Tensor:
    """Scores of which the first experts have more."""
    generator = torch.Generator().manual_seed(seed)
    logits_TE = torch.randn(num_tokens, num_experts, generator=generator)
    return (logits_TE + torch.linspace(2, -2, num_experts)).sigmoid()


def test_a_step_goes_up_below_the_mean_and_down_above_it_and_is_recentred() -> None:
    bias_E = steering.stepped(torch.zeros(4), torch.tensor([0, 1, 2, 9]), 0.1)
    # the mean is 3: up, up, up, down, and the mean of that taken off
    torch.testing.assert_close(bias_E, torch.tensor([0.05, 0.05, 0.05, -0.15]))


def test_an_even_load_moves_nothing() -> None:
    before_E = torch.tensor([0.3, -0.1, -0.2])
    torch.testing.assert_close(steering.stepped(before_E, torch.tensor([5, 5, 5]), 0.1), before_E)


def test_steps_balance_a_skewed_router() -> None:
    scores_TE, bias_E = skewed(512, 8, 0), torch.zeros(8)
    assert counts(scores_TE, bias_E, 2).max() > 2 * 128
    for _ in range(800):
        bias_E = steering.stepped(bias_E, counts(scores_TE, bias_E, 2), 0.001)
    assert counts(scores_TE, bias_E, 2).max() < 1.1 * 128
    assert abs(float(bias_E.mean())) < 1e-6


def test_a_quantile_step_worked_out_by_hand() -> None:
    # top-1 of 2 experts, 4 tokens: expert 1 has 3 of them; s - alpha are those of the other expert
    scores_TE = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.7], [0.45, 0.6]])
    # expert 0: 0.9 - 0.1, 0.2 - 0.2, 0.4 - 0.4, 0.45 - 0.45; the third largest is 0
    # expert 1: 0.1 - 0.1, 0.8 - 0.2, 0.7 - 0.4, 0.6 - 0.45; the third largest is 0.15
    bias_E = steering.to_quantiles(torch.zeros(2), scores_TE, 1)
    torch.testing.assert_close(bias_E, torch.tensor([0.075, -0.075]))


@settings(max_examples=60)
@given(
    st.integers(8, 80), st.integers(3, 9), st.integers(1, 2), st.integers(0, 2**31)
)  # any T K / E
def test_quantile_steps_give_every_expert_its_share(
    num_tokens: int, num_experts: int, num_chosen: int, seed: int
) -> None:
    scores_TE, bias_E = skewed(num_tokens, num_experts, seed), torch.zeros(num_experts)
    fair = num_tokens * num_chosen / num_experts
    best = float(counts(scores_TE, bias_E, num_chosen).max()) - fair
    for _ in range(40):
        bias_E = steering.to_quantiles(bias_E, scores_TE, num_chosen)
        best = min(best, float(counts(scores_TE, bias_E, num_chosen).max()) - fair)
    assert best <= 0.25 * fair + 2


def test_one_quantile_step_takes_most_of_the_violation_away() -> None:
    scores_TE, bias_E = skewed(2048, 16, 3), torch.zeros(16)
    before = float(counts(scores_TE, bias_E, 4).max()) / 512 - 1
    after = float(counts(scores_TE, steering.to_quantiles(bias_E, scores_TE, 4), 4).max()) / 512 - 1
    assert after < before / 3


@pytest.mark.parametrize(("num_tokens", "num_chosen"), [(0, 1), (5, 3)])
def test_nothing_moves_without_tokens_or_a_choice(num_tokens: int, num_chosen: int) -> None:
    bias_E = torch.tensor([0.1, -0.1, 0.0])
    scores_TE = torch.rand(num_tokens, 3)
    assert torch.equal(steering.to_quantiles(bias_E, scores_TE, num_chosen), bias_E)


def test_more_experts_than_wanted_make_the_sparsity_weigh_more() -> None:
    assert steering.relu_weight(1.0, 4.5, 4) == 1.2
    assert steering.relu_weight(1.2, 4.0, 4) == pytest.approx(1.0)
