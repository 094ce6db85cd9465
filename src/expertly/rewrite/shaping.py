"""The config.json of the mixture that a dense model becomes: a family that has all that the dense
one has, so that only its feed-forwards change.

What is written is read back by the family, and held against the dense config field by field.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from expertly.config import Dense, Layer, Mixture, ModelConfig, Router
from expertly.errors import ConfigError, InputError
from expertly.families import read_config

_ROPE_KEYS = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "original_max_position_embeddings",
    "partial_rotary_factor",
)
_KEPT_KEYS = ("attention_dropout", "initializer_range", "use_cache", "dtype", "torch_dtype")
# a family that cannot do without a shared expert gets a silent one of so many units
SILENT_UNITS = 256


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the mixtures: every `every`-th layer has one."""

    num_experts: int
    num_chosen: int
    expert_size: int
    shared_size: int = 0
    every: int = 1


Sizes = Mapping[str, Any]


def _mixtral(config: ModelConfig, shape: Shape) -> Sizes:
    return {
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": shape.expert_size,
        "num_local_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_chosen,
        "sliding_window": config.layers[0].attention.window,
    }


def _qwen(config: ModelConfig, shape: Shape) -> dict[str, Any]:
    dense = config.layers[0].feed_forward
    assert isinstance(dense, Dense)
    windows = [layer.attention.window for layer in config.layers]
    window = next((w for w in windows if w is not None), None)
    return {
        "intermediate_size": dense.size,
        "moe_intermediate_size": shape.expert_size,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_chosen,
        "norm_topk_prob": True,
        "decoder_sparse_step": shape.every,
        "mlp_only_layers": [],
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def _qwen2_moe(config: ModelConfig, shape: Shape) -> Sizes:
    windows = [layer.attention.window for layer in config.layers]
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        **_qwen(config, shape),
        "shared_expert_intermediate_size": shape.shared_size,
        "qkv_bias": config.layers[0].attention.has_qkv_bias,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
    }


def _qwen3_moe(config: ModelConfig, shape: Shape) -> Sizes:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        **_qwen(config, shape),
        "attention_bias": config.layers[0].attention.has_qkv_bias,
    }


# the first that fits is taken
TARGETS: Mapping[str, Callable[[ModelConfig, Shape], Sizes]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}
_ALWAYS_SHARES = frozenset({"qwen2_moe"})


def to_mixture(dense: ModelConfig, shape: Shape, family: str | None = None) -> ModelConfig:
    """The config of `dense` with mixtures for feed-forwards, of `family` or the first that fits.

    Router weights are renormalised in all of them. Raises InputError for an unknown family and
    when no family, or not this one, has what the dense model has, naming what it lacks.
    """
    check_dense(dense)
    if family is not None and family not in TARGETS:
        raise InputError(
            f"no {family} can be made of a dense model", hint=f"use one of {', '.join(TARGETS)}"
        )
    lacks = {}
    for name in TARGETS if family is None else (family,):
        config, missing = _try(dense, shape, name)
        if config is not None:
            return config
        lacks[name] = missing
    told = "; ".join(f"{name} differs in {', '.join(missing)}" for name, missing in lacks.items())
    raise InputError(
        f"no mixture is built that has all of this {dense.family}: {told}",
        hint="leave out the option that asks for it, or choose another model or family",
    )


def check_dense(config: ModelConfig) -> None:
    """Raises InputError for a mixture, and for feed-forwards whose biases experts cannot have."""
    if config.mixture_layers:
        raise InputError(
            f"this {config.family} is a mixture already",
            hint="`expertly upcycle MIXTURE OUT --duplicate 2` copies its experts",
        )
    if any(isinstance(f, Dense) and f.has_bias for f in (x.feed_forward for x in config.layers)):
        raise InputError(
            f"the feed-forwards of this {config.family} have biases, which experts have not",
            hint="choose a model with mlp_bias false",
        )


def _try(dense: ModelConfig, shape: Shape, family: str) -> tuple[ModelConfig | None, list[str]]:
    if family in _ALWAYS_SHARES and not shape.shared_size:
        shape = replace(shape, shared_size=min(SILENT_UNITS, shape.expert_size))
    hf = {**_common(dense, family), **TARGETS[family](dense, shape)}
    try:
        found = read_config(hf)
    except ConfigError as error:
        return None, [error.message]
    missing = differences(_expected(dense, shape, family), found)
    return (None, missing) if missing else (found, [])


def _expected(dense: ModelConfig, shape: Shape, family: str) -> ModelConfig:
    layers = (
        replace(layer, feed_forward=_mixture(layer, shape, family))
        if (index + 1) % shape.every == 0
        else layer
        for index, layer in enumerate(dense.layers)
    )
    return replace(dense, family=family, layers=tuple(layers))


def _mixture(layer: Layer, shape: Shape, family: str) -> Mixture:
    assert isinstance(layer.feed_forward, Dense)
    return Mixture(
        num_experts=shape.num_experts,
        num_chosen=shape.num_chosen,
        expert_size=shape.expert_size,
        router=Router(norm_p=1.0),
        glu=layer.feed_forward.glu,
        shared_size=shape.shared_size,
        has_shared_gate=family in _ALWAYS_SHARES and shape.shared_size > 0,
    )


def _common(config: ModelConfig, family: str) -> dict[str, Any]:
    """Every key spelled out: defaults differ from family to family."""
    hf, attention = config.source, config.layers[0].attention
    ends = list(config.eos_ids)
    return {
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_size,
        "hidden_act": hf.get("hidden_act", "silu"),
        "max_position_embeddings": config.max_context,
        "rms_norm_eps": config.norm.eps,
        "tie_word_embeddings": config.is_tied,
        "bos_token_id": config.bos_id,
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": config.pad_id,
        **{key: hf[key] for key in _KEPT_KEYS if key in hf},
        **_rope(hf, attention.rope.base),
    }


def _rope(hf: Mapping[str, Any], base: float) -> dict[str, Any]:
    """As it was spelled, with a base that was left to a default spelled out."""
    found = {key: hf[key] for key in _ROPE_KEYS if key in hf}
    spelled = hf.get("rope_parameters") or {}
    if "rope_theta" not in found and "rope_theta" not in spelled:
        found["rope_theta"] = base
    return found


def differences(one: Any, other: Any) -> list[str]:
    """The fields in which two configs differ, with both values; one that differs in the same way
    in several layers is told once."""
    return list(dict.fromkeys(_differences(one, other)))


def _differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        for field in dataclasses.fields(one):
            if field.compare:
                here = f"{name}.{field.name}" if name else field.name
                yield from _differences(getattr(one, field.name), getattr(other, field.name), here)
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, name if name == "layers" else f"{name}.{index}")
    elif one != other:
        yield f"{name} ({_told(other)} instead of {_told(one)})"


def _told(value: Any) -> str:
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(each) for each in value):
        return str(len(value))
    return type(value).__name__ if dataclasses.is_dataclass(value) else str(value)
