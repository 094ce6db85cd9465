"""Every family's config: both spellings, transformers' defaults, no key without a say."""

import copy
import json
import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
from hub_configs import EVERY, HUB, case
from oracle_cases import CASES

from expertly.config import (
    Attention,
    Dense,
    Glu,
    Layer,
    LongScaling,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
    YarnScaling,
)
from expertly.errors import ConfigError
from expertly.families import FAMILIES, model_types, read_config
from expertly.families.reading import FIXED, WITHOUT_MEANING

REMOTE = ("deepseek", "expertly", "grinmoe")  # whose code transformers does not have
IN_TRANSFORMERS = [(family, i) for family, i in EVERY if family not in REMOTE]
# keys of training, each family's few
OF_TRAINING = {
    "mixtral": {"router_jitter_noise"},
    "qwen3_moe": {"max_window_layers"},
    "phimoe": {"input_jitter_noise"},
    "grinmoe": {"input_jitter_noise"},
    "deepseek": {"aux_loss_alpha", "seq_aux"},
    "dbrx": {"moe_jitter_eps", "moe_loss_weight"},
}
# keys that may be missing without a default of transformers to stand in
NEEDED = {
    "model_type",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "d_model",
    "n_heads",
    "n_layers",
}


def as_transformers_saves(hf: dict[str, Any]) -> dict[str, Any]:
    """The same config, read and written by transformers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = CONFIG_MAPPING[hf["model_type"]].from_dict(copy.deepcopy(hf))
    saved = json.loads(config.to_json_string(use_diff=False))
    if hf["model_type"] == "dbrx" and "rope_theta" in hf.get("attn_config", {}):
        # transformers takes no base from attn_config, where the published file has it
        saved["rope_parameters"]["rope_theta"] = hf["attn_config"]["rope_theta"]
    return saved


def refusal(hf: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_config(hf)
    return caught.value


@pytest.mark.parametrize(("family", "index"), IN_TRANSFORMERS)
def test_the_hubs_spelling_and_transformers_give_one_config(family, index) -> None:
    hub = HUB[family][index]
    assert read_config(as_transformers_saves(hub)) == read_config(hub)


@pytest.mark.parametrize(
    ("family", "index"), [(f, i) for f, cases in CASES.items() for i in range(len(cases))]
)
def test_keyword_spellings_and_transformers_give_one_config(family, index) -> None:
    written = {"model_type": family, **copy.deepcopy(CASES[family][index])}
    assert read_config(as_transformers_saves(written)) == read_config(written)


@pytest.mark.parametrize(("family", "index"), IN_TRANSFORMERS)
def test_a_missing_key_means_what_transformers_takes_it_to_mean(family, index) -> None:
    hub = HUB[family][index]
    for key in set(hub) - NEEDED:
        without = {k: v for k, v in hub.items() if k != key}
        try:
            found = read_config(without)
        except ConfigError as error:
            # needed here, or refused in either spelling
            if key not in error.message:
                assert refusal(as_transformers_saves(without)).message == error.message
        else:
            assert found == read_config(as_transformers_saves(without)), key


@pytest.mark.parametrize("family", sorted(HUB))
def test_sizes_that_no_default_can_guess_are_needed(family) -> None:
    hub = HUB[family][0]
    for key in NEEDED & set(hub):
        error = refusal({k: v for k, v in hub.items() if k != key})
        assert repr(key) in error.message


def changed(value: Any) -> list[Any]:
    """Values of the same kind that say something else."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2, 2 * value + 4]
    if isinstance(value, float):
        return [value * 2 + 1.0]
    if isinstance(value, str):
        return ["gelu", value + "x"]
    if isinstance(value, list):
        return [value[::-1] + value[:1], value[1:]]
    if isinstance(value, dict):
        return [{**value, "unheard_of": 1}]
    return [3, {"rope_type": "linear", "factor": 2.0}]


def has_a_say(hf: dict[str, Any], key: str) -> bool:
    before = read_config(hf)
    for value in changed(hf[key]):
        try:
            after = read_config({**hf, key: value})
        except ConfigError:
            return True
        if after != before:
            return True
    return False


