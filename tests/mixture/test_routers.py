"""Router rules against transcriptions of them that take one token at a time, in float64."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from expertly.config import Router
from expertly.mixture.routers import choose

NORMS = [None, 1.0, 2.0, 3.0]


@st.composite
def tables(draw: st.DrawFn, min_experts: int = 1) -> list[list[float]]:
    """Logits of a few tokens; those of one token differ by at least a sixteenth."""
    num_experts = draw(st.integers(min_experts, 9))
    exactly = {"min_size": num_experts, "max_size": num_experts}
    token = st.lists(st.integers(-120, 120), unique=True, **exactly)
    found = draw(st.lists(token, min_size=1, max_size=5))
    return [[value / 16 for value in token] for token in found]


def softmax(values: list[float]) -> list[float]:
    exps = [math.exp(value - max(values)) for value in values]
    return [exp / sum(exps) for exp in exps]


def softmax_choice(
    logits: list[float], num_chosen: int, norm_p: float | None
) -> tuple[list[int], list[float]]:
    probs = softmax(logits)
    ids = sorted(range(len(logits)), key=lambda e: -logits[e])[:num_chosen]
    weights = [probs[e] for e in ids]
    norm = 1.0 if norm_p is None else sum(w**norm_p for w in weights) ** (1 / norm_p)
    return ids, [w / norm for w in weights]


def sparsemixer_choice(
    logits: list[float], num_chosen: int, jitter: float
) -> tuple[list[int], list[float]]:
    """One argmax after another; the share is among the experts left that lie within the band."""
    left = list(range(len(logits)))
    ids, weights = [], []
    for _ in range(num_chosen):
        best = max(left, key=lambda e: logits[e])
        top = logits[best]
        near = []
        for e in left:
            gap, room = top - logits[e], 2 * jitter * max(abs(logits[e]), top)
            # a gap on the edge may round to either side
            assume(gap == 0 or abs(gap - room) > 1e-5 * room)
            if gap <= room:
                near.append(e)
        weights.append(1 / sum(math.exp(logits[e] - top) for e in near))
        ids.append(best)
        left.remove(best)
    return ids, weights


@pytest.mark.parametrize("norm_p", NORMS)
@given(tables(), st.data())
def test_softmax_takes_the_largest_and_divides_by_their_norm(norm_p, logits, data) -> None:
    num_chosen = data.draw(st.integers(1, len(logits[0])))
    choice = choose(torch.tensor(logits), num_chosen, Router(norm_p=norm_p))
    for token, row in enumerate(logits):
        ids, weights = softmax_choice(row, num_chosen, norm_p)
        assert choice.ids_TK[token].tolist() == ids
        assert choice.weight_TK[token].tolist() == pytest.approx(weights, rel=1e-5)
        assert choice.probs_TE[token].tolist() == pytest.approx(softmax(row), rel=1e-5)


@given(tables(), st.data())
def test_softmax_made_to_sum_to_one_is_a_softmax_over_the_chosen(logits, data) -> None:
    num_chosen = data.draw(st.integers(1, len(logits[0])))
    choice = choose(torch.tensor(logits), num_chosen, Router(norm_p=1.0))
    for token, row in enumerate(logits):
        largest = sorted(row, reverse=True)[:num_chosen]
        assert choice.weight_TK[token].tolist() == pytest.approx(softmax(largest), rel=1e-5)


def test_softmax_weights_worked_out_by_hand() -> None:
    # odds 4 : 3 : 2 : 1
    logits_TE = torch.tensor([[2.0, 4.0, 1.0, 3.0]]).log()
    found = {p: choose(logits_TE, 2, Router(norm_p=p)).weight_TK[0].tolist() for p in NORMS}
    assert found[None] == pytest.approx([0.4, 0.3])
    assert found[1.0] == pytest.approx([4 / 7, 3 / 7])
    assert found[2.0] == pytest.approx([0.8, 0.6])
    assert found[3.0] == pytest.approx([4 / 91 ** (1 / 3), 3 / 91 ** (1 / 3)])


@given(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), st.sampled_from(NORMS))
def test_equal_logits_are_shared_between_distinct_experts(values, norm_p) -> None:
    logits_TE = torch.tensor([[values[0], values[0], values[1], values[2]]])
    choice = choose(logits_TE, 3, Router(norm_p=norm_p))
    assert len(set(choice.ids_TK[0].tolist())) == 3
    chosen = choice.probs_TE[0, choice.ids_TK[0]].tolist()
    assert chosen == sorted(choice.probs_TE[0].tolist(), reverse=True)[:3]
    assert choice.weight_TK.isfinite().all()


@pytest.mark.parametrize("jitter", [0.01, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("num_chosen", [1, 2])
@given(tables(min_experts=2))
def test_sparsemixer_is_its_rule_a_token_at_a_time(num_chosen, jitter, logits) -> None:
    router = Router(rule="sparsemixer", jitter=jitter)
    choice = choose(torch.tensor(logits), num_chosen, router)
    for token, row in enumerate(logits):
        ids, weights = sparsemixer_choice(row, num_chosen, jitter)
        assert choice.ids_TK[token].tolist() == ids
        assert choice.weight_TK[token].tolist() == pytest.approx(weights, rel=1e-5)


def test_sparsemixer_weights_worked_out_by_hand() -> None:
    # from 4: the gaps are 0.25, 0.5 and 1.25 (1 over 4, 2 over 4, 5 over 4), the band is 0.3
    logits_TE = torch.tensor([[3.0, 4.0, 2.0, -1.0]])
    choice = choose(logits_TE, 2, Router(rule="sparsemixer", jitter=0.15))
    assert choice.ids_TK.tolist() == [[1, 0]]
    # from 3, without expert 1: 2 lies 1/3 away, outside
    assert choice.weight_TK[0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1.0])
    wider = choose(logits_TE, 2, Router(rule="sparsemixer", jitter=0.17))
    assert wider.weight_TK[0].tolist() == pytest.approx([1 / (1 + math.exp(-1))] * 2)


def test_sparsemixer_measures_the_gap_of_negative_logits_by_their_size() -> None:
    # -1 to -4 is 3 over 4; -1 to -2 is 1 over 2; the band is 0.6
    choice = choose(torch.tensor([[-4.0, -1.0, -2.0]]), 1, Router(rule="sparsemixer", jitter=0.3))
    assert choice.ids_TK.tolist() == [[1]]
    assert choice.weight_TK.item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_sparsemixer_of_all_zero_logits_shares_evenly() -> None:
    choice = choose(torch.zeros(2, 4), 2, Router(rule="sparsemixer", jitter=0.1))
    assert choice.weight_TK.tolist() == [pytest.approx([1 / 4, 1 / 3])] * 2
    assert choice.ids_TK[:, 0].ne(choice.ids_TK[:, 1]).all()


@pytest.mark.parametrize("router", [Router(), Router(norm_p=1.0), Router(rule="sparsemixer")])
def test_a_choice_carries_what_it_was_made_from(router: Router) -> None:
    logits_TE = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    choice = choose(logits_TE, 2, router)
    assert torch.equal(choice.logits_TE, logits_TE)
    torch.testing.assert_close(choice.probs_TE, logits_TE.softmax(-1))
    # what was chosen is what scored highest
    best = choice.scores_TE.topk(2).indices
    assert torch.equal(choice.ids_TK, best)
    assert choice.ids_TK.dtype == torch.int64


@pytest.mark.parametrize("router", [Router(), Router(norm_p=2.0), Router(rule="sparsemixer")])
def test_no_tokens_make_an_empty_choice(router: Router) -> None:
    choice = choose(torch.zeros(0, 5), 2, router)
    assert choice.ids_TK.shape == choice.weight_TK.shape == (0, 2)


@pytest.mark.parametrize(
    "router", [Router(), Router(norm_p=1.0), Router(rule="sparsemixer", jitter=0.4)]
)
def test_weights_send_the_gradient_of_their_formula_to_the_logits(router: Router) -> None:
    logits_TE = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits_TE = (logits_TE * 0.5 + 2.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: choose(z, 2, router).weight_TK, (logits_TE,))
