"""Rows that are dropped, experts that compute nothing, weights on the input: in the layer."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from expertly.config import Capacity, Mixture, Router
from expertly.mixture import Choice, MixtureLayer, Tokens
from expertly.mixture.experts import Experts
from expertly.mixture.routing import of_table, sort_rows, to_routing

WIDTH = 8
PLAIN = Mixture(num_experts=4, num_chosen=2, expert_size=6, router=Router())


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)


def layer_of(**changes) -> MixtureLayer:
    layer = MixtureLayer(WIDTH, dataclasses.replace(PLAIN, **changes), torch.float32)
    randomise(layer)
    return layer


def some_tokens(num: int) -> Tensor:
    return torch.randn(num, WIDTH, generator=torch.Generator().manual_seed(1))


def expert(experts: Experts, e: int, x_D: Tensor) -> Tensor:
    gate, up = experts.w_gate_EFD[e] @ x_D, experts.w_up_EFD[e] @ x_D
    return experts.w_down_EDF[e] @ (torch.nn.functional.silu(gate) * up)


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[list[int]], list[list[bool]]]:
    """Distinct experts of each of a few tokens, and which of them are kept."""
    num_chosen = draw(st.integers(1, 4))
    token = st.permutations(range(4)).map(lambda order: order[:num_chosen])
    ids = draw(st.lists(token, min_size=1, max_size=5))
    flags = st.lists(st.booleans(), min_size=num_chosen, max_size=num_chosen)
    return ids, draw(st.lists(flags, min_size=len(ids), max_size=len(ids)))


@given(choices())
def test_rows_are_those_that_are_kept_sorted(case) -> None:
    ids, kept = case
    rows = sort_rows(torch.tensor(ids), 4, torch.tensor(kept))
    num_chosen = len(ids[0])
    expected = sorted(
        (e, t, k)
        for t, (row, flags) in enumerate(zip(ids, kept, strict=True))
        for k, (e, is_kept) in enumerate(zip(row, flags, strict=True))
        if is_kept
    )
    assert rows.order_R.tolist() == [t * num_chosen + k for _, t, k in expected]
    assert rows.counts_E.tolist() == [sum(e == i for e, _, _ in expected) for i in range(4)]


@given(choices())
def test_a_dropped_row_adds_nothing_and_the_others_what_they_would(case) -> None:
    ids, kept = case
    experts = Experts(WIDTH, PLAIN, torch.float32)
    randomise(experts)
    x_TD, weight_TK = some_tokens(len(ids)), torch.rand(len(ids), len(ids[0])) + 0.1
    rows = sort_rows(torch.tensor(ids), 4, torch.tensor(kept))
    with torch.no_grad():
        found_TD = experts(x_TD, rows, weight_TK)
        for t, y_D in enumerate(found_TD):
            slots = [k for k, is_kept in enumerate(kept[t]) if is_kept]
            expected_D = sum(
                (weight_TK[t, k] * expert(experts, ids[t][k], x_TD[t]) for k in slots),
                torch.zeros(WIDTH),
            )
            torch.testing.assert_close(y_D, expected_D, rtol=1e-4, atol=1e-5)


def test_keeping_all_rows_is_the_same_to_the_bit_as_naming_none() -> None:
    experts = Experts(WIDTH, PLAIN, torch.float32)
    randomise(experts)
    ids_TK = torch.tensor([[0, 2], [3, 1], [2, 0]])
    whole, kept = sort_rows(ids_TK, 4), sort_rows(ids_TK, 4, torch.ones_like(ids_TK).bool())
    assert torch.equal(whole.order_R, kept.order_R)
    assert torch.equal(whole.counts_E, kept.counts_E)


def test_a_dropped_rows_weight_gets_no_gradient() -> None:
    experts = Experts(WIDTH, PLAIN, torch.float32)
    randomise(experts)
    weight_TK = torch.full((2, 2), 0.5, requires_grad=True)
    kept_TK = torch.tensor([[True, False], [True, True]])
    rows = sort_rows(torch.tensor([[0, 1], [1, 2]]), 4, kept_TK)
    experts(some_tokens(2), rows, weight_TK).square().sum().backward()
    assert ((weight_TK.grad == 0) == ~kept_TK).all()


def test_a_routing_tells_of_the_rows_that_are_kept() -> None:
    ids_TK = torch.tensor([[2, 0], [0, 1]])
    table_TE = torch.zeros(2, 3)
    choice = Choice(
        ids_TK,
        torch.tensor([[0.6, 0.4], [0.7, 0.3]]),
        table_TE,
        table_TE,
        table_TE,
        torch.tensor([[True, False], [True, True]]),
    )
    rows = sort_rows(ids_TK, 3, choice.kept_TK)
    routing = to_routing(choice, rows, Tokens(torch.ones(2).bool(), torch.zeros(2).long()))
    assert routing.token_R.tolist() == [1, 1, 0]
    assert routing.slot_R.tolist() == [0, 1, 0]
    assert routing.weight_R.tolist() == pytest.approx([0.7, 0.3, 0.6])
    assert routing.counts_E.tolist() == [1, 1, 1]


def test_a_table_of_choices_gives_slots_most_wanted_first() -> None:
    is_chosen_TE = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    wanted_TE = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.9, 0.1, 0.8]])
    ids_TK, kept_TK = of_table(is_chosen_TE, wanted_TE)
    assert kept_TK.tolist() == [[True, True], [False, False], [True, False]]
    assert ids_TK[0].tolist() == [2, 0]
    assert ids_TK[2, 0] == 1


def test_a_table_without_a_choice_has_one_slot_that_is_not_kept() -> None:
    ids_TK, kept_TK = of_table(torch.zeros(2, 3).bool(), torch.zeros(2, 3))
    assert ids_TK.shape == (2, 1)
    assert not kept_TK.any()


def test_a_layer_whose_logits_are_all_negative_gives_zeros() -> None:
    layer = layer_of(router=Router(rule="relu", has_bias=True))
    with torch.no_grad():
        layer.router.b_E.fill_(-1e6)
    y_TD, _ = layer(some_tokens(3), None)
    assert torch.equal(y_TD, torch.zeros(3, WIDTH))


@pytest.mark.parametrize("zero", ["nothing", "identity"])
def test_zero_experts_add_nothing_or_the_weighed_token(zero: str) -> None:
    layer, x_TD = layer_of(num_zero=3, zero=zero), some_tokens(30)
    tokens = Tokens(torch.ones(30).bool(), torch.zeros(30).long())
    with torch.no_grad():
        y_TD, routing = layer(x_TD, tokens)
        choice = layer.router(x_TD)
        assert choice.logits_TE.shape == (30, 7)
        assert routing.counts_E.shape == (7,)
        assert routing.counts_E[4:].sum() > 0 < routing.counts_E[:4].sum()
        for t in range(30):
            expected_D = torch.zeros(WIDTH)
            for e, weight in zip(choice.ids_TK[t].tolist(), choice.weight_TK[t], strict=True):
                if e < 4:
                    expected_D = expected_D + weight * expert(layer.experts, e, x_TD[t])
                elif zero == "identity":
                    expected_D = expected_D + weight * x_TD[t]
            torch.testing.assert_close(y_TD[t], expected_D, rtol=1e-4, atol=1e-5)


def test_all_tokens_at_zero_experts_are_no_error() -> None:
    layer = layer_of(num_zero=2, router=Router(has_bias=True))
    with torch.no_grad():
        layer.router.b_E.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 99.0, 99.0]))
    y_TD, _ = layer(some_tokens(3), None)
    assert torch.equal(y_TD, torch.zeros(3, WIDTH))


def test_llama_4_multiplies_the_input_by_the_sigmoid_of_the_largest_logit() -> None:
    layer = layer_of(num_chosen=1, scales_input=True, router=Router(score="sigmoid"))
    x_TD = some_tokens(6)
    with torch.no_grad():
        y_TD, _ = layer(x_TD, None)
        for t, x_D in enumerate(x_TD):
            logits_E = layer.router.w_ED @ x_D
            e = int(logits_E.argmax())
            expected_D = expert(layer.experts, e, x_D / (1 + (-logits_E[e]).exp()))
            torch.testing.assert_close(y_TD[t], expected_D, rtol=1e-4, atol=1e-5)


def test_scaled_inputs_carry_a_gradient_to_the_router() -> None:
    layer = layer_of(num_chosen=1, scales_input=True, router=Router(score="sigmoid"))
    layer(some_tokens(6), None)[0].square().sum().backward()
    assert layer.router.w_ED.grad.abs().sum() > 0


def test_a_layer_drops_rows_in_training_and_none_afterwards() -> None:
    router = Router(capacity=Capacity(factor=0.5))
    layer = layer_of(router=router)
    tokens = Tokens(torch.ones(16).bool(), torch.zeros(16).long())
    _, routing = layer(some_tokens(16), tokens)
    assert routing.counts_E.max() <= 4
    _, routing = layer.eval()(some_tokens(16), tokens)
    assert routing.counts_E.sum() == 32


def test_a_routing_is_made_only_when_it_is_asked_for() -> None:
    tokens = Tokens(torch.ones(3).bool(), torch.zeros(3).long())
    layer = layer_of()
    assert layer(some_tokens(3), tokens, False)[1] is None
    assert layer(some_tokens(3), tokens, True)[1] is not None
