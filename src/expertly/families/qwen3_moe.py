"""Qwen3-MoE: norms on the heads of q and k, no shared expert.
Defaults are those of transformers' `Qwen3MoeConfig`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import Dense, Layer, Mixture, ModelConfig, Norm, Router
from expertly.families.common import (
    assemble,
    is_sparse_layer,
    read_attention,
    read_glu,
    read_num_layers,
)
from expertly.families.naming import MixtureNames, Names, llama_names, mixture_names
from expertly.families.reading import Keys


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    num_layers = read_num_layers(keys)
    max_context = keys.size("max_position_embeddings", default=32768)
    has_bias = keys.flag("attention_bias", default=False)
    window = keys.maybe_size("sliding_window", default=4096, minimum=0) or None
    attention = replace(
        read_attention(keys, max_context=max_context, kv_heads=4),
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        qk_norm="head",
        window=window if keys.flag("use_sliding_window", default=False) else None,
    )
    dense = Dense(size=keys.size("intermediate_size", default=6144), glu=read_glu(keys))
    mixture = Mixture(
        num_experts=keys.size("num_experts", "num_local_experts", default=128),
        num_chosen=keys.size("num_experts_per_tok", default=8),
        expert_size=keys.size("moe_intermediate_size", default=768),
        router=Router(norm_p=1.0 if keys.flag("norm_topk_prob", default=False) else None),
        glu=read_glu(keys),
    )
    # the published coder models carry these, spelled for other families
    keys.must_be("qkv_bias", False)
    keys.must_be("shared_expert_intermediate_size", 0, None)
    keys.must_be("use_qk_norm", True)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(
            Layer(attention=attention, feed_forward=mixture if is_sparse else dense)
            for is_sparse in is_sparse_layer(keys, num_layers)
        ),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-6)),
        max_context=max_context,
        without_meaning=("max_window_layers",),  # this family's window is every layer's
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, MixtureNames()))
