"""Logits drawn for tests of routers, and what a rule gives a token, as one row of weights."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from expertly.mixture.routing import Choice

CASES = 200


@st.composite
def tables(draw: st.DrawFn, min_experts: int = 2, max_experts: int = 8) -> Tensor:
    """logits_TE, float64; those of one token differ by at least a sixteenth."""
    num_experts = draw(st.integers(min_experts, max_experts))
    return torch.tensor(draw(_rows(num_experts)), dtype=torch.float64) / 16


@st.composite
def grouped_tables(draw: st.DrawFn) -> tuple[Tensor, int]:
    """logits_TE of 2 to 4 groups of 2 or 3 experts, and how many groups there are."""
    num_groups, size = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    logits = draw(_rows(num_groups * size))
    return torch.tensor(logits, dtype=torch.float64) / 16, num_groups


def _rows(num_experts: int) -> st.SearchStrategy[list[list[int]]]:
    exactly = {"min_size": num_experts, "max_size": num_experts}
    token = st.lists(st.integers(-60, 60), unique=True, **exactly)
    return st.lists(token, min_size=1, max_size=3)


def by_expert(choice: Choice) -> Tensor:
    """weight_TE: what each expert has in a token's answer, 0 where it has no row."""
    kept_TK = torch.ones_like(choice.ids_TK, dtype=torch.bool)
    if choice.kept_TK is not None:
        kept_TK = choice.kept_TK
    weight_TK = torch.where(kept_TK, choice.weight_TK, 0.0)
    return torch.zeros_like(choice.logits_TE).scatter_add(-1, choice.ids_TK, weight_TK)


def assert_same_with_gradient(ours_TE: Tensor, theirs_TE: Tensor, logits_TE: Tensor) -> None:
    """Equal in value, and in the gradient that a random loss sends to the logits."""
    torch.testing.assert_close(ours_TE, theirs_TE, rtol=1e-9, atol=1e-12)
    loss_TE = torch.randn(ours_TE.shape, generator=torch.Generator().manual_seed(7)).double()
    (ours,) = torch.autograd.grad((ours_TE * loss_TE).sum(), logits_TE, retain_graph=True)
    (theirs,) = torch.autograd.grad(
        (theirs_TE * loss_TE).sum(), logits_TE, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
