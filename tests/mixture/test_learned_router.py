"""What a router's module adds to its rule: inputs, noise, biases; training and its end."""

import dataclasses

import pytest
import torch
from torch import Tensor

from expertly.config import Capacity, Mixture, Router
from expertly.mixture.routers import LearnedRouter
from expertly.mixture.routing import Choice

WIDTH = 12
MIXTURE = Mixture(num_experts=6, num_chosen=2, expert_size=4, router=Router())
# what only training heeds
RANDOM = {
    "noise": Router(norm_p=1.0, has_noise=True),
    "jitter": Router(input_jitter=0.3),
    "sample": Router(rule="sparsemixer", jitter=0.5),
    "pool": Router(min_pool=2),
}


def router_of(router: Router, dtype: torch.dtype = torch.float32, **changes) -> LearnedRouter:
    mixture = dataclasses.replace(MIXTURE, router=router, **changes)
    made = LearnedRouter(WIDTH, mixture, dtype, vocab_size=9)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.8, generator=generator)
    return made


def some_tokens(num: int = 40) -> Tensor:
    return torch.randn(num, WIDTH, generator=torch.Generator().manual_seed(5))


def same(one: Choice, other: Choice) -> bool:
    return torch.equal(one.ids_TK, other.ids_TK) and torch.equal(one.weight_TK, other.weight_TK)


@pytest.mark.parametrize("name", RANDOM)
def test_chance_has_a_say_in_training_alone(name: str) -> None:
    router, x_TD = router_of(RANDOM[name]), some_tokens()
    torch.manual_seed(0)
    first, *others = [router(x_TD) for _ in range(8)]
    assert not all(same(first, other) for other in others)
    torch.manual_seed(0)
    assert same(router(x_TD), first)
    router.eval()
    before = torch.get_rng_state()
    assert same(router(x_TD), router(x_TD))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_normal_and_as_wide_as_its_own_map_says() -> None:
    router = router_of(RANDOM["noise"])
    x_TD = some_tokens(1).expand(20_000, -1)
    torch.manual_seed(3)
    choice = router(x_TD)
    width_E = torch.nn.functional.softplus(x_TD[0].double() @ router.w_noise_ED.double().T)
    # scores are softmax of the noisy logits, so their logs differ by what the logits do
    noisy_TE = choice.scores_TE.double().log()
    noise_TE = (noisy_TE - noisy_TE[:, :1]) - (choice.logits_TE - choice.logits_TE[:, :1])
    spread_E = (width_E**2 + width_E[0] ** 2).sqrt()
    assert (noise_TE.mean(0).abs() < 0.03 * spread_E + 1e-6).all()
    torch.testing.assert_close(noise_TE.std(0)[1:], spread_E[1:], rtol=0.03, atol=0)


def test_noise_teaches_its_own_map() -> None:
    router = router_of(RANDOM["noise"])
    router(some_tokens()).weight_TK[:, 0].sum().backward()
    assert router.w_noise_ED.grad.abs().sum() > 0


def test_jitter_multiplies_each_input_by_a_factor_near_one() -> None:
    router = router_of(Router(input_jitter=0.25))
    with torch.no_grad():
        router.w_ED.copy_(torch.eye(6, WIDTH))
    x_TD = torch.ones(5000, WIDTH)
    factors = router(x_TD).logits_TE.detach()
    assert 0.75 <= factors.min() < 0.76
    assert 1.24 < factors.max() <= 1.25
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.01)


def test_gemmas_router_reads_a_normed_and_scaled_token() -> None:
    router, x_TD = (
        router_of(Router(norm_p=1.0, norm_eps=1e-6, has_expert_scale=True)),
        some_tokens(),
    )
    choice = router(x_TD)
    x = x_TD.double()
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    logits = (normed * router.scale_D.double() * WIDTH**-0.5) @ router.w_ED.double().T
    torch.testing.assert_close(choice.logits_TE.double(), logits, rtol=1e-5, atol=1e-5)
    top = logits.softmax(-1).topk(2)
    shares = top.values / top.values.sum(-1, keepdim=True)
    expected = shares * router.scale_E.double()[top.indices]
    torch.testing.assert_close(choice.weight_TK.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_steering_bias_is_no_parameter_and_float32_whatever_the_weights() -> None:
    router = router_of(Router(score="sigmoid", has_steering_bias=True), torch.bfloat16)
    assert "b_steer_E" not in dict(router.named_parameters())
    assert router.state_dict()["b_steer_E"].dtype == torch.float32
    assert router.b_steer_E.tolist() == [0.0] * 6


def test_a_steering_bias_that_is_set_changes_who_is_chosen() -> None:
    router, x_TD = router_of(Router(score="sigmoid", has_steering_bias=True)), some_tokens()
    plain = router(x_TD)
    with torch.no_grad():
        router.b_steer_E[3] = 5.0
    steered = router(x_TD)
    assert (steered.ids_TK[:, 0] == 3).all()
    assert torch.equal(steered.probs_TE, plain.probs_TE)
    torch.testing.assert_close(steered.weight_TK[:, 0], plain.probs_TE[:, 3])


@pytest.mark.parametrize(
    "router",
    [
        Router(norm_p=1.0, has_noise=True),
        Router(score="sigmoid", has_steering_bias=True, norm_p=1.0),
        Router(score="sqrt_softplus", capacity=Capacity(factor=1.0)),
        Router(rule="relu"),
        Router(rule="expert_choice"),
        Router(rule="sparsemixer", jitter=0.2),
        Router(norm_eps=1e-6, has_expert_scale=True),
        Router(input_jitter=0.1),
    ],
)
@pytest.mark.parametrize("is_autocast", [False, True], ids=["bare", "autocast"])
def test_every_rule_computes_in_float32_under_autocast_too(router, is_autocast) -> None:
    made = router_of(router, torch.bfloat16)
    x_TD = some_tokens().bfloat16()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
        choice = made(x_TD)
    for table in (choice.logits_TE, choice.probs_TE, choice.scores_TE, choice.weight_TK):
        assert table.dtype == torch.float32
    torch.manual_seed(1)
    twin = router_of(router, torch.bfloat16).float()
    assert same(choice, twin(x_TD.float()))


def test_a_drawn_table_has_distinct_experts_and_uses_all_of_them() -> None:
    router = router_of(Router(rule="hash", score="uniform"), num_zero=1)
    router.draw_table(torch.Generator().manual_seed(0))
    table = router.table_VK.tolist()
    assert len(table) == 9
    assert all(len(set(row)) == 2 for row in table)
    assert {e for row in table for e in row} == set(range(7))
    assert list(router.parameters()) == []
