"""Phi-3.5-MoE, and GRIN-MoE before it (`grinmoe`): SparseMixer's routing, LongRoPE, layer norms
with biases. Defaults are those of transformers' `PhimoeConfig`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import Layer, Mixture, ModelConfig, Norm, Router
from expertly.families.common import assemble, read_attention, read_glu, read_num_layers
from expertly.families.naming import MIXTRAL_NAMES, Names, llama_names, mixture_names
from expertly.families.reading import Keys


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    max_context = keys.size("max_position_embeddings", default=131072)
    has_bias = keys.flag("attention_bias", default=False)
    keys.must_be("num_experts_per_tok", 2)  # the rule is one of two steps
    attention = replace(
        read_attention(keys, max_context=max_context, kv_heads=8, base=1e6, has_mscales=True),
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        window=keys.maybe_size("sliding_window"),
    )
    mixture = Mixture(
        num_experts=keys.size("num_local_experts", "num_experts", default=16),
        num_chosen=2,
        expert_size=keys.size("intermediate_size"),
        router=Router(rule="sparsemixer", jitter=keys.number("router_jitter_noise", default=0.01)),
        glu=read_glu(keys),
    )
    layer = Layer(attention=attention, feed_forward=mixture)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(layer,) * read_num_layers(keys),
        norm=Norm(kind="layer", eps=keys.number("rms_norm_eps", default=1e-5), has_bias=True),
        max_context=max_context,
        bos=1,
        eos=2,
        has_head_bias=keys.flag("lm_head_bias", default=False),
        without_meaning=("input_jitter_noise",),  # of training alone
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, MIXTRAL_NAMES))
