"""Every loss and its gradient against its formula, written out in float64 token by token."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from expertly.mixture import balance
from expertly.mixture.routing import Choice as Chosen
from expertly.mixture.routing import Routing, Tokens, sort_rows, to_routing


class Case(NamedTuple):
    logits_TE: Tensor  # float64
    ids_TK: Tensor
    mask_T: Tensor
    sequence_T: Tensor
    score: str


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_tokens, num_experts = draw(st.integers(1, 9)), draw(st.integers(2, 7))
    num_chosen = draw(st.integers(1, num_experts))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits_TE = 2 * torch.randn(num_tokens, num_experts, generator=generator, dtype=torch.float64)
    mask_T = torch.rand(num_tokens, generator=generator) < 0.8
    mask_T[0] = True
    sequence_T = torch.randint(3, (num_tokens,), generator=generator).sort().values
    score = draw(st.sampled_from(["softmax", "sigmoid", "relu"]))
    return Case(logits_TE, logits_TE.topk(num_chosen).indices, mask_T, sequence_T, score)


def probs_of(logits_TE: Tensor, score: str) -> Tensor:
    if score == "softmax":
        return logits_TE.softmax(-1)
    return logits_TE.sigmoid() if score == "sigmoid" else logits_TE.relu()


def routing_of(case: Case, logits_TE: Tensor) -> Routing:
    probs_TE = probs_of(logits_TE, case.score)
    choice = Chosen(case.ids_TK, probs_TE.gather(-1, case.ids_TK), logits_TE, probs_TE, probs_TE)
    rows = sort_rows(case.ids_TK, logits_TE.shape[1])
    return to_routing(choice, rows, Tokens(case.mask_T, case.sequence_T))


def shares(case: Case, tokens: list[int], num_experts: int) -> list[float]:
    """f: of the rows of some tokens, what went to each expert."""
    rows = [int(e) for t in tokens for e in case.ids_TK[t]]
    return [rows.count(e) / len(rows) for e in range(num_experts)]


def switch_of(case: Case, probs_TE: Tensor, tokens: list[int]) -> Tensor:
    E = probs_TE.shape[1]
    f = shares(case, tokens, E)
    total = torch.zeros((), dtype=torch.float64)
    for e in range(E):
        mean = sum(
            probs_TE[t, e] / probs_TE[t].sum() if probs_TE[t].sum() > 0 else probs_TE[t, e]
            for t in tokens
        ) / len(tokens)
        total = total + E * f[e] * mean
    return total


def real(case: Case) -> list[int]:
    return [t for t in range(len(case.mask_T)) if case.mask_T[t]]


def load_balance(case: Case, logits_TE: Tensor) -> Tensor:
    return switch_of(case, probs_of(logits_TE, case.score), real(case))


def sequence_balance(case: Case, logits_TE: Tensor) -> Tensor:
    probs_TE, found = probs_of(logits_TE, case.score), []
    for sequence in sorted(set(case.sequence_T.tolist())):
        tokens = [t for t in real(case) if case.sequence_T[t] == sequence]
        if tokens:
            found.append(switch_of(case, probs_TE, tokens))
    return torch.stack(found).mean()


def importance(case: Case, logits_TE: Tensor) -> Tensor:
    probs_TE = probs_of(logits_TE, case.score)
    sums = [sum(probs_TE[t, e] for t in real(case)) for e in range(probs_TE.shape[1])]
    mean = sum(sums) / len(sums)
    return sum((s - mean) ** 2 for s in sums) / len(sums) / torch.clamp(mean**2, min=1e-20)


def router_z(case: Case, logits_TE: Tensor) -> Tensor:
    return sum(logits_TE[t].exp().sum().log() ** 2 for t in real(case)) / len(real(case))


def relu_sparsity(case: Case, logits_TE: Tensor) -> Tensor:
    probs_TE, tokens = probs_of(logits_TE, case.score), real(case)
    E, K, T = probs_TE.shape[1], case.ids_TK.shape[1], len(tokens)
    total = torch.zeros((), dtype=torch.float64)
    for e in range(E):
        f = E / (K * T) * sum(int(e in case.ids_TK[t].tolist()) for t in tokens)
        total = total + f * sum(probs_TE[t, e] for t in tokens) / T
    return total


FORMULAS: dict[str, Callable[[Case, Tensor], Tensor]] = {
    "load_balance": load_balance,
    "sequence_balance": sequence_balance,
    "importance": importance,
    "router_z": router_z,
    "relu_sparsity": relu_sparsity,
}


def ours(name: str, case: Case, logits_TE: Tensor) -> Tensor:
    routing = routing_of(case, logits_TE)
    if name == "relu_sparsity":
        return balance.relu_sparsity(routing, case.ids_TK.shape[1])
    return getattr(balance, name)(routing)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=200)
@given(case=cases())
def test_a_loss_and_its_gradient_are_those_of_its_formula(name: str, case: Case) -> None:
    leaves = [case.logits_TE.clone().requires_grad_() for _ in range(2)]
    found, expected = ours(name, case, leaves[0]), FORMULAS[name](case, leaves[1])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    if not expected.requires_grad:
        return
    grads = [torch.autograd.grad(v, x)[0] for v, x in zip((found, expected), leaves, strict=True)]
    # a quotient's gradient is a difference of terms as large as 1 / score, each rounded
    rounding = 2**-48 / float(
        probs_of(case.logits_TE, case.score)[case.mask_T].max().clamp(min=1e-9)
    )
    torch.testing.assert_close(*grads, rtol=1e-8, atol=max(1e-11, rounding))


@settings(max_examples=50)
@given(case=cases())
def test_rows_of_the_whole_step_replace_a_batchs_own(case: Case) -> None:
    routing = routing_of(case, case.logits_TE)
    E = case.logits_TE.shape[1]
    rows_E = torch.arange(1, E + 1, dtype=torch.float64)
    probs_TE = probs_of(case.logits_TE, case.score)[case.mask_T]
    mean_E = (probs_TE / probs_TE.sum(-1, keepdim=True).clamp(min=1e-20)).mean(0)
    expected = E * (rows_E / rows_E.sum() * mean_E).sum()
    torch.testing.assert_close(balance.load_balance(routing, rows_E), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=30)
@given(case=cases())
def test_what_padding_holds_changes_no_loss(name: str, case: Case) -> None:
    other_TE = torch.where(case.mask_T[:, None], case.logits_TE, 17.0)
    torch.testing.assert_close(ours(name, case, case.logits_TE), ours(name, case, other_TE))


@pytest.mark.parametrize("name", FORMULAS)
def test_without_tokens_a_loss_is_nothing(name: str) -> None:
    case = Case(
        torch.zeros(2, 3, dtype=torch.float64),
        torch.tensor([[0], [1]]),
        torch.tensor([False, False]),
        torch.tensor([0, 1]),
        "softmax",
    )
    assert ours(name, case, case.logits_TE).item() == 0.0
