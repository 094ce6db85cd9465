"""Counts of models against published checkpoints, transformers, and sums done by hand."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_cases import CASES

from expertly import planner
from expertly.config import (
    Attention,
    Dense,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
)
from expertly.families import parameters, read_config
from expertly.planner import known

COUNTED = Path(__file__).parents[1] / "data" / "systems"
# the factors of Phi-3.5-MoE's LongRoPE are made up: 64 of them, as a count does not ask which
COUNTS: dict[str, dict[str, Any]] = json.loads((COUNTED / "counts.json").read_text())


def system(name: str) -> ModelConfig:
    return read_config(known.config(name))


ATTENTION = Attention(num_heads=4, num_kv_heads=2, head_size=6, rope=Rope(base=1e4))
MIXTURE = Mixture(num_experts=5, num_chosen=2, expert_size=3, router=Router())


def tiny(*layers: Dense | Mixture, attention: Attention = ATTENTION, **changes: Any) -> ModelConfig:
    return ModelConfig(
        family="made",
        vocab_size=11,
        hidden_size=8,
        max_context=100,
        layers=tuple(Layer(attention=attention, feed_forward=each) for each in layers),
        norm=Norm(eps=1e-5),
        **changes,
    )


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_counts_equal_the_published_checkpoints(name) -> None:
    config, expected = system(name), COUNTS[name]
    assert planner.total_params(config) == expected["total_params"]
    assert planner.active_params(config) == expected["active_params"]
    assert planner.routed_expert_params(config) == expected["routed_expert_params"]


def test_every_system_has_counts_and_a_source() -> None:
    configs = {*known.names()}
    assert configs == set(COUNTS)
    assert all(each["config"] and each["count"] for each in COUNTS.values())


@pytest.mark.parametrize(
    ("family", "case"), [(f, i) for f, cases in CASES.items() for i in range(len(cases))]
)
def test_total_equals_transformers_models_without_memory(family, case) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        config = CONFIG_MAPPING[family](**json.loads(json.dumps(CASES[family][case])))
        theirs = AutoModelForCausalLM.from_config(config)
    ours = read_config({"model_type": family, **CASES[family][case]})
    assert planner.total_params(ours) == sum(p.numel() for p in theirs.parameters())


def test_a_dense_layer_by_hand() -> None:
    # embedding and head 2 * 11 * 8, three norms of 8, q and o 2 * 24 * 8, k and v 2 * 12 * 8,
    # gate, up and down 3 * 8 * 10
    config = tiny(Dense(size=10))
    assert planner.total_params(config) == 176 + 24 + 384 + 192 + 240
    assert planner.active_params(config) == planner.total_params(config)
    assert planner.routed_expert_params(config) == 0


def test_a_mixture_by_hand() -> None:
    # as above, but a router of 5 * 8 and five experts of 3 * 8 * 3
    config = tiny(MIXTURE)
    assert planner.total_params(config) == 176 + 24 + 384 + 192 + 40 + 5 * 72
    assert planner.active_params(config) == 176 + 24 + 384 + 192 + 40 + 2 * 72
    assert planner.routed_expert_params(config) == 360


def test_expert_biases_belong_to_their_experts() -> None:
    config = tiny(replace(MIXTURE, has_expert_bias=True))
    assert planner.routed_expert_params(config) == 5 * (72 + 3 + 3 + 8)
    assert planner.total_params(config) - planner.active_params(config) == 3 * 86


def test_shared_experts_and_their_gate_are_always_active() -> None:
    config = tiny(replace(MIXTURE, shared_size=7, has_shared_gate=True))
    assert planner.active_params(config) - planner.active_params(tiny(MIXTURE)) == 3 * 8 * 7 + 8


def test_a_tied_head_is_counted_once() -> None:
    saved = planner.total_params(tiny(MIXTURE)) - planner.total_params(tiny(MIXTURE, is_tied=True))
    assert saved == 11 * 8


def test_biases_norms_and_sinks_by_hand() -> None:
    plain = planner.total_params(tiny(MIXTURE))

    def more(**changes: Any) -> int:
        attention = replace(ATTENTION, **changes)
        return planner.total_params(tiny(MIXTURE, attention=attention)) - plain

    assert more(has_qkv_bias=True) == 24 + 12 + 12
    assert more(has_output_bias=True) == 8
    assert more(qk_norm="head") == 12
    assert more(qk_norm="projection") == 24 + 12
    assert more(has_sinks=True) == 4
    assert planner.total_params(tiny(MIXTURE, has_head_bias=True)) == plain + 11
    biased = replace(tiny(MIXTURE), norm=Norm(eps=1e-5, has_bias=True))
    assert planner.total_params(biased) == plain + 24
    router = replace(MIXTURE, router=Router(has_bias=True))
    assert planner.total_params(tiny(router)) == plain + 5
    dense = planner.total_params(tiny(Dense(size=10)))
    assert planner.total_params(tiny(Dense(size=10, has_bias=True))) == dense + 10 + 10 + 8


def test_weights_in_whole_formats_are_two_and_four_bytes_each() -> None:
    config = tiny(MIXTURE, Dense(size=10))
    total = planner.total_params(config)
    found = planner.weight_bytes(config)
    assert list(found) == ["float32", "bfloat16", "int8", "int4"]
    assert (found["float32"], found["bfloat16"]) == (4 * total, 2 * total)


def test_routers_norms_biases_and_sinks_stay_in_float32_below_16_bits() -> None:
    attention = replace(ATTENTION, has_qkv_bias=True, has_sinks=True, qk_norm="head")
    mixture = replace(MIXTURE, shared_size=7, has_shared_gate=True, has_expert_bias=True)
    config = tiny(mixture, attention=attention)
    # norms 24 and 12, router 40, gate 8, attention biases 48, sinks 4, expert biases 5 * 14
    small = 24 + 12 + 40 + 8 + 48 + 4 + 70
    matrices = planner.total_params(config) - small
    assert planner.weight_bytes(config)["int8"] == matrices + 4 * small
    # 4 bits pack two weights a byte, and three experts' matrices have 24 weights each
    assert planner.weight_bytes(config)["int4"] == matrices // 2 + 4 * small


def test_an_expert_is_rounded_up_to_whole_bytes() -> None:
    config = replace(tiny(replace(MIXTURE, expert_size=1)), hidden_size=9)
    # three matrices of 9 weights: 4.5 bytes each, so 5
    assert planner.expert_bytes(config, 0, bits=4) == 15
    assert planner.expert_bytes(config, 0, bits=8) == 27


def test_expert_bytes_are_a_layers_own() -> None:
    config = tiny(Dense(size=10), MIXTURE, replace(MIXTURE, expert_size=6, has_expert_bias=True))
    assert planner.expert_bytes(config, 0) == 0
    assert planner.expert_bytes(config, 1) == 2 * 72
    assert planner.expert_bytes(config, 1, bits=32) == 4 * 72
    assert planner.expert_bytes(config, 2) == 2 * (144 + 20)
    assert planner.expert_bytes(config, 2, bits=4) == 72 + 4 * 20
    assert planner.chosen_expert_bytes(config) == 2 * 144 + 2 * 328


def test_keys_and_values_of_a_token_by_hand() -> None:
    config = tiny(MIXTURE, MIXTURE, MIXTURE)
    assert planner.kv_bytes_per_token(config) == 3 * 2 * 2 * 6 * 2
    assert planner.kv_bytes_per_token(config, bytes_per_value=4) == 3 * 2 * 2 * 6 * 4
    windowed = tiny(MIXTURE, attention=replace(ATTENTION, window=3))
    assert planner.kv_bytes_per_token(windowed) == 2 * 2 * 6 * 2


def test_mixtral_keeps_128_kib_of_keys_and_values_a_token() -> None:
    # 32 layers, 8 heads of 128, keys and values at 2 bytes
    assert planner.kv_bytes_per_token(system("Mixtral-8x7B-v0.1")) == 131072


def test_a_decoded_token_reads_active_weights_but_one_row_of_the_table() -> None:
    config = tiny(MIXTURE)
    active = planner.active_params(config)
    assert planner.decode_bytes_per_token(config) == 2 * (active - 88 + 8)
    tied = tiny(MIXTURE, is_tied=True)
    assert planner.decode_bytes_per_token(tied) == 2 * planner.active_params(tied)


def test_a_decoded_token_reads_the_cache_up_to_each_layers_window() -> None:
    config = tiny(MIXTURE)
    layers = (
        config.layers[0],
        replace(config.layers[0], attention=replace(ATTENTION, window=3)),
    )
    config = replace(config, layers=layers)
    empty = planner.decode_bytes_per_token(config)
    a_token = 2 * 2 * 6 * 2
    assert planner.decode_bytes_per_token(config, context=2) - empty == 4 * a_token
    assert planner.decode_bytes_per_token(config, context=10) - empty == 13 * a_token
    assert (
        planner.decode_bytes_per_token(config, context=10, bytes_per_value=4) - empty
        == 26 * a_token
    )


attentions = st.builds(
    Attention,
    num_heads=st.sampled_from([4, 8]),
    num_kv_heads=st.sampled_from([1, 2, 4]),
    head_size=st.sampled_from([2, 6]),
    rope=st.just(Rope(base=1e4)),
    has_qkv_bias=st.booleans(),
    has_output_bias=st.booleans(),
    qk_norm=st.sampled_from([None, "head", "projection"]),
    has_sinks=st.booleans(),
)
shared = st.one_of(
    st.fixed_dictionaries({"shared_size": st.just(0)}),
    st.fixed_dictionaries({"shared_size": st.integers(1, 5), "has_shared_gate": st.booleans()}),
)
mixtures = st.builds(
    lambda sizes, **rest: Mixture(**rest, **sizes),
    shared,
    num_experts=st.integers(2, 9),
    num_chosen=st.integers(1, 2),
    expert_size=st.integers(1, 9),
    router=st.builds(Router, has_bias=st.booleans()),
    has_expert_bias=st.booleans(),
)
denses = st.builds(Dense, size=st.integers(1, 9), has_bias=st.booleans())
configs = st.builds(
    ModelConfig,
    family=st.just("made"),
    vocab_size=st.integers(1, 20),
    hidden_size=st.integers(1, 20),
    max_context=st.just(10),
    layers=st.lists(
        st.builds(Layer, attention=attentions, feed_forward=st.one_of(denses, mixtures)),
        min_size=1,
        max_size=4,
    ).map(tuple),
    norm=st.builds(Norm, eps=st.just(1e-5), has_bias=st.booleans()),
    is_tied=st.booleans(),
    has_head_bias=st.booleans(),
)


@given(configs)
def test_counts_hang_together_for_any_config(config: ModelConfig) -> None:
    shapes = parameters(config)
    experts = sum(math.prod(s) for name, s in shapes.items() if ".experts." in name)
    total, active = planner.total_params(config), planner.active_params(config)
    assert planner.routed_expert_params(config) == experts
    assert total - experts <= active <= total
    per_format = planner.weight_bytes(config)
    assert per_format["float32"] == 4 * total
    assert per_format["int8"] >= per_format["int4"] >= total / 2
    stacks = sum(
        layer.feed_forward.num_experts * planner.expert_bytes(config, index, 4)
        for index, layer in enumerate(config.layers)
        if isinstance(layer.feed_forward, Mixture)
    )
    assert stacks <= per_format["int4"]
    assert planner.decode_bytes_per_token(config) <= 2 * active
