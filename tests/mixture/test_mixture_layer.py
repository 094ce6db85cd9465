"""Experts and the layer around them against a loop over tokens and their chosen experts."""

import dataclasses

import pytest
import torch
from torch import Tensor

from expertly import kernels
from expertly.config import Glu, Mixture, Router
from expertly.mixture import MixtureLayer, Tokens
from expertly.mixture.experts import Experts
from expertly.mixture.routers import choose
from expertly.mixture.routing import sort_rows

OSS = Glu(alpha=1.702, limit=1.5, up_shift=1.0)
PLAIN = Mixture(num_experts=5, num_chosen=2, expert_size=12, router=Router())
MIXTURES = {
    "plain": PLAIN,
    "biases": dataclasses.replace(PLAIN, has_expert_bias=True),
    "one_of_three": dataclasses.replace(PLAIN, num_experts=3, num_chosen=1, expert_size=7),
    "all_of_them": dataclasses.replace(PLAIN, num_experts=4, num_chosen=4),
    "limits": dataclasses.replace(PLAIN, has_expert_bias=True, glu=OSS, expert_size=9),
    "gelu": dataclasses.replace(PLAIN, glu=Glu(activation="gelu")),
}
WIDTH = 16


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)


def some_tokens(num: int, seed: int = 1) -> Tensor:
    return torch.randn(num, WIDTH, generator=torch.Generator().manual_seed(seed))


def feed(x_D: Tensor, weights: list[Tensor], biases: list[Tensor] | None, glu: Glu) -> Tensor:
    gate, up, down = weights
    b_gate, b_up, b_down = biases or (0.0, 0.0, 0.0)
    return down @ kernels.glu(gate @ x_D + b_gate, up @ x_D + b_up, glu) + b_down


def loop_over_tokens(experts: Experts, x_TD: Tensor, ids_TK: Tensor, weight_TK: Tensor) -> Tensor:
    answers = []
    for x_D, ids_K, weight_K in zip(x_TD, ids_TK.tolist(), weight_TK, strict=True):
        y_D = torch.zeros_like(x_D)
        for e, weight in zip(ids_K, weight_K, strict=True):
            weights = [experts.w_gate_EFD[e], experts.w_up_EFD[e], experts.w_down_EDF[e]]
            biases = None
            if experts.b_gate_EF is not None:
                biases = [experts.b_gate_EF[e], experts.b_up_EF[e], experts.b_down_ED[e]]
            y_D = y_D + weight * feed(x_D, weights, biases, experts.glu)
        answers.append(y_D)
    return torch.stack(answers)


