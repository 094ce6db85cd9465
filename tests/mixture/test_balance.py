"""Balance losses worked out by hand, and what padding and layers must not do to them."""

import math

import pytest
import torch
from hand_routing import routing_of
from hypothesis import given
from hypothesis import strategies as st

from expertly.mixture import balance
from expertly.mixture.routing import Routing


def test_load_balance_is_one_when_rows_and_probabilities_are_even() -> None:
    routing = routing_of([[0, 1], [2, 3], [1, 0], [3, 2]], 4)
    assert balance.load_balance(routing).item() == pytest.approx(1.0)


@pytest.mark.parametrize("num_experts", [2, 5])
def test_load_balance_is_the_number_of_experts_when_one_takes_all_with_certainty(
    num_experts: int,
) -> None:
    probs = [[1.0] + [0.0] * (num_experts - 1)] * 3
    routing = routing_of([[0]] * 3, num_experts, probs=probs)
    assert balance.load_balance(routing).item() == pytest.approx(num_experts)


def test_load_balance_worked_out_by_hand() -> None:
    # shares of rows 2/3, 1/3, 0; mean probabilities 0.5, 0.3, 0.2
    probs = [[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [0.4, 0.4, 0.2]]
    routing = routing_of([[0], [0], [1]], 3, probs=probs)
    expected = 3 * (2 / 3 * 0.5 + 1 / 3 * 0.3)
    assert balance.load_balance(routing).item() == pytest.approx(expected)


def test_load_balance_counts_rows_and_not_first_choices() -> None:
    # two slots: shares 2/4, 1/4, 1/4 although expert 0 is everybody's first
    probs = [[0.7, 0.2, 0.1], [0.7, 0.1, 0.2]]
    routing = routing_of([[0, 1], [0, 2]], 3, probs=probs)
    assert balance.load_balance(routing).item() == pytest.approx(
        3 * (0.5 * 0.7 + 0.25 * 0.15 + 0.25 * 0.15)
    )


def pooled(layers: list[Routing]) -> float:
    """Balance of all layers' rows counted as if they were one layer's."""
    share_E = sum(layer.counts_E for layer in layers) / sum(
        layer.counts_E.sum() for layer in layers
    )
    mean_E = torch.cat([layer.probs_TE for layer in layers]).mean(0)
    return (len(share_E) * (share_E * mean_E).sum()).item()


def test_two_layers_that_use_opposite_halves_are_both_unbalanced() -> None:
    low, high = [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]
    first = routing_of([[0, 1], [1, 0]], 4, probs=[low] * 2)
    second = routing_of([[2, 3], [3, 2]], 4, probs=[high] * 2)
    losses = [balance.load_balance(layer).item() for layer in (first, second)]
    assert losses == pytest.approx([2.0, 2.0])
    # what counting them together would say
    assert pooled([first, second]) == pytest.approx(1.0)


def test_no_tokens_have_no_loss_and_no_nan() -> None:
    routing = routing_of([[0], [1]], 2, mask=[False, False])
    assert balance.load_balance(routing).item() == 0.0
    assert balance.router_z(routing).item() == 0.0


def test_router_z_worked_out_by_hand() -> None:
    # logsumexp ln 4 and ln 2 and, of padding, ln 100
    routing = routing_of([[0], [0], [0]], 2, mask=[True, False, True])
    logits = torch.tensor([[1.0, 3.0], [50.0, 50.0], [1.0, 1.0]]).log()
    found = balance.router_z(routing._replace(logits_TE=logits)).item()
    assert found == pytest.approx((math.log(4) ** 2 + math.log(2) ** 2) / 2)


@st.composite
def padded(draw: st.DrawFn) -> tuple[Routing, Routing]:
    """A routing, and the same one with tokens of padding between."""
    num_experts, num_chosen = draw(st.integers(2, 5)), draw(st.integers(1, 2))
    mask = draw(st.lists(st.booleans(), min_size=1, max_size=10).filter(any))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits_TE = torch.randn(len(mask), num_experts, generator=generator) * 2
    chosen = logits_TE.topk(num_chosen).indices.tolist()

    def make(rows: list[int]) -> Routing:
        routing = routing_of(
            [chosen[t] for t in rows],
            num_experts,
            mask=[mask[t] for t in rows],
            probs=logits_TE[rows].softmax(-1).tolist(),
        )
        return routing._replace(logits_TE=logits_TE[rows])

    everything = list(range(len(mask)))
    return make([t for t in everything if mask[t]]), make(everything)


@given(padded())
def test_padding_changes_no_loss(case: tuple[Routing, Routing]) -> None:
    bare, full = case
    for loss in (balance.load_balance, balance.router_z):
        assert loss(full).item() == pytest.approx(loss(bare).item(), rel=1e-5)


@given(padded())
def test_load_balance_is_its_formula_in_float64(case: tuple[Routing, Routing]) -> None:
    bare, full = case
    num_tokens, num_experts = bare.probs_TE.shape
    rows = bare.counts_E.double() / bare.counts_E.sum()
    expected = sum(
        num_experts * rows[e] * bare.probs_TE[:, e].double().sum() / num_tokens
        for e in range(num_experts)
    )
    assert balance.load_balance(full).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_of_load_balance_reaches_probabilities_only() -> None:
    routing = routing_of([[0], [0], [1], [1]], 2, mask=[True, True, True, False])
    leaves = {
        name: getattr(routing, name).clone().requires_grad_()
        for name in ("logits_TE", "probs_TE", "scores_TE", "weight_R")
    }
    balance.load_balance(routing._replace(**leaves)).backward()
    assert all(leaves[name].grad is None for name in ("logits_TE", "scores_TE", "weight_R"))
    # E / T * (f_i - sum_j f_j p_j) of the three tokens, p divided by its sum
    ninth = pytest.approx([1 / 9, -1 / 9])
    assert leaves["probs_TE"].grad.tolist() == [ninth, ninth, ninth, [0.0, 0.0]]


def test_the_gradient_of_router_z_is_two_logsumexp_times_the_softmax() -> None:
    routing = routing_of([[0], [1]], 2, mask=[True, False])
    logits = torch.tensor([[0.3, -1.2], [4.0, 5.0]], requires_grad=True)
    balance.router_z(routing._replace(logits_TE=logits)).backward()
    z = logits.detach()[0]
    expected = (2 * z.logsumexp(0) * z.softmax(0)).tolist()
    assert logits.grad[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert logits.grad[1].tolist() == [0.0, 0.0]