@pytest.mark.parametrize("family", sorted(HUB))
def test_every_key_has_a_say_or_is_listed_as_having_none(family) -> None:
    listed = WITHOUT_MEANING | OF_TRAINING.get(family, set())
    for key in {key for hub in HUB[family] for key in hub}:
        heard = any(has_a_say(hub, key) for hub in HUB[family] if key in hub)
        assert heard != (key in listed - {"model_type"}), key


@pytest.mark.parametrize("section", ["attn_config", "ffn_config"])
def test_every_key_of_a_nested_section_has_a_say_too(section) -> None:
    hub = HUB["dbrx"][0]
    listed = WITHOUT_MEANING | OF_TRAINING["dbrx"]
    for key, value in hub[section].items():
        heard = False
        for other in changed(value):
            try:
                heard |= read_config({**hub, section: {**hub[section], key: other}}) != (
                    read_config(hub)
                )
            except ConfigError:
                heard = True
        assert heard != (key in listed), key


@pytest.mark.parametrize("family", sorted(HUB))
def test_an_unknown_key_is_refused_with_its_value(family) -> None:
    error = refusal({**HUB[family][0], "num_gizmos": 7})
    assert error.message == "config.json has an unknown key: num_gizmos=7"


@pytest.mark.parametrize("family", sorted(HUB))
def test_a_quantized_checkpoint_is_refused(family) -> None:
    # the one that is built is that of gpt-oss
    method = "awq" if family == "gpt_oss" else "mxfp4"
    error = refusal({**HUB[family][0], "quantization_config": {"quant_method": method}})
    assert "quantization_config" in error.message


@pytest.mark.parametrize("family", sorted(HUB))
def test_no_value_of_a_wrong_kind_passes_or_breaks_anything(family) -> None:
    """What is not refused must leave the config as it was."""
    hub = HUB[family][0]
    listed = WITHOUT_MEANING | OF_TRAINING.get(family, set())
    for key in set(hub) - listed - {"model_type"}:
        for bad in (math.nan, "x", [], {"a": 1}, 10**400, -7):
            try:
                read_config({**hub, key: bad})
            except ConfigError as error:
                assert key in error.message or "rope" in key or "token" in key, (key, bad)
            else:
                assert (key, bad) in EMPTY_IS_NONE, (key, bad)


EMPTY_IS_NONE = [("eos_token_id", []), ("mlp_only_layers", [])]


@pytest.mark.parametrize(
    ("family", "one", "other", "value"),
    [
        ("mixtral", "num_local_experts", "num_experts", 5),
        ("qwen2_moe", "num_experts", "num_local_experts", 5),
        ("qwen3_moe", "num_experts", "num_local_experts", 5),
        ("olmoe", "num_experts", "num_local_experts", 5),
        ("phimoe", "num_local_experts", "num_experts", 5),
        ("gpt_oss", "num_experts_per_tok", "experts_per_token", 3),
        ("gpt_oss", "num_local_experts", "num_experts", 5),
        ("dbrx", "d_model", "hidden_size", 64),
        ("dbrx", "n_heads", "num_attention_heads", 2),
        ("dbrx", "n_layers", "num_hidden_layers", 9),
        ("dbrx", "max_seq_len", "max_position_embeddings", 9),
    ],
)
def test_spellings_may_agree_and_must_not_differ(family, one, other, value) -> None:
    hub = HUB[family][0]
    assert read_config({**hub, other: hub[one]}) == read_config(hub)
    renamed = {**hub, other: hub[one]}
    del renamed[one]
    assert read_config(renamed) == read_config(hub)
    error = refusal({**hub, other: value})
    assert one in error.message
    assert other in error.message
    assert "contradicts itself" in error.message


