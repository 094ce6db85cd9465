"""Every rule and its gradient against its formula, written out one token at a time in float64."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from router_tables import CASES, assert_same_with_gradient, by_expert, grouped_tables, tables
from torch import Tensor

from expertly.config import Groups, Router
from expertly.mixture.routers import choose
from expertly.mixture.routing import Tokens

seldom_equal = 1e-9


def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + (-z).exp())


def root_of_softplus(z: Tensor) -> Tensor:
    return (1 + z.exp()).log() ** 0.5


def softmax(z_E: Tensor) -> list[Tensor]:
    total = sum(z.exp() for z in z_E)
    return [z.exp() / total for z in z_E]


def largest(values: list[float], count: int) -> list[int]:
    """Indices of the largest values; a case in which two are nearly equal is left out."""
    order = sorted(range(len(values)), key=lambda e: -values[e])
    if count < len(values):
        assume(values[order[count - 1]] - values[order[count]] > seldom_equal)
    return order[:count]


def weights_row(chosen: dict[int, Tensor], like_E: Tensor) -> Tensor:
    zero = like_E.sum() * 0
    return torch.stack([chosen.get(e, zero) for e in range(len(like_E))])


@settings(max_examples=CASES)
@given(tables(), st.data())
def test_deepseek_v3_chooses_by_biased_sigmoids_and_weighs_by_plain_ones(logits_TE, data) -> None:
    z_TE = logits_TE.requires_grad_()
    num_experts = z_TE.shape[1]
    num_chosen = data.draw(st.integers(1, num_experts))
    steer = data.draw(st.lists(st.floats(-1, 1), min_size=num_experts, max_size=num_experts))
    rows = []
    for z_E in z_TE:
        s = [sigmoid(z) for z in z_E]
        ids = largest([float(v.detach()) + b for v, b in zip(s, steer, strict=True)], num_chosen)
        total = sum(s[e] for e in ids)
        rows.append(weights_row({e: 2.5 * s[e] / total for e in ids}, z_E))
    router = Router(score="sigmoid", norm_p=1.0, scale=2.5, has_steering_bias=True)
    choice = choose(z_TE, num_chosen, router, steer_E=torch.tensor(steer, dtype=torch.float64))
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)


@settings(max_examples=CASES)
@given(grouped_tables(), st.data())
def test_deepseek_v3_looks_in_the_groups_whose_two_best_sum_highest(case, data) -> None:
    logits_TE, num_groups = case
    z_TE = logits_TE.requires_grad_()
    size = z_TE.shape[1] // num_groups
    num_best = data.draw(st.integers(1, num_groups))
    num_chosen = data.draw(st.integers(1, num_best * size))
    rows = []
    for z_E in z_TE:
        s = [sigmoid(z) for z in z_E]
        plain = [float(v.detach()) for v in s]
        groups = [list(range(g * size, (g + 1) * size)) for g in range(num_groups)]
        sums = [sum(sorted(plain[e] for e in group)[-2:]) for group in groups]
        inside = [e for g in largest(sums, num_best) for e in groups[g]]
        ids = [inside[i] for i in largest([plain[e] for e in inside], num_chosen)]
        total = sum(s[e] for e in ids)
        rows.append(weights_row({e: s[e] / total for e in ids}, z_E))
    router = Router(
        score="sigmoid",
        norm_p=1.0,
        groups=Groups(num=num_groups, num_chosen=num_best, score="top_two"),
    )
    choice = choose(z_TE, num_chosen, router)
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)


@settings(max_examples=CASES)
@given(grouped_tables(), st.data())
def test_deepseek_v2_looks_in_the_groups_of_the_highest_probabilities(case, data) -> None:
    logits_TE, num_groups = case
    z_TE = logits_TE.requires_grad_()
    size = z_TE.shape[1] // num_groups
    num_best = data.draw(st.integers(1, num_groups))
    num_chosen = data.draw(st.integers(1, num_best * size))
    rows = []
    for z_E in z_TE:
        p = softmax(z_E)
        plain = [float(v.detach()) for v in p]
        groups = [list(range(g * size, (g + 1) * size)) for g in range(num_groups)]
        best = largest([max(plain[e] for e in group) for group in groups], num_best)
        inside = [e for g in best for e in groups[g]]
        ids = [inside[i] for i in largest([plain[e] for e in inside], num_chosen)]
        rows.append(weights_row({e: 16 * p[e] for e in ids}, z_E))
    router = Router(scale=16.0, groups=Groups(num=num_groups, num_chosen=num_best))
    choice = choose(z_TE, num_chosen, router)
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)


@settings(max_examples=CASES)
@given(tables(), st.data())
def test_deepseek_v4_scores_by_roots_of_softplus(logits_TE, data) -> None:
    z_TE = logits_TE.requires_grad_()
    num_chosen = data.draw(st.integers(1, z_TE.shape[1]))
    rows = []
    for z_E in z_TE:
        s = [root_of_softplus(z) for z in z_E]
        ids = largest([float(v.detach()) for v in s], num_chosen)
        total = sum(s[e] for e in ids)
        rows.append(weights_row({e: 1.5 * s[e] / total for e in ids}, z_E))
    choice = choose(z_TE, num_chosen, Router(score="sqrt_softplus", norm_p=1.0, scale=1.5))
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)


@settings(max_examples=CASES)
@given(tables())
def test_switch_keeps_the_probability_of_its_one_expert(logits_TE) -> None:
    z_TE = logits_TE.requires_grad_()
    rows = []
    for z_E in z_TE:
        best = int(z_E.argmax())
        rows.append(weights_row({best: softmax(z_E)[best]}, z_E))
    choice = choose(z_TE, 1, Router())
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)


@settings(max_examples=CASES)
@given(tables(), st.data())
def test_noisy_top_k_is_a_softmax_over_the_largest_noisy_logits(logits_TE, data) -> None:
    z_TE = logits_TE.requires_grad_()
    num_chosen = data.draw(st.integers(1, z_TE.shape[1]))
    noise_TE = torch.randn(z_TE.shape, generator=torch.Generator().manual_seed(3)).double()
    rows = []
    for z_E in z_TE + noise_TE:
        ids = largest(z_E.detach().tolist(), num_chosen)
        total = sum(z_E[e].exp() for e in ids)
        rows.append(weights_row({e: z_E[e].exp() / total for e in ids}, z_E))
    router = Router(norm_p=1.0, has_noise=True)
    choice = choose(z_TE, num_chosen, router, noisy_TE=z_TE + noise_TE)
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)
    assert torch.equal(choice.logits_TE, z_TE)


@settings(max_examples=CASES)
@given(tables())
def test_relu_takes_what_is_positive_and_weighs_by_it(logits_TE) -> None:
    assume(bool((logits_TE != 0).all()))
    z_TE = logits_TE.requires_grad_()
    rows = [weights_row({e: z for e, z in enumerate(z_E) if z > 0}, z_E) for z_E in z_TE]
    choice = choose(z_TE, 1, Router(rule="relu"))
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)
    assert choice.kept_TK.sum() == (z_TE > 0).sum()
    assert choice.ids_TK.shape[1] == max(1, int((z_TE > 0).sum(1).max()))


@settings(max_examples=CASES)
@given(tables(), st.data())
def test_hash_weighs_what_its_table_says_by_the_gate(logits_TE, data) -> None:
    z_TE = logits_TE.requires_grad_()
    num_experts = z_TE.shape[1]
    num_chosen = data.draw(st.integers(1, num_experts))
    entry = st.permutations(range(num_experts)).map(lambda order: order[:num_chosen])
    table = data.draw(st.lists(entry, min_size=5, max_size=5))
    token_ids = data.draw(
        st.lists(st.integers(0, 4), min_size=len(z_TE), max_size=len(z_TE)).map(torch.tensor)
    )
    rows = []
    for z_E, token_id in zip(z_TE, token_ids.tolist(), strict=True):
        s = [root_of_softplus(z) for z in z_E]
        total = sum(s[e] for e in table[token_id])
        rows.append(weights_row({e: s[e] / total for e in table[token_id]}, z_E))
    tokens = Tokens(torch.ones(len(z_TE)).bool(), torch.zeros(len(z_TE)).long(), token_ids)
    router = Router(rule="hash", score="sqrt_softplus", norm_p=1.0)
    choice = choose(z_TE, num_chosen, router, tokens=tokens, table_VK=torch.tensor(table))
    assert_same_with_gradient(by_expert(choice), torch.stack(rows), z_TE)
    assert choice.ids_TK.tolist() == [table[i] for i in token_ids.tolist()]


def test_a_uniform_hash_gives_each_of_its_experts_the_same() -> None:
    tokens = Tokens(torch.ones(2).bool(), torch.zeros(2).long(), torch.tensor([1, 0]))
    choice = choose(
        torch.zeros(2, 4),
        2,
        Router(rule="hash", score="uniform"),
        tokens=tokens,
        table_VK=torch.tensor([[3, 1], [0, 2]]),
    )
    assert choice.ids_TK.tolist() == [[0, 2], [3, 1]]
    assert by_expert(choice).tolist() == [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]
    assert choice.probs_TE.tolist() == by_expert(choice).tolist()


@settings(max_examples=CASES)
@given(tables(), st.data())
def test_experts_choose_the_tokens_that_want_them_most(logits_TE, data) -> None:
    z_TE = logits_TE.requires_grad_()
    num_tokens, num_experts = z_TE.shape
    num_chosen = data.draw(st.integers(1, num_experts))
    mask = data.draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    real = [t for t in range(num_tokens) if mask[t]]
    p = [softmax(z_E) for z_E in z_TE]
    size = min(len(real), math.ceil(len(real) * num_chosen / num_experts))
    rows: list[dict[int, Tensor]] = [{} for _ in range(num_tokens)]
    for e in range(num_experts):
        for i in largest([float(p[t][e].detach()) for t in real], size) if size else []:
            rows[real[i]][e] = p[real[i]][e]
    tokens = Tokens(torch.tensor(mask), torch.zeros(num_tokens).long())
    choice = choose(z_TE, num_chosen, Router(rule="expert_choice"), tokens=tokens)
    expected_TE = torch.stack([weights_row(row, z) for row, z in zip(rows, z_TE, strict=True)])
    assert_same_with_gradient(by_expert(choice), expected_TE, z_TE)
    assert choice.kept_TK.sum() == size * num_experts


def test_a_root_of_softplus_has_a_finite_gradient_however_low_the_logit() -> None:
    z_TE = torch.tensor([[-300.0, -200.0, -1.0]], requires_grad=True)
    choose(z_TE, 3, Router(score="sqrt_softplus")).weight_TK.sum().backward()
    assert z_TE.grad.isfinite().all()
    assert z_TE.grad[0, 2] > 0


def test_sigmoids_that_are_all_zero_give_weights_of_zero() -> None:
    z_TE = torch.full((1, 3), -200.0, requires_grad=True)
    choice = choose(z_TE, 2, Router(score="sigmoid", norm_p=1.0))
    choice.weight_TK.sum().backward()
    assert choice.weight_TK.tolist() == [[0.0, 0.0]]
    assert z_TE.grad.isfinite().all()


def test_scores_hold_what_steers_and_probabilities_do_not() -> None:
    z_TE = torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    steer_E = torch.tensor([0.0, -0.9, 0.9, 0.0])
    router = Router(score="sigmoid", has_steering_bias=True, groups=Groups(num=2, num_chosen=1))
    choice = choose(z_TE, 1, router, steer_E=steer_E)
    s = z_TE.sigmoid()
    torch.testing.assert_close(choice.probs_TE, s)
    torch.testing.assert_close(choice.scores_TE[0, 2:], s[0, 2:] + steer_E[2:])
    assert choice.scores_TE[0, :2].tolist() == [float("-inf")] * 2
    assert choice.ids_TK.tolist() == [[2]]
    torch.testing.assert_close(choice.weight_TK, s[:, 2:3])
