"""SparseMixer-v2 in training: what is sampled, and that its gradient is exact for cubics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from router_tables import CASES, tables
from torch import Tensor

from expertly.config import Router
from expertly.mixture.routers import choose
from expertly.mixture.routers.sparsemixer import estimated, near, sparsemixer

CHANCE = {True: 1 / 4, False: 3 / 4}


def polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """Without a constant term: no weight, no output, whichever expert it was."""
    return sum(c * x ** (k + 1) for k, c in enumerate(coefficients))


def expected_gradient(logits_E: Tensor, losses: list[list[float]], is_whole: bool | None) -> Tensor:
    """The mean of the estimator's gradient over every sample and both values of the coin (or
    the one given), each weighed by its probability."""
    total_E = torch.zeros_like(logits_E)
    probs_E = logits_E.detach().softmax(-1)
    for e, coefficients in enumerate(losses):
        for coin, chance in CHANCE.items() if is_whole is None else [(is_whole, 1.0)]:
            z_E = logits_E.detach().clone().requires_grad_()
            weight = estimated(z_E.softmax(-1)[e : e + 1, None], torch.tensor([[coin]]))
            polynomial(coefficients, weight).sum().backward()
            total_E += probs_E[e] * chance * z_E.grad
    return total_E


def exact_gradient(logits_E: Tensor, losses: list[list[float]]) -> Tensor:
    """Of the expected loss, sum of p_e * loss_e, in which what loss_e is does not change."""
    z_E = logits_E.detach().clone().requires_grad_()
    probs_E = z_E.softmax(-1)
    values = [polynomial(c, p.detach()) for c, p in zip(losses, probs_E, strict=True)]
    sum(v * p for v, p in zip(values, probs_E, strict=True)).backward()
    return z_E.grad


cubics = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


@settings(max_examples=CASES)
@given(tables(max_experts=5), st.data())
def test_the_estimators_mean_is_the_exact_gradient_of_cubics(logits_TE, data) -> None:
    num_experts = logits_TE.shape[1]
    losses = data.draw(st.lists(cubics, min_size=num_experts, max_size=num_experts))
    found_E = expected_gradient(logits_TE[0], losses, None)
    torch.testing.assert_close(found_E, exact_gradient(logits_TE[0], losses), rtol=1e-8, atol=1e-9)


def test_a_fourth_degree_is_beyond_the_estimator() -> None:
    # so that the test above can fail
    logits_E = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    losses = [[0.0, 0.0, 0.0, 5.0], [0.0] * 4, [0.0] * 4]
    difference_E = expected_gradient(logits_E, losses, None) - exact_gradient(logits_E, losses)
    assert difference_E.abs().max() > 1e-3


def test_one_node_alone_is_exact_for_lines_and_not_for_squares() -> None:
    # what the argmax has, whose weight is always whole
    logits_E = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    lines, squares = [[2.0, 0.0, 0.0]] * 2 + [[-1.0, 0, 0]], [[0.0, 1.0, 0.0]] * 3
    exact_E = exact_gradient(logits_E, lines)
    torch.testing.assert_close(expected_gradient(logits_E, lines, True), exact_E)
    squared_E = expected_gradient(logits_E, squares, True) - exact_gradient(logits_E, squares)
    assert squared_E.abs().max() > 1e-3


@settings(max_examples=CASES)
@given(tables(), st.sampled_from([0.05, 0.3, 2.0]), st.booleans(), st.data())
def test_forward_is_p_or_a_third_and_backward_that_of_p(logits_TE, jitter, coin, data) -> None:
    z_E = logits_TE[0].requires_grad_()
    within = near(z_E[None], z_E[None], jitter)[0]
    inside = [e for e in range(len(z_E)) if within[e] > float("-inf")]
    e = data.draw(st.sampled_from(inside))
    p = {i: float((z_E[i].exp() / sum(z_E[j].exp() for j in inside)).detach()) for i in inside}
    weight = estimated(within.softmax(-1)[e : e + 1, None], torch.tensor([[coin]]))
    assert float(weight.detach()) == pytest.approx(p[e] if coin else p[e] / 3)
    (gradient_E,) = torch.autograd.grad(weight.sum(), z_E)
    expected = [p[e] * ((i == e) - p[i]) if i in p else 0.0 for i in range(len(z_E))]
    assert gradient_E.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_chosen", [1, 2])
def test_samples_follow_the_softmax_of_the_logits_that_are_near(num_chosen: int) -> None:
    logits_E = torch.tensor([2.0, 1.9, 1.5, 0.1])  # at a jitter of 0.2 the last is too far off
    torch.manual_seed(0)
    choice = sparsemixer(logits_E.expand(40_000, 4), num_chosen, 0.2, True)
    share_E = choice.ids_TK[:, 0].bincount(minlength=4) / 40_000
    expected_E = torch.cat((logits_E[:3].softmax(-1), torch.zeros(1)))
    # four standard deviations of a share
    assert (share_E - expected_E).abs().max() < 4 * (0.25 / 40_000) ** 0.5
    assert share_E[3] == 0
    if num_chosen == 2:
        assert (choice.ids_TK[:, 0] != choice.ids_TK[:, 1]).all()


def test_the_argmax_keeps_its_weight_and_others_a_quarter_of_the_time() -> None:
    logits_E = torch.tensor([2.0, 1.9])
    torch.manual_seed(1)
    choice = sparsemixer(logits_E.expand(20_000, 2), 1, 0.2, True)
    probs_E = logits_E.softmax(-1)
    is_best = choice.ids_TK[:, 0] == 0
    best, other = choice.weight_TK[is_best, 0], choice.weight_TK[~is_best, 0]
    torch.testing.assert_close(best, probs_E[0].expand_as(best))
    is_whole = (other - probs_E[1]).abs() < 1e-6
    torch.testing.assert_close(other[~is_whole], (probs_E[1] / 3).expand_as(other[~is_whole]))
    assert float(is_whole.float().mean()) == pytest.approx(0.25, abs=0.02)


def test_without_training_nothing_is_drawn() -> None:
    logits_TE = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    router = Router(rule="sparsemixer", jitter=0.4)
    before = torch.get_rng_state()
    first = choose(logits_TE, 2, router)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.ids_TK[:, 0], logits_TE.argmax(-1))
    trained = choose(logits_TE, 2, router, is_training=True)
    assert not torch.equal(trained.ids_TK, first.ids_TK)


def test_one_seed_gives_one_sample() -> None:
    logits_TE = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    router = Router(rule="sparsemixer", jitter=0.4)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(choose(logits_TE, 2, router, is_training=True))
    assert torch.equal(found[0].ids_TK, found[1].ids_TK)
    assert torch.equal(found[0].weight_TK, found[1].weight_TK)