def test_an_unknown_model_type_is_refused_with_what_is_built() -> None:
    error = refusal({"model_type": "bert"})
    assert error.message == 'config.json: model_type "bert" is not built'
    assert all(name in error.hint for name in model_types())
    assert "lacks the key 'model_type'" in refusal({}).message
    for bad in (3, ["mixtral"], {}):
        assert "model_type" in refusal({"model_type": bad}).message


@pytest.mark.parametrize("bad", [None, [], "mixtral", 3])
def test_a_config_that_is_no_object_is_refused(bad) -> None:
    assert "must be an object" in refusal(bad).message


def test_the_source_is_kept_apart_from_what_was_read() -> None:
    hf = copy.deepcopy(HUB["gpt_oss"][0])
    config = read_config(hf)
    assert config.source == hf
    hf["rope_scaling"]["factor"] = 99.0
    assert config.source["rope_scaling"]["factor"] == 4.0


def test_model_types_are_sorted_and_all_have_a_case_here() -> None:
    assert list(model_types()) == sorted(FAMILIES) == sorted(HUB)


def test_fixed_keys_and_keys_without_meaning_do_not_overlap() -> None:
    assert not set(FIXED) & WITHOUT_MEANING


# what a family is, spelled out by hand


def test_mixtral_is_as_its_paper_says() -> None:
    attention = Attention(
        num_heads=32, num_kv_heads=2, head_size=8, rope=Rope(base=5000.0), window=8
    )
    mixture = Mixture(num_experts=6, num_chosen=2, expert_size=40, router=Router(norm_p=1.0))
    hub = {**HUB["mixtral"][0], "rope_scaling": None}
    assert read_config(hub) == ModelConfig(
        family="mixtral",
        vocab_size=96,
        hidden_size=256,
        max_context=64,
        layers=(Layer(attention=attention, feed_forward=mixture),) * 4,
        norm=Norm(eps=1e-5),
        bos_id=1,
        eos_ids=(2,),
        pad_id=0,
    )


def test_qwen2_moe_slides_on_even_layers_below_a_bound_and_is_dense_where_told() -> None:
    layers = read_config(HUB["qwen2_moe"][0]).layers
    assert [layer.attention.window for layer in layers] == [8, None, None, None]
    assert layers[0].feed_forward == Dense(size=40)
    assert layers[1].feed_forward == Mixture(
        num_experts=6,
        num_chosen=2,
        expert_size=12,
        router=Router(norm_p=1.0),
        shared_size=24,
        has_shared_gate=True,
    )
    attention = layers[0].attention
    assert (attention.has_qkv_bias, attention.has_output_bias) == (True, False)


