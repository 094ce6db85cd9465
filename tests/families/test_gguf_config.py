"""GGUF metadata to a config: what each key means, and what is refused by name."""

import math
from dataclasses import replace
from typing import Any

import pytest
from gguf_configs import SAYABLE
from hypothesis import given, settings
from hypothesis import strategies as st

from expertly.config import (
    Dense,
    LinearScaling,
    LongScaling,
    Mixture,
    ModelConfig,
    Norm,
    Router,
    YarnScaling,
)
from expertly.errors import ConfigError
from expertly.families import read_config
from expertly.families.gguf_config import read_gguf_config
from expertly.families.gguf_saying import say

MIXTURE = "qwen3_moe"
FACTORS = {"rope_freqs.weight": (1.0, 2.0, 4.0, 8.0)}


def read(
    name: str = "llama",
    factors: dict[str, tuple[float, ...]] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    without: tuple[str, ...] = (),
    **changes: Any,
) -> ModelConfig:
    """One of the small configs with keys changed (`__` is a dot) or left out, and tensors added."""
    said = say(read_config(SAYABLE[name]))
    arch = said.metadata["general.architecture"]
    metadata = dict(said.metadata)
    metadata |= {f"{arch}.{key.replace('__', '.')}": value for key, value in changes.items()}
    for key in without:
        del metadata[f"{arch}.{key}"]
    found = {tensor.name: tensor.shape for tensor in said.tensors}
    values_of = {**said.rope_tensors, **(factors or {})}
    found |= {name: (len(values),) for name, values in values_of.items()} | (shapes or {})
    return read_gguf_config(metadata, found, lambda name: values_of[name])


def rope_of(**given: Any) -> Any:
    return read(**given).layers[0].attention.rope.scaling


def test_an_older_file_of_llama_says_less() -> None:
    """No key lengths, no rope keys, no kv heads: what they were before these keys came."""
    left_out = (
        "attention.key_length",
        "attention.value_length",
        "attention.head_count_kv",
        "rope.dimension_count",
        "rope.freq_base",
        "vocab_size",
    )
    config = read(without=left_out)
    attention = config.layers[1].attention
    assert (attention.num_heads, attention.num_kv_heads, attention.head_size) == (4, 4, 8)
    assert attention.rope.base == 10000.0 and attention.rope.scaling is None
    assert config.vocab_size == 48 and config.hidden_size == 32
    assert config.layers[1].feed_forward == Dense(size=64)
    assert config.norm == Norm(eps=1e-6)


@pytest.mark.parametrize(
    ("given", "scaling"),
    [
        ({"rope__scaling__type": "none"}, None),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 1.0}, None),
        (
            {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0},
            LinearScaling(factor=4.0),
        ),
        ({"rope__scaling__factor": 4.0}, LinearScaling(factor=4.0)),
        ({"rope__scale_linear": 2.0}, LinearScaling(factor=2.0)),
    ],
)
def test_a_factor_is_linear_unless_a_type_says_otherwise(given: Any, scaling: Any) -> None:
    assert rope_of(**given) == scaling


@pytest.mark.parametrize(
    ("given", "attention_factor"),
    [
        ({}, 1 + 0.1 * math.log(8)),
        ({"rope__scaling__attn_factor": 0.5}, 0.5 * (1 + 0.1 * math.log(8))),
        ({"rope__scaling__yarn_attn_factor": 1.5}, 1.5),
        ({"rope__scaling__factor": 0.5}, 1.0),
    ],
)
def test_yarn_brings_its_own_growth_unless_all_of_it_is_said(
    given: dict[str, Any], attention_factor: float
) -> None:
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 8.0, **given}
    scaling = rope_of(**yarn, rope__scaling__original_context_length=16)
    assert isinstance(scaling, YarnScaling)
    assert math.isclose(scaling.attention_factor, attention_factor)
    assert (scaling.original_context, scaling.beta_fast, scaling.beta_slow) == (16, 32.0, 1.0)


def test_frequencies_are_divided_by_what_a_tensor_lists() -> None:
    scaling = rope_of(factors=FACTORS)
    assert scaling == LongScaling(
        short_factors=(1.0, 2.0, 4.0, 8.0),
        long_factors=(1.0, 2.0, 4.0, 8.0),
        short_scale=1.0,
        long_scale=1.0,
        original_context=64,
    )


@pytest.mark.parametrize(
    ("name", "given", "router"),
    [
        ("mixtral", {}, Router(norm_p=1.0)),
        ("mixtral", {"expert_weights_norm": False}, Router()),
        ("olmoe", {}, Router()),
        ("olmoe", {"expert_weights_norm": True}, Router(norm_p=1.0)),
        ("qwen2_moe", {}, Router()),
        ("qwen3_moe", {}, Router(norm_p=1.0)),
        ("dbrx", {}, Router(norm_p=1.0)),
        ("deepseek", {}, Router()),
        ("gpt_oss", {}, Router(norm_p=1.0, has_bias=True)),
        ("phimoe", {}, Router(rule="sparsemixer", jitter=0.01)),
    ],
)
def test_an_architecture_fixes_its_router_unless_the_file_says_otherwise(
    name: str, given: dict[str, Any], router: Router
) -> None:
    rule = read(name, **given).layers[-1].feed_forward
    assert isinstance(rule, Mixture) and rule.router == router


