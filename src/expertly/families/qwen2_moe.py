"""Qwen1.5-MoE and Qwen2-MoE: a gated shared expert, biases on q, k and v.
Defaults are those of transformers' `Qwen2MoeConfig`."""

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
    read_windows,
)
from expertly.families.naming import MixtureNames, Names, llama_names, mixture_names
from expertly.families.reading import Keys


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    num_layers = read_num_layers(keys)
    max_context = keys.size("max_position_embeddings", default=32768)
    attention = replace(
        read_attention(keys, max_context=max_context, kv_heads=16),
        has_qkv_bias=keys.flag("qkv_bias", default=True),
    )
    dense = Dense(size=keys.size("intermediate_size", default=5632), glu=read_glu(keys))
    mixture = Mixture(
        num_experts=keys.size("num_experts", "num_local_experts", default=60),
        num_chosen=keys.size("num_experts_per_tok", default=4),
        expert_size=keys.size("moe_intermediate_size", default=1408),
        router=Router(norm_p=1.0 if keys.flag("norm_topk_prob", default=False) else None),
        glu=read_glu(keys),
        shared_size=keys.size("shared_expert_intermediate_size", default=5632),
        has_shared_gate=True,
    )
    layers = (
        Layer(
            attention=replace(attention, window=window),
            feed_forward=mixture if is_sparse else dense,
        )
        for window, is_sparse in zip(
            _windows(keys, num_layers), is_sparse_layer(keys, num_layers), strict=True
        )
    )
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=layers,
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-6)),
        max_context=max_context,
    )


def _windows(keys: Keys, num_layers: int) -> tuple[int | None, ...]:
    """Every other layer below `max_window_layers` slides, the first among them."""
    is_windowed = keys.flag("use_sliding_window", default=False)
    window = keys.maybe_size("sliding_window", default=4096, minimum=0) or None
    below = keys.size("max_window_layers", default=28, minimum=0)
    return read_windows(
        keys,
        num_layers,
        window if is_windowed else None,
        lambda layer: layer % 2 == 0 and layer < below,
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, MixtureNames()))
