"""Mixtral 8x7B and 8x22B. Defaults are those of transformers' `MixtralConfig`."""

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
    attention = read_attention(keys, max_context=max_context, kv_heads=8, base=1e6)
    mixture = Mixture(
        num_experts=keys.size("num_local_experts", "num_experts", default=8),
        num_chosen=keys.size("num_experts_per_tok", default=2),
        expert_size=keys.size("intermediate_size"),
        router=Router(norm_p=1.0),
        glu=read_glu(keys),
    )
    window = keys.maybe_size("sliding_window")
    layer = Layer(attention=replace(attention, window=window), feed_forward=mixture)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(layer,) * read_num_layers(keys),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-5)),
        max_context=max_context,
        bos=1,
        eos=2,
        without_meaning=("router_jitter_noise",),  # of training alone
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, MIXTRAL_NAMES))
