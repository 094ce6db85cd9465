"""Rules beside the routers of transformers that have them: same weights, same gradients."""

from types import SimpleNamespace

import pytest
import torch
from router_tables import by_expert
from torch import Tensor, nn
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4HashRouter,
    DeepseekV4TopKRouter,
)
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashMoE
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from expertly.config import Groups, Mixture, Router
from expertly.mixture import MixtureLayer, Tokens
from expertly.mixture.routers import LearnedRouter, choose

WIDTH, EXPERTS, CHOSEN = 12, 8, 3
CONFIG = SimpleNamespace(
    hidden_size=WIDTH,
    num_experts=EXPERTS,
    num_local_experts=EXPERTS,
    num_experts_per_tok=CHOSEN,
    top_k_experts=CHOSEN,
    routed_scaling_factor=2.5,
    n_group=4,
    topk_group=2,
    norm_topk_prob=True,
    topk_method="group_limited_greedy",
    scoring_func="sqrtsoftplus",
    vocab_size=9,
    rms_norm_eps=1e-6,
)


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.7, generator=generator)


def some_tokens(num: int = 64) -> Tensor:
    return torch.randn(num, WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()


def ours_like(theirs: nn.Module, router: Router, names: dict[str, str], **changes) -> LearnedRouter:
    """Our router with their weights: by our name, theirs."""
    mixture = Mixture(
        num_experts=EXPERTS, num_chosen=CHOSEN, expert_size=4, router=router, **changes
    )
    ours = LearnedRouter(WIDTH, mixture, torch.float32, vocab_size=9)
    assert ours.state_dict().keys() == names.keys()
    ours.load_state_dict({own: theirs.state_dict()[name] for own, name in names.items()})
    return ours


def assert_same(weight_TE: Tensor, expected_TE: Tensor, x_TD: Tensor) -> None:
    torch.testing.assert_close(weight_TE, expected_TE, rtol=1e-5, atol=1e-6)
    found = [torch.autograd.grad(w.square().sum(), x_TD)[0] for w in (weight_TE, expected_TE)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def table(weights: Tensor, ids: Tensor) -> Tensor:
    return weights.new_zeros(len(weights), EXPERTS).scatter_add(-1, ids, weights)


STEERED = {"w_ED": "weight", "b_steer_E": "e_score_correction_bias"}
CASES = {
    "deepseek_v2": (
        DeepseekV2TopkRouter,
        Router(scale=2.5, groups=Groups(num=4, num_chosen=2)),
        {"w_ED": "weight"},
    ),
    "deepseek_v3": (
        DeepseekV3TopkRouter,
        Router(
            score="sigmoid",
            norm_p=1.0,
            scale=2.5,
            has_steering_bias=True,
            groups=Groups(num=4, num_chosen=2, score="top_two"),
        ),
        STEERED,
    ),
    "deepseek_v4": (
        DeepseekV4TopKRouter,
        Router(score="sqrt_softplus", norm_p=1.0, scale=2.5, has_steering_bias=True),
        STEERED,
    ),
    "gemma4": (
        Gemma4TextRouter,
        Router(norm_p=1.0, norm_eps=1e-6, has_expert_scale=True),
        {"w_ED": "proj.weight", "scale_D": "scale", "scale_E": "per_expert_scale"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_and_gradients_are_theirs(name: str) -> None:
    kind, router, names = CASES[name]
    theirs = kind(CONFIG)
    randomise(theirs)
    ours, x_TD = ours_like(theirs, router, names), some_tokens()
    _, weights, ids = theirs(x_TD)
    assert_same(by_expert(ours(x_TD)), table(weights, ids), x_TD)


def test_a_hash_weighs_as_theirs_does() -> None:
    theirs = DeepseekV4HashRouter(CONFIG)
    randomise(theirs)
    order = torch.rand(9, EXPERTS, generator=torch.Generator().manual_seed(3)).argsort(-1)
    theirs.tid2eid.copy_(order[:, :CHOSEN])
    router = Router(rule="hash", score="sqrt_softplus", norm_p=1.0, scale=2.5)
    ours = ours_like(theirs, router, {"w_ED": "weight", "table_VK": "tid2eid"})
    x_TD, ids_T = some_tokens(), torch.arange(64) % 9
    _, weights, ids = theirs(x_TD, ids_T)
    tokens = Tokens(torch.ones(64).bool(), torch.zeros(64).long(), ids_T)
    assert_same(by_expert(ours(x_TD, tokens)), table(weights, ids), x_TD)


def test_llama_4_scores_by_the_sigmoid_of_its_largest_logits() -> None:
    theirs = Llama4Router(CONFIG)
    randomise(theirs)
    ours = ours_like(theirs, Router(score="sigmoid"), {"w_ED": "weight"}, scales_input=True)
    x_TD = some_tokens()
    assert_same(by_expert(ours(x_TD)), theirs(x_TD)[0], x_TD)


def test_longcats_identities_add_the_weighed_token() -> None:
    config = SimpleNamespace(
        **vars(CONFIG),
        n_routed_experts=6,
        zero_expert_num=2,
        expert_ffn_hidden_size=5,
        hidden_act="silu",
    )
    theirs = LongcatFlashMoE(config)
    randomise(theirs)
    router = Router(scale=2.5, has_steering_bias=True)
    mixture = Mixture(
        num_experts=6, num_chosen=CHOSEN, expert_size=5, router=router, num_zero=2, zero="identity"
    )
    ours = MixtureLayer(WIDTH, mixture, torch.float32)
    weights = theirs.state_dict()
    gate, up = weights["experts.gate_up_proj"][:6].chunk(2, dim=1)
    ours.load_state_dict(
        {
            "router.w_ED": weights["router.classifier.weight"],
            "router.b_steer_E": weights["router.e_score_correction_bias"],
            "experts.w_gate_EFD": gate,
            "experts.w_up_EFD": up,
            "experts.w_down_EDF": weights["experts.down_proj"],
        }
    )
    x_TD = some_tokens()
    found_TD, _ = ours(x_TD, None)
    torch.testing.assert_close(found_TD, theirs(x_TD[None])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("jitter", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("is_training", [False, True])
def test_sparsemixer_draws_weighs_and_teaches_as_theirs(jitter: float, is_training: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    logits_TE = torch.randn(300, EXPERTS, generator=generator).requires_grad_()
    loss_TK = torch.randn(300, 2, generator=generator)
    torch.manual_seed(6)
    weights, ids = sparsemixer(logits_TE, jitter, is_training)
    torch.manual_seed(6)
    router = Router(rule="sparsemixer", jitter=jitter)
    choice = choose(logits_TE, 2, router, is_training=is_training)
    assert torch.equal(choice.ids_TK, ids)
    # they round a third to 0.3333, and draw the second coin twice
    ratio_TK = choice.weight_TK.detach() / weights.detach()
    torch.testing.assert_close(ratio_TK[:, 0], torch.ones(300), rtol=2e-4, atol=0)
    coins = (1 / 3, 1.0, 3.0) if is_training else (1.0,)
    is_known_XT = torch.stack([(ratio_TK[:, 1] / coin - 1).abs() < 4e-4 for coin in coins])
    assert is_known_XT.any(0).all()
    if is_training:
        # whatever the coin says, the gradient is that of the whole weight
        both = (choice.weight_TK, weights)
        found = [torch.autograd.grad((w * loss_TK).sum(), logits_TE)[0] for w in both]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
