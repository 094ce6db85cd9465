"""A least number of rows an expert: by hand, and what always holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expertly.config import Capacity, Router
from expertly.errors import ConfigError
from expertly.mixture.quota import fill
from expertly.mixture.routers import choose
from expertly.mixture.routing import Tokens


def rows(ids_TK: Tensor, mask_T: Tensor, num_experts: int) -> list[int]:
    return torch.bincount(ids_TK[mask_T].flatten(), minlength=num_experts).tolist()


def test_an_expert_without_rows_takes_its_most_probable_tokens() -> None:
    # all three tokens choose 0 then 1; 2 is wanted most by the second, then by the third
    probs_TE = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.5, 0.3, 0.2]])
    ids_TK = probs_TE.topk(2).indices
    every_T = torch.ones(3, dtype=torch.bool)
    assert fill(ids_TK, probs_TE, every_T, 1, 3).tolist() == [[0, 1], [0, 2], [0, 1]]
    # expert 1 keeps two rows of its three: the third token's stays
    assert fill(ids_TK, probs_TE, every_T, 2, 3).tolist() == [[0, 1], [0, 2], [0, 1]]
    assert ids_TK.tolist() == [[0, 1]] * 3


def test_padding_gives_nothing_and_counts_for_nothing() -> None:
    probs_TE = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]])
    mask_T = torch.tensor([True, False, True])
    # expert 1 has only padding's row: the third token wants it more than the first
    assert fill(probs_TE.topk(1).indices, probs_TE, mask_T, 1, 2).tolist() == [[0], [1], [1]]


@given(
    st.integers(1, 20), st.integers(2, 6), st.integers(1, 3), st.integers(0, 4), st.integers(0, 999)
)
def test_nobody_lacks_rows_while_somebody_could_give_one(
    num_tokens: int, num_experts: int, num_chosen: int, least: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_TE = torch.randn(num_tokens, num_experts, generator=generator)
    probs_TE = (logits_TE + torch.linspace(3, -3, num_experts)).softmax(-1)
    mask_T = torch.rand(num_tokens, generator=generator) < 0.8
    before_TK = probs_TE.topk(min(num_chosen, num_experts)).indices
    after_TK = fill(before_TK, probs_TE, mask_T, least, num_experts)
    was, now = (rows(ids_TK, mask_T, num_experts) for ids_TK in (before_TK, after_TK))
    assert sum(was) == sum(now)
    assert all(len(set(ids)) == len(ids) for ids in after_TK.tolist())
    assert torch.equal(after_TK[~mask_T], before_TK[~mask_T])
    # who had enough keeps enough, who lacked some lost none
    assert all(b >= min(a, least) for a, b in zip(was, now, strict=True))
    for expert in range(num_experts):
        can_give = [
            now[int(ids[-1])] > least and expert not in ids for ids in after_TK[mask_T].tolist()
        ]
        assert now[expert] >= least or not any(can_give)


def test_a_zero_expert_has_no_claim_to_rows() -> None:
    probs_TE = torch.tensor([[0.6, 0.3, 0.1]] * 4)
    every_T = torch.ones(4, dtype=torch.bool)
    found = fill(probs_TE.topk(1).indices, probs_TE, every_T, 1, 2)
    assert rows(found, every_T, 3) == [3, 1, 0]


def test_it_acts_in_training_alone_and_weighs_the_expert_that_computes() -> None:
    logits_TE = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    router = Router(min_rows=1)
    tokens = Tokens(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64))
    calm = choose(logits_TE, 1, router, tokens=tokens)
    trained = choose(logits_TE, 1, router, tokens=tokens, is_training=True)
    assert calm.ids_TK.tolist() == [[0], [0]]
    assert trained.ids_TK.tolist() == [[0], [1]]
    torch.testing.assert_close(trained.weight_TK[1, 0], logits_TE[1].softmax(-1)[1])


def test_a_capacity_beside_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_rows"):
        Router(min_rows=1, capacity=Capacity(factor=1.0))
    with pytest.raises(ConfigError, match="-1 rows"):
        Router(min_rows=-1)
