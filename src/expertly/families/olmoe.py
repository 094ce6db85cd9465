"""OLMoE: norms over the whole projections of q and k, which may be clipped.
Defaults are those of transformers' `OlmoeConfig`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import Layer, Mixture, ModelConfig, Norm, Router
from expertly.families.common import assemble, read_attention, read_glu, read_num_layers
from expertly.families.naming import MixtureNames, Names, llama_names, mixture_names
from expertly.families.reading import Keys


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    max_context = keys.size("max_position_embeddings", default=4096)
    has_bias = keys.flag("attention_bias", default=False)
    bare = read_attention(keys, max_context=max_context, kv_heads=None)
    # the norm of q is as wide as the model, so that the heads must be too
    keys.must_be("head_dim", None, keys.size("hidden_size") // bare.num_heads)
    attention = replace(
        bare,
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        qk_norm="projection",
        clip=keys.maybe_number("clip_qkv"),
    )
    mixture = Mixture(
        num_experts=keys.size("num_experts", "num_local_experts", default=64),
        num_chosen=keys.size("num_experts_per_tok", default=8),
        expert_size=keys.size("intermediate_size"),
        router=Router(norm_p=1.0 if keys.flag("norm_topk_prob", default=False) else None),
        glu=read_glu(keys),
    )
    layer = Layer(attention=attention, feed_forward=mixture)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(layer,) * read_num_layers(keys),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-5)),
        max_context=max_context,
        eos=50279,
        pad=1,
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, MixtureNames()))
