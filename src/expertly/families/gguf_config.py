"""A GGUF file's metadata as a `ModelConfig`. Keys of the architecture that nobody knows are
refused; general.* and tokenizer.* are other readers'."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertly.config import (
    Attention,
    Dense,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
)
from expertly.errors import ConfigError
from expertly.families.gguf_archs import Arch, arch_in
from expertly.families.gguf_keys import GgufKeys
from expertly.families.gguf_rope import ReadFloats, Shapes, read_scaling

_SOFTMAX_GATINGS = (None, 0, 1, 3)  # absent, none, softmax, softmax over the chosen


def read_gguf_config(
    metadata: Mapping[str, Any], shapes: Shapes, read_floats: ReadFloats
) -> ModelConfig:
    """`shapes`: of every tensor, slowest first; `read_floats`: the values of a small f32 tensor.

    Raises ConfigError for what is missing, contradictory or not known.
    """
    arch, keys = arch_in(metadata, shapes), GgufKeys(metadata)
    vocab_size, hidden_size = _embedding(shapes)
    if keys.size("embedding_length") != hidden_size:
        raise keys.error("embedding_length", keys.get("embedding_length"), f"{hidden_size}")
    keys.must_be("attention.causal", None, True)
    keys.must_be("use_parallel_residual", None, False)
    attention = _attention(keys, arch, hidden_size, shapes, read_floats)
    ids = {which: _id(metadata, which, vocab_size) for which in ("bos", "eos", "eot", "padding")}
    config = ModelConfig(
        family=_family(keys, arch),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_context=keys.size("context_length"),
        layers=_layers(keys, arch, attention, shapes),
        norm=Norm(kind=arch.norm, eps=keys.number(arch.eps_key), has_bias=arch.has_norm_bias),
        is_tied="output.weight" not in shapes,
        has_head_bias=arch.has_head_bias,
        bos_id=ids["bos"],
        eos_ids=tuple(dict.fromkeys(i for i in (ids["eos"], ids["eot"]) if i is not None)),
        pad_id=ids["padding"],
    )
    keys.finish()
    return config


def _embedding(shapes: Shapes) -> tuple[int, int]:
    shape = shapes.get("token_embd.weight", ())
    if len(shape) != 2:
        raise ConfigError(
            f"token_embd.weight has the shape {shape}" if shape else "token_embd.weight is missing",
            hint="the file holds no language model; give one with weights",
        )
    return shape[0], shape[1]


def _id(metadata: Mapping[str, Any], which: str, vocab_size: int) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    found = metadata.get(key)
    # older converters wrote -1 where there is none
    if found is None or found in (-1, (1 << 32) - 1):
        return None
    if type(found) is not int or not 0 <= found < vocab_size:
        raise ConfigError(
            f"{key} is {str(found)[:60]!r}, no id of {vocab_size} tokens",
            hint="convert the model again with a current tool",
        )
    return found


def _family(keys: GgufKeys, arch: Arch) -> str:
    family = arch.mixture_family if keys.size("expert_count", 0) else arch.dense_family
    if family is None:
        raise keys.error("expert_count", keys.get("expert_count"), "a number of experts")
    return family


def _attention(
    keys: GgufKeys, arch: Arch, hidden_size: int, shapes: Shapes, read_floats: ReadFloats
) -> Attention:
    num_heads = keys.size("attention.head_count")
    if num_heads == 0:
        raise keys.error("attention.head_count", 0, "1 or more")
    head_size = keys.size("attention.key_length", hidden_size // num_heads)
    keys.must_be("attention.value_length", None, head_size)
    keys.must_be("rope.dimension_count", None, head_size)
    biased = ("attn_qkv" if arch.has_merged_qkv else "attn_q", "attn_output")
    has_qkv_bias, has_output_bias = (f"blk.0.{name}.bias" in shapes for name in biased)
    clip = keys.number("attention.clamp_kqv", 0.0)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=keys.size("attention.head_count_kv", num_heads),
        head_size=head_size,
        rope=Rope(
            base=keys.number("rope.freq_base", 10000.0),
            scaling=read_scaling(keys, arch, head_size, shapes, read_floats),
        ),
        window=keys.size("attention.sliding_window", 0) or None,
        has_qkv_bias=has_qkv_bias,
        has_output_bias=has_output_bias,
        qk_norm=arch.qk_norm,
        clip=clip or None,
        has_sinks=arch.has_sinks,
    )


def _layers(keys: GgufKeys, arch: Arch, attention: Attention, shapes: Shapes) -> tuple[Layer, ...]:
    num_experts, num_layers = keys.size("expert_count", 0), keys.size("block_count")
    if num_layers > 1 << 12:
        raise keys.error("block_count", num_layers, "a model's number of layers")
    num_dense = keys.size("leading_dense_block_count", 0) if num_experts else num_layers
    size = keys.size("feed_forward_length", 0)
    mixture = _mixture(keys, arch, size, num_experts, shapes) if num_experts else None
    has_bias = "blk.0.ffn_gate.bias" in shapes
    return tuple(
        Layer(
            attention=_windowed(attention, arch, index),
            feed_forward=mixture
            if mixture is not None and index >= num_dense
            else Dense(size=size, glu=arch.glu, has_bias=has_bias),
        )
        for index in range(num_layers)
    )


def _windowed(attention: Attention, arch: Arch, index: int) -> Attention:
    is_full = arch.has_window_every_other and index % 2
    return replace(attention, window=None) if is_full else attention


def _mixture(keys: GgufKeys, arch: Arch, size: int, num_experts: int, shapes: Shapes) -> Mixture:
    num_chosen = keys.size("expert_used_count")
    # files of before June 2024 say neither size of theirs
    divided = size // max(num_chosen, 1) if arch.divides_size else size
    expert_size = keys.size("expert_feed_forward_length", divided)
    keys.must_be("expert_weights_scale", None, 0.0, 1.0)
    keys.must_be("expert_gating_func", *_SOFTMAX_GATINGS)
    keys.must_be("expert_group_count", None, 0, 1)
    keys.must_be("expert_group_used_count", None, 0, 1)
    shared_size = keys.size("expert_shared_count", 0) * expert_size
    if arch.has_shared_gate and any(name.endswith("ffn_gate_shexp.weight") for name in shapes):
        shared_size = size
    shared_size = keys.size("expert_shared_feed_forward_length", shared_size)
    return Mixture(
        num_experts=num_experts,
        num_chosen=num_chosen,
        expert_size=expert_size,
        router=_router(keys, arch.router),
        glu=arch.glu,
        has_expert_bias=arch.has_expert_bias,
        shared_size=shared_size,
        has_shared_gate=arch.has_shared_gate and shared_size > 0,
    )


def _router(keys: GgufKeys, router: Router) -> Router:
    is_normed = keys.get("expert_weights_norm")
    if is_normed is None or router.rule != "top_k":
        return router
    if not isinstance(is_normed, bool):
        raise keys.error("expert_weights_norm", is_normed, "true or false")
    return Router(norm_p=1.0 if is_normed else None, has_bias=router.has_bias)
