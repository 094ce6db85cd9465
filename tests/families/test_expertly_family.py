"""Our own family: every field of a config can be said, and nothing else."""

import dataclasses
from typing import Any, get_type_hints

import pytest
import router_rules

from expertly.config import (
    Attention,
    Capacity,
    Dense,
    Glu,
    Groups,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Mixture,
    Norm,
    Rope,
    Router,
    SoftMixture,
    YarnScaling,
)
from expertly.errors import ConfigError
from expertly.families import parameters, read_config, stored_tensors

ATTENTION = {"num_heads": 2, "num_kv_heads": 1, "head_size": 8, "rope": {"base": 1000.0}}


def model(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "expertly",
        "hidden_size": 16,
        "vocab_size": 40,
        "max_position_embeddings": 64,
        "num_hidden_layers": 2,
        "attention": ATTENTION,
        **changes,
    }


def refusal(hf: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(hf)
    return caught.value.message


def test_a_mixture_says_all_that_ours_can_hold() -> None:
    mixture = Mixture(
        num_experts=6,
        num_chosen=2,
        expert_size=8,
        router=Router(
            score="sigmoid",
            norm_p=1.0,
            scale=2.5,
            has_bias=True,
            has_steering_bias=True,
            groups=Groups(num=3, num_chosen=2, score="top_two"),
            norm_eps=1e-5,
            has_expert_scale=True,
            input_jitter=0.1,
            has_noise=True,
            capacity=Capacity(factor=1.5, policy="next"),
        ),
        glu=Glu(activation="gelu_tanh", alpha=1.5, limit=7.0, up_shift=1.0),
        has_expert_bias=True,
        shared_size=8,
        has_shared_gate=True,
        zero="identity",
    )
    found = read_config(model(mixture=dataclasses.asdict(mixture)))
    assert [layer.feed_forward for layer in found.layers] == [mixture] * 2


SCALINGS = {
    "linear": LinearScaling(factor=2.0),
    "llama3": Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16
    ),
    "yarn": YarnScaling(factor=4.0, original_context=16, attention_factor=1.1, is_truncated=False),
    "longrope": LongScaling(
        short_factors=(1.0, 1.0, 1.5, 2.0),
        long_factors=(1.0, 2.0, 3.0, 4.0),
        short_scale=1.0,
        long_scale=1.2,
        original_context=16,
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_an_attention_says_all_that_ours_can_hold(kind: str) -> None:
    attention = Attention(
        num_heads=4,
        num_kv_heads=2,
        head_size=8,
        rope=Rope(base=500.0, scaling=SCALINGS[kind]),
        window=9,
        has_qkv_bias=True,
        has_output_bias=True,
        qk_norm="projection",
        clip=3.0,
        has_sinks=True,
    )
    section = dataclasses.asdict(attention)
    section["rope"]["scaling"]["kind"] = kind
    found = read_config(model(attention=section, dense={"size": 20}))
    assert found.layers[1].attention == attention


def test_the_rest_of_a_model_is_said_too() -> None:
    found = read_config(
        model(
            dense={"size": 20, "has_bias": True},
            norm={"kind": "layer", "eps": 1e-4, "has_bias": True},
            has_head_bias=True,
            tie_word_embeddings=True,
            bos_token_id=3,
            eos_token_id=[4, 5],
            pad_token_id=6,
        )
    )
    assert found.norm == Norm(kind="layer", eps=1e-4, has_bias=True)
    assert found.layers[0].feed_forward == Dense(size=20, has_bias=True)
    assert (found.has_head_bias, found.is_tied, found.max_context) == (True, True, 64)
    assert (found.bos_id, found.eos_ids, found.pad_id) == (3, (4, 5), 6)


def test_a_number_of_layers_must_be_that_of_the_layers_listed() -> None:
    layers = [{"count": 1}, {"count": 3}]
    assert (
        len(read_config(model(dense={"size": 2}, layers=layers, num_hidden_layers=4)).layers) == 4
    )
    message = refusal(model(dense={"size": 2}, layers=layers, num_hidden_layers=3))
    assert "num_hidden_layers 3 is not built, only 4" in message


def test_layers_may_differ_and_take_what_they_do_not_say_from_outside() -> None:
    mixture = {"num_experts": 6, "num_chosen": 2, "expert_size": 8, "router": {"norm_p": 1.0}}
    found = read_config(
        model(
            dense={"size": 20},
            mixture=mixture,
            num_hidden_layers=5,
            layers=[
                {"count": 1, "dense": {"size": 30}},
                {"count": 2, "mixture": {"router": {"rule": "hash"}}, "attention": {"window": 4}},
                {"count": 1, "soft": router_rules.SOFT},
                {"count": 1, "mixture": {}},
            ],
        )
    )
    rules = [layer.feed_forward for layer in found.layers]
    plain = Mixture(num_experts=6, num_chosen=2, expert_size=8, router=Router(norm_p=1.0))
    hashed = dataclasses.replace(plain, router=Router(rule="hash", norm_p=1.0))
    soft = SoftMixture(num_experts=3, num_slots=2, expert_size=7)
    assert rules == [Dense(size=30), hashed, hashed, soft, plain]
    assert [layer.attention.window for layer in found.layers] == [None, 4, 4, None, None]
    assert found.mixture_layers == (1, 2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": {"size": 20, "sice": 2}}, "config.json: dense has an unknown key: sice=2"),
        (
            {"mixture": {"num_experts": 2, "num_chosen": 1, "expert_size": 4, "router": {"k": 1}}},
            "config.json: mixture: router has an unknown key: k=1",
        ),
        # a key without meaning elsewhere
        ({"dense": {"size": 20, "use_cache": True}}, "unknown key: use_cache=true"),
        ({"dense": {"size": 20}, "heads": 3}, "config.json has an unknown key: heads=3"),
        ({"dense": {"size": 2}, "layers": [{"count": 1, "size": 2}]}, "layers[0] has an unknown"),
        ({"dense": {}}, "lacks the key 'size'"),
        ({"dense": {"size": "20"}}, 'size must be an integer from 0, not "20"'),
        ({"dense": {"size": 20, "has_bias": 1}}, "has_bias must be true or false, not 1"),
        ({}, "a layer has no feed-forward"),
        (
            {"dense": {"size": 2}, "soft": router_rules.SOFT},
            "a layer has dense and soft",
        ),
        ({"dense": {"size": 2}, "layers": []}, "layers must be a list of objects"),
        ({"dense": {"size": 2}, "layers": [3]}, "layers must be a list of objects"),
        ({"dense": {"size": 2}, "layers": [{"dense": {}}]}, "layers[0] lacks the key 'count'"),
        (
            {"dense": {"size": 2}, "layers": [{"count": 20_000}]},
            "20000 layers are more than 10000",
        ),
        (
            {"dense": {"size": 2}, "attention": {**ATTENTION, "rope": None}},
            "attention lacks the section 'rope'",
        ),
        (
            {
                "dense": {"size": 2},
                "attention": {**ATTENTION, "rope": {"base": 9.0, "scaling": {"kind": "ntk"}}},
            },
            'kind "ntk" is not built',
        ),
        (
            {"dense": {"size": 2, "glu": {"activation": "swish"}}},
            'activation "swish" is not built',
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes, message: str) -> None:
    assert message in refusal(model(**changes))


def test_tensors_are_stored_under_our_own_names() -> None:
    config = router_rules.config_of("deepseek_v3")
    assert {s.name: s.shape for s in stored_tensors(config)} == parameters(config)
    assert parameters(config)["layers.1.feed_forward.router.b_steer_E"] == (6,)


def test_no_field_of_a_mixture_or_router_has_a_type_that_sections_cannot_read() -> None:
    simple = {int, float, bool}
    for kind in (Mixture, Router, Groups, Capacity, SoftMixture, Glu):
        for name, hint in get_type_hints(kind).items():
            text = str(hint)
            is_known = hint in simple or "Literal" in text or "| None" in text
            assert is_known or dataclasses.is_dataclass(hint), (kind, name)


@pytest.mark.parametrize("name", router_rules.NAMES)
def test_every_rule_reads_back_from_what_it_was_read_from(name: str) -> None:
    config = router_rules.config_of(name)
    assert read_config(config.source) == config