def random_choice(mixture: Mixture, num_tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    table_TE = torch.rand(num_tokens, mixture.num_experts, generator=generator)
    # the last expert stays empty where it can
    if mixture.num_chosen < mixture.num_experts:
        table_TE[:, -1] = -1.0
    weight_TK = torch.randn(num_tokens, mixture.num_chosen, generator=generator)
    return table_TE.topk(mixture.num_chosen).indices, weight_TK


@pytest.mark.parametrize("num_tokens", [1, 6, 300], ids=["one", "few", "many"])
@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_a_loop_over_each_tokens_choice(name: str, num_tokens: int) -> None:
    mixture = MIXTURES[name]
    experts = Experts(WIDTH, mixture, torch.float32)
    randomise(experts)
    x_TD = some_tokens(num_tokens).requires_grad_()
    ids_TK, weight_TK = random_choice(mixture, num_tokens)
    weight_TK.requires_grad_()
    leaves = [x_TD, weight_TK, *experts.parameters()]
    found_TD = experts(x_TD, sort_rows(ids_TK, mixture.num_experts), weight_TK)
    exact_TD = loop_over_tokens(experts, x_TD, ids_TK, weight_TK)
    torch.testing.assert_close(found_TD, exact_TD, rtol=1e-4, atol=1e-4)
    weighing = some_tokens(num_tokens, seed=3)
    found = torch.autograd.grad(found_TD, leaves, weighing)
    exact = torch.autograd.grad(exact_TD, leaves, weighing)
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_no_tokens_pass_through_experts_and_layer() -> None:
    layer = MixtureLayer(WIDTH, MIXTURES["biases"], torch.float32)
    randomise(layer)
    y_TD, _ = layer(some_tokens(0), None)
    assert y_TD.shape == (0, WIDTH)


def layer_of(dtype: torch.dtype = torch.float32, **changes) -> MixtureLayer:
    layer = MixtureLayer(WIDTH, dataclasses.replace(PLAIN, **changes), dtype)
    randomise(layer)
    return layer


def routed_alone(layer: MixtureLayer, x_TD: Tensor) -> Tensor:
    choice = choose(x_TD @ layer.router.w_ED.T, 2, layer.router.rule)
    return loop_over_tokens(layer.experts, x_TD, choice.ids_TK, choice.weight_TK)


def test_a_shared_expert_is_added_to_the_routed_ones() -> None:
    layer, x_TD = layer_of(shared_size=10), some_tokens(5)
    shared = layer.shared
    weights = [shared.w_gate_FD, shared.w_up_FD, shared.w_down_DF]
    extra_TD = torch.stack([feed(x_D, weights, None, PLAIN.glu) for x_D in x_TD])
    y_TD, routing = layer(x_TD, None)
    assert routing is None
    torch.testing.assert_close(y_TD, routed_alone(layer, x_TD) + extra_TD, rtol=1e-4, atol=1e-4)


def test_a_gated_shared_expert_is_weighed_by_a_sigmoid_a_token() -> None:
    layer, x_TD = layer_of(shared_size=10, has_shared_gate=True), some_tokens(5)
    shared = layer.shared
    weights = [shared.w_gate_FD, shared.w_up_FD, shared.w_down_DF]
    gate_T = [1 / (1 + (-(x_D @ layer.w_shared_gate_D)).exp()) for x_D in x_TD]
    extra_TD = torch.stack(
        [g * feed(x_D, weights, None, PLAIN.glu) for g, x_D in zip(gate_T, x_TD, strict=True)]
    )
    y_TD, _ = layer(x_TD, None)
    torch.testing.assert_close(y_TD, routed_alone(layer, x_TD) + extra_TD, rtol=1e-4, atol=1e-4)


def test_a_routers_bias_is_added_to_its_logits() -> None:
    layer, x_TD = layer_of(router=Router(norm_p=1.0, has_bias=True)), some_tokens(5)
    logits_TE = layer.router(x_TD).logits_TE
    expected_TE = x_TD.double() @ layer.router.w_ED.double().T + layer.router.b_E.double()
    torch.testing.assert_close(logits_TE.double(), expected_TE, rtol=1e-5, atol=1e-5)


def test_a_layer_routes_as_its_answer_was_computed() -> None:
    layer, x_TD = layer_of(), some_tokens(6)
    tokens = Tokens(torch.tensor([1, 1, 0, 1, 0, 1]).bool(), torch.arange(6) // 2)
    y_TD, routing = layer(x_TD, tokens)
    again_TD = torch.zeros_like(y_TD)
    expert_R = torch.arange(5).repeat_interleave(routing.counts_E).tolist()
    rows = zip(routing.token_R.tolist(), expert_R, routing.weight_R, strict=True)
    for token, e, weight in rows:
        experts = layer.experts
        weights = [experts.w_gate_EFD[e], experts.w_up_EFD[e], experts.w_down_EDF[e]]
        again_TD[token] += weight * feed(x_TD[token], weights, None, experts.glu)
    torch.testing.assert_close(y_TD, again_TD, rtol=1e-4, atol=1e-4)
    assert torch.equal(routing.mask_T, tokens.mask_T)
    assert torch.equal(layer(x_TD, None)[0], y_TD)


def float32_choice(layer: MixtureLayer, x_TD: Tensor) -> tuple[Tensor, Tensor]:
    w_ED, b_E = layer.router.w_ED.detach(), layer.router.b_E.detach()
    logits_TE = torch.nn.functional.linear(x_TD.float(), w_ED.float(), b_E.float())
    return logits_TE, choose(logits_TE, 2, layer.router.rule).ids_TK


@pytest.mark.parametrize("is_autocast", [False, True], ids=["bare", "autocast"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["w32", "w16"])
@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16], ids=["x32", "x16"])
def test_a_router_computes_in_float32_whatever_the_types(weights, inputs, is_autocast) -> None:
    layer = layer_of(weights, router=Router(norm_p=1.0, has_bias=True))
    x_TD = some_tokens(2000).to(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        choice = layer.router(x_TD)
    for table in (choice.logits_TE, choice.probs_TE, choice.scores_TE, choice.weight_TK):
        assert table.dtype == torch.float32
    logits_TE, ids_TK = float32_choice(layer, x_TD)
    assert torch.equal(choice.logits_TE, logits_TE)
    assert torch.equal(choice.ids_TK, ids_TK)
    # what bfloat16 logits would have chosen differs, so the above can tell
    coarse_TE = logits_TE.bfloat16().float()
    assert not torch.equal(coarse_TE.topk(2).indices, ids_TK)


@pytest.mark.parametrize("is_autocast", [False, True], ids=["bare", "autocast"])
@pytest.mark.parametrize("num_tokens", [3, 200], ids=["few", "many"])
def test_a_layer_in_half_precision_stays_near_the_float32_one(num_tokens, is_autocast) -> None:
    changes = {"shared_size": 8, "has_shared_gate": True, "has_expert_bias": True}
    half = layer_of(torch.float32 if is_autocast else torch.bfloat16, **changes)
    whole = layer_of(torch.float32, **changes)
    whole.load_state_dict(half.state_dict())
    x_TD = some_tokens(num_tokens).bfloat16()
    exact_TD, _ = whole(x_TD.float(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        found_TD, _ = half(x_TD.float() if is_autocast else x_TD, None)
    assert found_TD.isfinite().all()
    difference = (found_TD.float() - exact_TD).square().mean().sqrt() / exact_TD.std()
    assert difference < 0.01