def test_experts_are_as_wide_as_the_feed_forward_unless_they_have_a_width() -> None:
    rules = [
        read("gpt_oss", without=without, feed_forward_length=72).layers[0].feed_forward
        for without in ((), ("expert_feed_forward_length",))
    ]
    assert [rule.expert_size for rule in rules if isinstance(rule, Mixture)] == [64, 72]


def test_a_list_that_says_one_thing_for_all_layers_is_that_thing() -> None:
    assert read(attention__head_count=[4, 4]).layers[0].attention.num_heads == 4


def test_a_model_without_a_head_is_tied() -> None:
    assert read("llama3").is_tied and not read("llama").is_tied


@pytest.mark.parametrize("key", ["eos", "eot"])
def test_ends_of_text_are_named_once(key: str) -> None:
    said = say(read_config(SAYABLE["llama"]))
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    metadata = {**said.metadata, f"tokenizer.ggml.{key}_token_id": 2}
    assert read_gguf_config(metadata, shapes, lambda name: ()).eos_ids == (2,)


@pytest.mark.parametrize("value", [-1, (1 << 32) - 1])
def test_the_id_that_older_converters_wrote_for_no_token_is_none(value: int) -> None:
    said = say(read_config(SAYABLE["llama"]))
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    ids = {f"tokenizer.ggml.{key}_token_id": value for key in ("bos", "eos", "padding")}
    config = read_gguf_config({**said.metadata, **ids}, shapes, lambda name: ())
    assert (config.bos_id, config.eos_ids, config.pad_id) == (None, (), None)


def said_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    said = say(read_config(SAYABLE[name]))
    return dict(said.metadata), {tensor.name: tensor.shape for tensor in said.tensors}


@pytest.mark.parametrize(
    ("name", "arch", "shared"), [("qwen2_moe", "qwen2moe", 96), ("qwen3_moe", "qwen3moe", 0)]
)
def test_experts_without_a_size_share_that_of_a_layer(name: str, arch: str, shared: int) -> None:
    metadata, shapes = said_of(name)
    for key in ("expert_feed_forward_length", "expert_shared_feed_forward_length"):
        metadata.pop(f"{arch}.{key}", None)
    metadata |= {f"{arch}.feed_forward_length": 96, f"{arch}.expert_used_count": 3}
    rule = read_gguf_config(metadata, shapes, lambda name: ()).layers[0].feed_forward
    assert isinstance(rule, Mixture)
    assert (rule.expert_size, rule.shared_size) == (32, shared)


def test_no_shared_expert_is_read_into_a_file_that_has_none() -> None:
    config = read_config(SAYABLE["qwen2_moe"])
    rules = [layer.feed_forward for layer in config.layers]
    bare = [replace(rule, shared_size=0, has_shared_gate=False) for rule in rules]
    layers = [
        replace(layer, feed_forward=rule) for layer, rule in zip(config.layers, bare, strict=True)
    ]
    said = say(replace(config, layers=tuple(layers)))
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    found = read_gguf_config(dict(said.metadata), shapes, lambda name: ())
    assert [layer.feed_forward for layer in found.layers] == bare


@pytest.mark.parametrize(
    ("said", "meant"),
    [(math.sqrt(1 + math.log(32) / math.log(4096)), 1.243163121016122), (1.2, 1.2), (1.0, 1.0)],
)
def test_the_scale_that_converters_compute_for_phimoe_is_its_own(said: float, meant: float) -> None:
    metadata, shapes = said_of("phimoe")
    metadata |= {
        "phimoe.context_length": 131072,
        "phimoe.rope.scaling.type": "longrope",
        "phimoe.rope.scaling.original_context_length": 4096,
        "phimoe.rope.scaling.attn_factor": said,
    }
    pairs = metadata["phimoe.rope.dimension_count"] // 2
    shapes |= {f"rope_factors_{which}.weight": (pairs,) for which in ("long", "short")}
    config = read_gguf_config(metadata, shapes, lambda name: (1.0,) * pairs)
    scaling = config.layers[0].attention.rope.scaling
    assert isinstance(scaling, LongScaling)
    assert (scaling.short_scale, scaling.long_scale) == pytest.approx((meant, meant))