def test_a_sparse_step_leaves_the_layers_between_dense() -> None:
    hf = {**HUB["qwen3_moe"][0], "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    assert read_config(hf).mixture_layers == (1,)
    assert read_config({**hf, "mlp_only_layers": []}).mixture_layers == (1, 3)
    assert "mlp_only_layers" in refusal({**hf, "mlp_only_layers": [4]}).message


def test_qwen3_moe_norms_each_head_and_slides_on_every_layer() -> None:
    attention = read_config(HUB["qwen3_moe"][0]).layers[3].attention
    assert attention == Attention(
        num_heads=32,
        num_kv_heads=2,
        head_size=10,
        rope=Rope(base=5000.0),
        window=8,
        has_qkv_bias=True,
        has_output_bias=True,
        qk_norm="head",
    )


def test_olmoe_norms_the_projections_and_keeps_probabilities_as_they_are() -> None:
    layer = read_config(HUB["olmoe"][0]).layers[0]
    assert (layer.attention.qk_norm, layer.attention.clip) == ("projection", 2.0)
    assert isinstance(layer.feed_forward, Mixture)
    assert layer.feed_forward.router == Router(norm_p=None)
    assert "head_dim" in refusal({**HUB["olmoe"][0], "head_dim": 10}).message


def test_phimoe_has_sparsemixer_layer_norms_and_biases() -> None:
    config = read_config(HUB["phimoe"][0])
    assert config.norm == Norm(kind="layer", eps=1e-5, has_bias=True)
    assert config.has_head_bias
    layer = config.layers[0]
    assert isinstance(layer.feed_forward, Mixture)
    assert layer.feed_forward.router == Router(rule="sparsemixer", jitter=0.05)
    assert layer.attention.rope.scaling == LongScaling(
        short_factors=(1.0, 1.1, 1.2, 1.3),
        long_factors=(1.0, 2.0, 3.0, 4.0),
        short_scale=1.1,
        long_scale=1.2,
        original_context=16,
    )
    assert (
        "num_experts_per_tok 1" in refusal({**HUB["phimoe"][0], "num_experts_per_tok": 1}).message
    )


def test_dbrx_reads_its_nested_sections() -> None:
    config = read_config(HUB["dbrx"][0])
    assert config.norm == Norm(kind="layer", eps=1e-5, has_bias=False)
    layer = config.layers[0]
    assert layer.attention == Attention(
        num_heads=4, num_kv_heads=2, head_size=8, rope=Rope(base=5000.0), clip=8.0
    )
    assert layer.feed_forward == Mixture(
        num_experts=4, num_chosen=2, expert_size=40, router=Router(norm_p=1.0)
    )


@pytest.mark.parametrize(("p", "expected"), [(None, None), (2, 2.0), (1.0, 1.0)])
def test_dbrx_divides_by_any_norm_or_by_none(p, expected) -> None:
    hub = HUB["dbrx"][0]
    ffn = {**hub["ffn_config"], "moe_normalize_expert_weights": p}
    mixture = read_config({**hub, "ffn_config": ffn}).layers[0].feed_forward
    assert isinstance(mixture, Mixture)
    assert mixture.router.norm_p == expected


def test_dbrx_refuses_two_bases_and_a_tied_head() -> None:
    hub = HUB["dbrx"][0]
    error = refusal({**hub, "rope_parameters": {"rope_theta": 10000.0}})
    assert "attn_config.rope_theta is 5000.0, but rope_theta is 10000.0" in error.message
    assert "tie_word_embeddings" in refusal({**hub, "tie_word_embeddings": True}).message
    assert "num_key_value_heads" in refusal({**hub, "num_key_value_heads": 4}).message


def test_deepseek_puts_dense_layers_first_and_joins_its_shared_experts() -> None:
    config = read_config(HUB["deepseek"][0])
    assert config.layers[0].feed_forward == Dense(size=40)
    assert config.layers[1].feed_forward == Mixture(
        num_experts=6, num_chosen=2, expert_size=12, router=Router(norm_p=None), shared_size=24
    )
    sparse = {**HUB["deepseek"][0], "moe_layer_freq": 2, "first_k_dense_replace": 0}
    assert read_config(sparse).mixture_layers == (0, 2)
    assert "scoring_func" in refusal({**sparse, "scoring_func": "sigmoid"}).message


@pytest.mark.parametrize(("chosen", "expected"), [(1, None), (2, 1.0)])
def test_deepseek_normalizes_two_or_more_experts(chosen, expected) -> None:
    hf = {**HUB["deepseek"][0], "norm_topk_prob": True, "num_experts_per_tok": chosen}
    mixture = read_config(hf).layers[1].feed_forward
    assert isinstance(mixture, Mixture)
    assert mixture.router.norm_p == expected


@pytest.mark.parametrize("shared", [None, 0])
def test_deepseek_may_have_no_shared_expert(shared) -> None:
    mixture = read_config({**HUB["deepseek"][0], "n_shared_experts": shared}).layers[1].feed_forward
    assert isinstance(mixture, Mixture)
    assert mixture.shared_size == 0


def test_deepseeks_missing_keys_take_the_published_defaults() -> None:
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    hf = {"model_type": "deepseek", **{key: HUB["deepseek"][0][key] for key in needed}}
    config = read_config(
        {**hf, "n_routed_experts": 6, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    )
    assert config.mixture_layers == (0, 1, 2, 3)
    assert (config.bos_id, config.eos_ids, config.max_context) == (100000, (100001,), 2048)
    assert config.norm == Norm(eps=1e-6)


def test_gpt_oss_has_sinks_biases_and_a_clamped_glu() -> None:
    layers = read_config(HUB["gpt_oss"][0]).layers
    assert [layer.attention.window for layer in layers] == [8, None, 8, None]
    assert layers[0].attention.has_sinks
    assert layers[0].attention.has_qkv_bias
    assert layers[0].attention.has_output_bias
    assert layers[0].feed_forward == Mixture(
        num_experts=6,
        num_chosen=2,
        expert_size=40,
        router=Router(norm_p=1.0, has_bias=True),
        glu=Glu(alpha=1.702, limit=7.0, up_shift=1.0),
        has_expert_bias=True,
    )


@pytest.mark.parametrize("absent", [{}, {"rope_scaling": None}, {"rope_parameters": {}}])
def test_gpt_oss_without_rope_keys_has_its_classes_yarn(absent) -> None:
    hf = {k: v for k, v in HUB["gpt_oss"][0].items() if k not in ("rope_scaling", "rope_theta")}
    hf["initial_context_length"] = 4096
    rope = read_config({**hf, **absent}).layers[0].attention.rope
    assert rope == Rope(
        base=150000.0,
        scaling=YarnScaling(
            factor=32.0,
            original_context=4096,
            attention_factor=0.1 * math.log(32) + 1,
            is_truncated=False,
        ),
    )


def test_a_dense_qwen_slides_from_a_layer_on() -> None:
    for family in ("qwen2", "qwen3"):
        layers = read_config(HUB[family][0]).layers
        assert [layer.attention.window for layer in layers] == [None, None, 8, 8]


def test_layer_types_outweigh_the_pattern_and_must_fit() -> None:
    hf = {**HUB["qwen2"][0], "layer_types": ["sliding_attention"] + ["full_attention"] * 3}
    layers = read_config(hf).layers
    assert [layer.attention.window for layer in layers] == [8, None, None, None]
    assert "layer_types" in refusal({**hf, "layer_types": ["full_attention"]}).message
    assert "layer_types" in refusal({**hf, "layer_types": ["linear_attention"] * 4}).message
    assert "layer_types" in refusal({**hf, "use_sliding_window": False}).message


def test_qwen3_defaults_to_heads_of_128() -> None:
    hf = {k: v for k, v in HUB["qwen3"][0].items() if k != "head_dim"}
    assert read_config(hf).layers[0].attention.head_size == 128


@pytest.mark.parametrize(
    ("spelled", "activation"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
    ],
)
def test_activations_are_read_by_name(spelled, activation) -> None:
    dense = read_config(case("llama", hidden_act=spelled)).layers[0].feed_forward
    assert dense == Dense(size=40, glu=Glu(activation=activation))


def test_an_activation_that_is_not_built_is_refused() -> None:
    assert 'hidden_act "quick_gelu"' in refusal(case("llama", hidden_act="quick_gelu")).message
    assert "hidden_act" in refusal({**HUB["gpt_oss"][0], "hidden_act": "gelu"}).message


def test_heads_share_the_hidden_size_unless_told_otherwise() -> None:
    assert read_config(case("llama")).layers[0].attention.head_size == 8
    assert read_config(case("llama", head_dim=None)).layers[0].attention.head_size == 8
    error = refusal(case("llama", hidden_size=33))
    assert "33 cannot be shared among 32" in error.message
    none = read_config(case("llama", num_key_value_heads=None)).layers[0].attention
    assert none.num_kv_heads == 32


def test_a_damaged_count_of_layers_does_not_fill_the_memory() -> None:
    assert "layers" in refusal(case("llama", num_hidden_layers=10**12)).message
    assert len(read_config(case("llama", num_hidden_layers=10_000)).layers) == 10_000


def test_grinmoe_is_phimoe_by_another_name() -> None:
    plain = {"rope_scaling": None, "original_max_position_embeddings": None}
    phimoe = read_config({**HUB["phimoe"][0], **plain})
    assert read_config(HUB["grinmoe"][0]) == replace(phimoe, family="grinmoe")
