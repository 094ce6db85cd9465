"""Qwen3, dense: norms on the heads of q and k.
Defaults are those of transformers' `Qwen3Config`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import Dense, Layer, ModelConfig, Norm
from expertly.families.common import (
    assemble,
    read_attention,
    read_glu,
    read_num_layers,
    read_upper_windows,
)
from expertly.families.naming import Names, dense_names, llama_names
from expertly.families.reading import Keys


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    max_context = keys.size("max_position_embeddings", default=32768)
    has_bias = keys.flag("attention_bias", default=False)
    attention = replace(
        read_attention(keys, max_context=max_context, kv_heads=32, head_size=128),
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        qk_norm="head",
    )
    dense = Dense(size=keys.size("intermediate_size"), glu=read_glu(keys))
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(
            Layer(attention=replace(attention, window=window), feed_forward=dense)
            for window in read_upper_windows(keys, read_num_layers(keys))
        ),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-6)),
        max_context=max_context,
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, dense_names)
