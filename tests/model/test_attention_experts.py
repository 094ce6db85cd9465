"""Heads that are experts, beside transformers' JetMoE: logits, gradients, cached decoding."""

import dataclasses
import re

import pytest
import torch
import transformers
from small_models import draw_ids

from expertly.config import (
    Attention,
    Capacity,
    HeadExperts,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
)
from expertly.errors import ConfigError
from expertly.families import parameters, read_config
from expertly.model import Decoder
from expertly.model.native_layers import check_native
from expertly.planner import costs

D, G, C, E, K, F = 20, 2, 6, 5, 3, 9
EXPERTS = HeadExperts(num_experts=E, num_chosen=K)
ATTENTION = Attention(
    num_heads=G * K,
    num_kv_heads=G,
    head_size=C,
    rope=Rope(base=100.0),
    has_output_bias=True,
    experts=EXPERTS,
)
CONFIG = ModelConfig(
    family="expertly",
    vocab_size=31,
    hidden_size=D,
    max_context=64,
    layers=(
        Layer(
            attention=ATTENTION,
            feed_forward=Mixture(
                num_experts=E,
                num_chosen=K,
                expert_size=F,
                router=Router(norm_p=1.0),
                has_output_bias=True,
            ),
        ),
    )
    * 2,
    norm=Norm(eps=1e-6),
    is_tied=True,
)


def theirs_of() -> transformers.JetMoeForCausalLM:
    config = transformers.JetMoeConfig(
        vocab_size=31,
        hidden_size=D,
        num_hidden_layers=2,
        num_key_value_heads=G,
        kv_channels=C,
        intermediate_size=F,
        max_position_embeddings=64,
        num_local_experts=E,
        num_experts_per_tok=K,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        attn_implementation="eager",
    )
    model = transformers.JetMoeForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return model.eval()


def ours_of(theirs: transformers.JetMoeForCausalLM) -> Decoder:
    given = theirs.state_dict()
    found = {
        "embed_VD": given["model.embed_tokens.weight"],
        "norm.weight_D": given["model.norm.weight"],
    }
    for i in range(2):
        here, ours = f"model.layers.{i}", f"layers.{i}"
        k, v = given[f"{here}.self_attention.kv_proj.weight"].chunk(2)
        heads, mlp = f"{here}.self_attention.experts", f"{here}.mlp"
        gate, up = given[f"{mlp}.input_linear.weight"].chunk(2, dim=1)
        attention, feed = f"{ours}.attention", f"{ours}.feed_forward"
        found |= {
            f"{ours}.attention_norm.weight_D": given[f"{here}.input_layernorm.weight"],
            f"{ours}.feed_forward_norm.weight_D": given[f"{here}.post_attention_layernorm.weight"],
            f"{attention}.w_k_GCD": k.view(G, C, D),
            f"{attention}.w_v_GCD": v.view(G, C, D),
            f"{attention}.b_o_D": given[f"{heads}.bias"],
            f"{attention}.heads.router.w_ED": given[f"{heads}.router.layer.weight"],
            f"{attention}.heads.w_q_EXD": given[f"{heads}.input_linear.weight"],
            f"{attention}.heads.w_o_EDX": given[f"{heads}.output_linear.weight"],
            f"{feed}.router.w_ED": given[f"{mlp}.router.layer.weight"],
            f"{feed}.experts.w_gate_EFD": gate,
            f"{feed}.experts.w_up_EFD": up,
            f"{feed}.experts.w_down_EDF": given[f"{mlp}.output_linear.weight"],
            f"{feed}.b_D": given[f"{mlp}.bias"],
        }
    model = Decoder(CONFIG)
    model.load_state_dict(found)
    return model.eval()


