"""Pools of experts a document (EMO): chosen by the document's probabilities, in training alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertly.config import Router
from expertly.mixture.routers import choose
from expertly.mixture.routers.pools import pools
from expertly.mixture.routing import Tokens

ROUTER = Router(norm_p=1.0, min_pool=2)


def test_a_pool_has_the_experts_of_the_largest_sums() -> None:
    probs_TE = torch.tensor(
        [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6], [0.9, 0.05, 0.05]]
    )
    tokens = Tokens(torch.tensor([True, True, True, True, False]), torch.tensor([0, 0, 1, 1, 1]))
    # sums: 0.8, 0.6, 0.6 (with 0.9 of padding the second's would be otherwise) and 0.4, 0.9, 0.7
    found = pools(probs_TE.log(), torch.tensor([1, 2]), tokens)
    assert found.tolist() == [[True, False, False], [False, True, True]]


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(2, 7), st.data())
def test_tokens_of_a_document_choose_inside_one_pool(seed, num_experts, data) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_chosen = data.draw(st.integers(1, num_experts))
    min_pool = data.draw(st.integers(num_chosen, num_experts))
    logits_TE = torch.randn(9, num_experts, generator=generator, dtype=torch.float64)
    tokens = Tokens(torch.rand(9, generator=generator) < 0.7, torch.arange(9) // 3)
    router = Router(norm_p=1.0, min_pool=min_pool)
    torch.manual_seed(seed % 1000)
    choice = choose(logits_TE, num_chosen, router, tokens=tokens, is_training=True)
    torch.manual_seed(seed % 1000)
    sizes = torch.randint(min_pool, num_experts + 1, (3,)).tolist()
    for document, size in enumerate(sizes):
        own = [t for t in range(9) if t // 3 == document]
        real = [t for t in own if tokens.mask_T[t]]
        sums = [sum(logits_TE[t].softmax(-1)[e] for t in real) for e in range(num_experts)]
        pool = sorted(range(num_experts), key=lambda e, s=sums: (-float(s[e]), e))[:size]
        for t in own:
            inside = sorted(pool, key=lambda e, t=t: -float(logits_TE[t, e]))[:num_chosen]
            exps = [float(logits_TE[t, e].exp()) for e in inside]
            assert choice.ids_TK[t].tolist() == inside
            torch.testing.assert_close(
                choice.weight_TK[t].tolist(), [value / sum(exps) for value in exps]
            )


def test_weights_without_renormalising_are_a_softmax_over_the_pool() -> None:
    logits_TE = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 2)
    router = Router(min_pool=2)
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        weights = choose(logits_TE, 1, router, is_training=True).weight_TK[:, 0]
        sizes = [n for n in (2, 3, 4) if torch.isclose(weights[0], logits_TE[0, :n].softmax(-1)[0])]
        assert len(sizes) == 1
        seen |= set(sizes)
    # every size from the least to all of the experts
    assert seen == {2, 3, 4}


def test_outside_of_training_there_is_no_pool() -> None:
    logits_TE = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    with_pool = choose(logits_TE, 2, ROUTER)
    assert torch.equal(with_pool.ids_TK, choose(logits_TE, 2, Router(norm_p=1.0)).ids_TK)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_tokens_have_no_pool() -> None:
    choice = choose(torch.zeros(0, 4), 2, ROUTER, is_training=True)
    assert choice.ids_TK.shape == (0, 2)
