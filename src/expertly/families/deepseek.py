"""DeepSeek-MoE 16B: fine-grained experts, shared ones that are one wide expert, dense layers first.
Defaults are those of the `DeepseekConfig` published beside the weights."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import Dense, Glu, Layer, Mixture, ModelConfig, Norm, Router
from expertly.families.common import assemble, read_attention, read_glu, read_num_layers
from expertly.families.naming import MixtureNames, Names, llama_names, mixture_names
from expertly.families.reading import Keys

_NAMES = MixtureNames(shared="shared_experts")


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    max_context = keys.size("max_position_embeddings", default=2048)
    has_bias = keys.flag("attention_bias", default=False)
    attention = replace(
        read_attention(keys, max_context=max_context, kv_heads=32),
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
    )
    glu = read_glu(keys)
    mixture = _mixture(keys, glu)
    dense = Dense(size=keys.size("intermediate_size", default=11008), glu=glu)
    num_dense = keys.size("first_k_dense_replace", default=0, minimum=0)
    every = keys.size("moe_layer_freq", default=1)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(
            Layer(
                attention=attention,
                feed_forward=mixture if layer >= num_dense and layer % every == 0 else dense,
            )
            for layer in range(read_num_layers(keys))
        ),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-6)),
        max_context=max_context,
        bos=100000,
        eos=100001,
        without_meaning=("aux_loss_alpha", "seq_aux"),  # of training alone
    )


def _mixture(keys: Keys, glu: Glu) -> Mixture:
    """One chosen expert keeps its probability: only two or more are made to sum to 1."""
    keys.must_be("scoring_func", "softmax")
    chosen = keys.size("num_experts_per_tok")
    is_normed = keys.flag("norm_topk_prob", default=False) and chosen > 1
    width = keys.size("moe_intermediate_size", default=1407)
    return Mixture(
        num_experts=keys.size("n_routed_experts"),
        num_chosen=chosen,
        expert_size=width,
        router=Router(norm_p=1.0 if is_normed else None),
        glu=glu,
        shared_size=width * (keys.maybe_size("n_shared_experts", minimum=0) or 0),
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, lambda layer, c: mixture_names(layer, c, _NAMES))