def test_logits_are_those_of_transformers_padding_or_not() -> None:
    theirs = theirs_of()
    ours = ours_of(theirs)
    ids_BS = draw_ids(CONFIG, 3, 11)
    mask_BS = torch.ones(3, 11, dtype=torch.bool)
    mask_BS[0, :4] = False
    positions_BS = (mask_BS.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids_BS, attention_mask=mask_BS.long(), position_ids=positions_BS).logits
        found = ours(ids_BS, mask_BS).logits
    torch.testing.assert_close(found[mask_BS], expected[mask_BS], rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_transformers() -> None:
    theirs = theirs_of()
    ours = ours_of(theirs)
    ids_BS = draw_ids(CONFIG, 2, 7)
    for model in (ours, theirs):
        model(ids_BS).logits.square().mean().backward()
    moa = theirs.model.layers[0].self_attention.experts
    heads = ours.layers[0].attention.heads
    for own, other in (
        (heads.w_q_EXD, moa.input_linear.weight),
        (heads.w_o_EDX, moa.output_linear.weight),
        (heads.router.w_ED, moa.router.layer.weight),
        (ours.layers[0].attention.b_o_D, moa.bias),
    ):
        assert own.grad.abs().sum() > 0
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_cached_decoding_is_one_pass_over_the_text() -> None:
    ours = ours_of(theirs_of())
    ids_BS = draw_ids(CONFIG, 2, 9)
    cache = ours.new_cache(2)
    with torch.no_grad():
        whole = ours(ids_BS).logits
        parts = [ours(ids_BS[:, :5], cache=cache).logits]
        parts += [ours(ids_BS[:, i : i + 1], cache=cache).logits for i in range(5, 9)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_routings_of_heads_come_beside_those_of_feed_forwards() -> None:
    ours = ours_of(theirs_of())
    assert CONFIG.head_mixture_layers == CONFIG.mixture_layers == (0, 1)
    with torch.no_grad():
        output = ours(draw_ids(CONFIG, 2, 4), routings=True)
        assert ours(draw_ids(CONFIG, 2, 4)).head_routings is None
    assert len(output.routings) == len(output.head_routings) == 2
    for routing in output.head_routings:
        assert routing.counts_E.shape == (E,)
        assert routing.counts_E.sum() == 8 * K
        sums_T = torch.zeros(8).index_add(0, routing.token_R, routing.weight_R)
        torch.testing.assert_close(sums_T, torch.ones(8))


def test_a_decoder_has_what_the_config_lists() -> None:
    found = {name: tuple(p.shape) for name, p in Decoder(CONFIG).state_dict().items()}
    assert found == parameters(CONFIG)


def test_a_token_computes_with_its_own_heads_alone() -> None:
    idle = (E - K) * (2 * G * C * D + 3 * D * F)
    assert costs.active_params(CONFIG) == costs.total_params(CONFIG) - 2 * idle
    fewer = dataclasses.replace(ATTENTION, experts=dataclasses.replace(EXPERTS, num_experts=K))
    layers = [dataclasses.replace(layer, attention=fewer) for layer in CONFIG.layers]
    all_chosen = dataclasses.replace(CONFIG, layers=tuple(layers))
    routers = 2 * (E - K) * D * 2  # in bfloat16
    difference = costs.decode_bytes_per_token(CONFIG) - costs.decode_bytes_per_token(all_chosen)
    assert difference == routers


def test_our_family_spells_experts_of_heads() -> None:
    section = dataclasses.asdict(ATTENTION)
    hf = {
        "model_type": "expertly",
        "hidden_size": D,
        "vocab_size": 31,
        "max_position_embeddings": 64,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
        "attention": section,
        "mixture": dataclasses.asdict(CONFIG.layers[0].feed_forward),
    }
    assert read_config(hf) == CONFIG


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4}, "4 heads are not 2 key heads times 3 experts"),
        ({"has_qkv_bias": True}, "no biases on q, k and v"),
        ({"qk_norm": "head"}, "no norms of q and k"),
    ],
)
def test_an_attention_refuses_what_its_experts_cannot_have(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(ATTENTION, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_chosen": 6}, "6 experts of heads chosen out of 5"),
        ({"router": Router(rule="relu")}, "experts of heads chosen by relu"),
        ({"router": Router(capacity=Capacity(factor=1.0))}, "capacity is not for experts of heads"),
    ],
)
def test_experts_of_heads_refuse_what_cannot_be(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(EXPERTS, **changes)


def test_native_kernels_and_idle_routers_are_refused() -> None:
    with pytest.raises(ConfigError, match="experts of heads in layer 0"):
        check_native(CONFIG)
    one = dataclasses.replace(
        ATTENTION, num_heads=G, experts=HeadExperts(num_experts=E, num_chosen=1)
    )
    layers = (CONFIG.layers[0], dataclasses.replace(CONFIG.layers[1], attention=one))
    with pytest.raises(ConfigError, match="layer 1 chooses 1 expert"):
        Decoder(dataclasses.replace(CONFIG, layers=layers)).train()