@pytest.mark.parametrize("value", [48, -2, True, "2", 1.5, [2]])
@pytest.mark.parametrize("key", ["bos", "eos", "eot", "padding"])
def test_ids_of_no_token_are_refused(key: str, value: Any) -> None:
    said = say(read_config(SAYABLE["llama"]))
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    metadata = {**said.metadata, f"tokenizer.ggml.{key}_token_id": value}
    with pytest.raises(ConfigError, match=f"{key}_token_id is .*, no id of 48 tokens"):
        read_gguf_config(metadata, shapes, lambda name: ())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"attention__novel": 1}, r"the keys llama\.attention\.novel are not known for llama"),
        ({"embedding_length": 31}, "embedding_length is '31'; wanted is 32"),
        ({"embedding_length": True}, "embedding_length is 'True'; wanted is a whole number"),
        ({"context_length": 1 << 60}, "context_length"),
        ({"context_length": 0}, "sizes must be positive"),
        ({"block_count": 1 << 20}, "block_count"),
        ({"block_count": 0}, "at least one layer"),
        ({"attention__head_count": 0}, "head_count is '0'; wanted is 1 or more"),
        ({"attention__head_count": [4, 2]}, "head_count"),
        ({"attention__head_count": 3}, "cannot be grouped"),
        ({"attention__head_count_kv": 0}, "must be positive"),
        ({"attention__key_length": 7, "attention__value_length": 7}, "dimension_count"),
        ({"attention__value_length": 9}, "value_length"),
        ({"rope__dimension_count": 4}, "dimension_count"),
        ({"attention__layer_norm_rms_epsilon": "small"}, "wanted is a number"),
        ({"attention__layer_norm_rms_epsilon": math.nan}, "wanted is a number"),
        ({"attention__causal": False}, "causal"),
        ({"rope__scaling__type": "dynamic"}, "wanted is linear or yarn"),
        ({"rope__scaling__factor": -2.0}, "wanted is more than 0"),
        ({"rope__scaling__type": "yarn", "rope__scaling__yarn_ext_factor": 0.5}, "ext_factor"),
        ({"feed_forward_length": 0}, "feed-forward size 0"),
        ({"factors": {"rope_freqs.weight": (1.0, 2.0)}}, "holds 2 numbers, where 4"),
        ({"factors": {"rope_freqs.weight": (1.0, 2.0, 0.0, 1.0)}}, "above 0 are wanted"),
        ({"factors": {"rope_freqs.weight": (1.0, 2.0, math.nan, 1.0)}}, "above 0 are wanted"),
        ({"factors": {"rope_factors_long.weight": (1.0,) * 4}}, "factors_short.weight holds 0"),
        ({"shapes": {"token_embd.weight": (48,)}}, "token_embd.weight has the shape"),
        ({"without": ("context_length",)}, "context_length is missing"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(**given)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"expert_count": 0}, "expert_count is '0'; wanted is a number of experts"),
        ({"expert_used_count": 7}, "7 experts chosen out of 6"),
        ({"expert_gating_func": 2}, "expert_gating_func"),
        ({"expert_weights_scale": 2.5}, "expert_weights_scale"),
        ({"expert_weights_norm": 1}, "expert_weights_norm"),
        ({"expert_group_count": 4}, "expert_group_count"),
    ],
)
def test_mixtures_of_another_kind_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(MIXTURE, **given)


@pytest.mark.parametrize("arch", ["gemma3", "", None, 3, ["llama"]])
def test_an_architecture_that_is_not_built_is_refused_with_those_that_are(arch: Any) -> None:
    with pytest.raises(ConfigError, match="which is not built") as caught:
        read_gguf_config({"general.architecture": arch}, {}, lambda name: ())
    assert "qwen3moe" in caught.value.hint


def test_a_file_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"token_embd\.weight is missing"):
        read_gguf_config({"general.architecture": "llama"}, {}, lambda name: ())


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.integers(0, 70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["yarn", "linear", "longrope", "none"]),
)
KEYS = [
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
    *("rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scale_linear"),
    *("expert_weights_norm", "expert_shared_count", "leading_dense_block_count"),
    *("attention.sliding_window", "attention.clamp_kqv", "expert_gating_func"),
]


@settings(max_examples=300)
@given(st.sampled_from(sorted(SAYABLE)), st.data())
def test_any_values_are_a_config_or_one_clear_error(name: str, data: st.DataObject) -> None:
    said = say(read_config(SAYABLE[name]))
    arch = said.metadata["general.architecture"]
    keys = sorted({*said.metadata, *(f"{arch}.{key}" for key in KEYS)} - {"general.architecture"})
    value = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
    changes = data.draw(st.dictionaries(st.sampled_from(keys), value, min_size=1, max_size=3))
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    shapes |= {name: (len(values),) for name, values in said.rope_tensors.items()}
    try:
        config = read_gguf_config(
            {**said.metadata, **changes}, shapes, lambda name: said.rope_tensors[name]
        )
    except ConfigError as error:
        assert error.hint
    else:
        assert isinstance(config, ModelConfig)
