"""Configs said as GGUF metadata: they come back, or are refused by what cannot be said."""

import json
import math
from typing import Any

import pytest
from gguf_configs import ALIKE, OTHERWISE, SAYABLE

from expertly.config import LongScaling, ModelConfig
from expertly.errors import ConfigError
from expertly.families import read_config
from expertly.families.gguf_config import read_gguf_config
from expertly.families.gguf_saying import say
from expertly.model.rope import frequencies
from expertly.planner import known

PUBLISHED = known.names()


def read_again(config: ModelConfig) -> ModelConfig:
    said = say(config)
    shapes = {tensor.name: tensor.shape for tensor in said.tensors}
    shapes |= {name: (len(values),) for name, values in said.rope_tensors.items()}
    return read_gguf_config(said.metadata, shapes, lambda name: said.rope_tensors[name])


@pytest.mark.parametrize("name", SAYABLE)
def test_a_config_comes_back(name: str) -> None:
    config = read_config(SAYABLE[name])
    again = read_again(config)
    assert again.vocab_size == config.vocab_size and again.max_context == config.max_context
    assert (again.bos_id, again.eos_ids) == (config.bos_id, config.eos_ids)
    for ours, theirs in zip(again.layers, config.layers, strict=True):
        assert ours.feed_forward == theirs.feed_forward
        assert ours.attention.window == theirs.attention.window
        assert ours.attention.clip == theirs.attention.clip
        head_size = theirs.attention.head_size
        (freq, scale), (right, right_scale) = (
            frequencies(layer.attention.rope, head_size) for layer in (ours, theirs)
        )
        assert (freq / right - 1).abs().max() < 1e-6
        assert math.isclose(scale, right_scale, rel_tol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_can_be_said(name: str) -> None:
    config = read_config(known.config(name))
    again = read_again(config)
    assert [layer.feed_forward for layer in again.layers] == [
        layer.feed_forward for layer in config.layers
    ]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "glu.activation is gelu, only silu"),
        ("gpt_oss", {"swiglu_limit": 1.0}, "glu.limit is 1.0, only 7.0"),
        ("phimoe", {"router_jitter_noise": 0.3}, "router.jitter is 0.3, only 0.01"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "layers.0.feed_forward is a Mixture"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "layers.1.attention.window is 4, only None",
        ),
        (
            "gpt_oss",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layers.1.attention.window is 5, only None",
        ),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_name(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        say(read_config({**SAYABLE[name], **changes}))
    assert "folder" in caught.value.hint


def test_two_scales_of_longrope_are_refused() -> None:
    hf = json.loads(json.dumps(SAYABLE["phimoe"]))
    hf["rope_scaling"]["long_mscale"] = 1.4
    with pytest.raises(ConfigError, match=r"short_scale is 1\.2, only 1\.4"):
        say(read_config(hf))


@pytest.mark.parametrize("name", ALIKE)
def test_nothing_is_told_of_models_that_llama_cpp_computes_as_they_are(name: str) -> None:
    assert say(read_config(ALIKE[name])).differences == ()


TOLD = {
    "phimoe": ("LongRoPE's factors", "SparseMixer", "RMS norms"),
    "gpt_oss": ("ends of YaRN's ramp",),
    "mistral_window": ("not to the last 5",),
    "qwen2_moe_normed": ("does not make the weights of the chosen experts sum to 1",),
    "qwen3_moe_plain": ("makes the weights of the chosen experts sum to 1",),
    "qwen3_moe_dense_first": ("makes the weights", "cannot load it: it wants a mixture"),
    "olmoe_clipped": ("does not clip",),
    "olmoe_grouped": ("cannot load it: it wants as many key heads",),
    "qwen2_wide": ("cannot load it: its heads are 48 wide, the model 32",),
    "qwen3_biased": ("cannot load it: it knows no attn_output.bias",),
    "qwen3_llama3": ("cannot load it: it reads no factors of frequencies",),
    "gpt_oss_unbiased": ("ends of YaRN's ramp", "cannot load it: it wants an attn_output.bias"),
    "betas": ("beta_fast",),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_llama_cpp_does_otherwise_is_told(name: str) -> None:
    differences = say(read_config(OTHERWISE[name])).differences
    assert len(differences) == len(TOLD[name])
    for line, part in zip(differences, TOLD[name], strict=True):
        assert part in line


def test_a_tied_model_gets_a_head_where_files_must_have_one() -> None:
    tensors = {tensor.name: tensor for tensor in say(read_config(ALIKE["qwen2_moe"])).tensors}
    (part,) = tensors["output.weight"].parts
    assert part.parameter == "embed_VD" and tensors["output.weight"].shape == (48, 32)
    tied = say(read_config(ALIKE["llama3"])).tensors
    assert "output.weight" not in {tensor.name for tensor in tied}


def test_llama_3_divides_low_frequencies_and_keeps_high_ones() -> None:
    attention = read_again(read_config(ALIKE["llama3"])).layers[0].attention
    scaling = attention.rope.scaling
    assert isinstance(scaling, LongScaling) and scaling.short_factors == scaling.long_factors
    # 16 positions hold 2.5 turns of the first pair, 0.64 of the second: 1 to 4 is the ramp
    kept = (16 / (2 * math.pi) - 1) / 3
    assert math.isclose(scaling.long_factors[0], 1 / (kept + (1 - kept) / 8), rel_tol=1e-6)
    assert scaling.long_factors[1:] == (8.0,) * 4
