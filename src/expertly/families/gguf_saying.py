"""A `ModelConfig` as the metadata of a GGUF file: what is said, and what llama.cpp makes of it.

A config that would not come back from its own metadata is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from expertly.config import Dense, Mixture, ModelConfig
from expertly.errors import ConfigError
from expertly.families.gguf_archs import ARCHS, Arch, name_of
from expertly.families.gguf_config import read_gguf_config
from expertly.families.gguf_names import GgufPart, GgufStored, gguf_tensors
from expertly.families.gguf_peer import told_of_llama_cpp
from expertly.families.gguf_rope import as_read, say_rope

Value = int | float | bool | str

_ONLY_OF_TOKENIZER = ("bos_id", "eos_ids", "pad_id", "source", "family", "is_tied")
_ROUNDING = 1e-6  # of float32


@dataclass(frozen=True, kw_only=True)
class Said:
    """`rope_tensors`: float32, beside `tensors`. `differences`: what llama.cpp does otherwise."""

    metadata: Mapping[str, Value]
    tensors: tuple[GgufStored, ...]
    rope_tensors: Mapping[str, tuple[float, ...]]
    differences: tuple[str, ...]


def say(config: ModelConfig) -> Said:
    """Everything of the model but its tokenizer. Raises ConfigError, which names it, for what a
    GGUF file cannot say."""
    name = name_of(config.family)
    arch = ARCHS[name]
    attention = config.layers[0].attention
    rope = say_rope(attention.rope, attention.head_size)
    keys = {**_sizes(config, arch), **rope.keys}
    metadata: dict[str, Value] = {
        "general.architecture": name,
        "general.type": "model",
        **{f"{name}.{key}": value for key, value in keys.items()},
    }
    tensors = (*gguf_tensors(config, arch), *_own_head(config, arch))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    shapes |= {tensor: (len(factors),) for tensor, factors in rope.tensors.items()}
    _check(config, read_gguf_config(metadata, shapes, lambda tensor: rope.tensors[tensor]))
    return Said(
        metadata={**metadata, **_ids(config)},
        tensors=tensors,
        rope_tensors=rope.tensors,
        differences=tuple(told_of_llama_cpp(config, arch)),
    )


def _own_head(config: ModelConfig, arch: Arch) -> Iterator[GgufStored]:
    """The embedding once more, where files must have a head of their own."""
    if config.is_tied and arch.has_own_head:
        shape = (config.vocab_size, config.hidden_size)
        yield GgufStored("output.weight", shape, (GgufPart("embed_VD"),))


def _sizes(config: ModelConfig, arch: Arch) -> dict[str, Value]:
    attention = config.layers[0].attention
    found: dict[str, Value] = {
        "context_length": config.max_context,
        "embedding_length": config.hidden_size,
        "block_count": len(config.layers),
        "vocab_size": config.vocab_size,
        "attention.head_count": attention.num_heads,
        "attention.head_count_kv": attention.num_kv_heads,
        "attention.key_length": attention.head_size,
        "attention.value_length": attention.head_size,
        "rope.dimension_count": attention.head_size,
        arch.eps_key: config.norm.eps,
    }
    if attention.window is not None:
        found["attention.sliding_window"] = attention.window
    if attention.clip is not None or arch.has_merged_qkv:
        found["attention.clamp_kqv"] = attention.clip or 0.0
    return found | _feed_forwards(config, arch)


def _feed_forwards(config: ModelConfig, arch: Arch) -> dict[str, Value]:
    rules = [layer.feed_forward for layer in config.layers]
    mixture = next((rule for rule in rules if isinstance(rule, Mixture)), None)
    sizes = [rule.size for rule in rules if isinstance(rule, Dense)]
    if mixture is None:
        return {"feed_forward_length": sizes[0]}
    found: dict[str, Value] = {
        "feed_forward_length": sizes[0] if sizes else mixture.expert_size,
        "expert_count": mixture.num_experts,
        "expert_used_count": mixture.num_chosen,
        "expert_feed_forward_length": mixture.expert_size,
    }
    if sizes or arch.counts_shared:
        found["leading_dense_block_count"] = len(sizes)
    if arch.counts_shared:
        found["expert_shared_count"] = mixture.shared_size // mixture.expert_size
    elif mixture.shared_size:
        found["expert_shared_feed_forward_length"] = mixture.shared_size
    if mixture.router.norm_p != arch.router.norm_p:
        found["expert_weights_norm"] = mixture.router.norm_p is not None
    return found


def _ids(config: ModelConfig) -> dict[str, Value]:
    """Of special tokens, for files without a tokenizer that names them."""
    ends = dict(zip(("eos", "eot"), config.eos_ids, strict=False))
    named = {"bos": config.bos_id, "padding": config.pad_id, **ends}
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in named.items() if i is not None}


def _check(config: ModelConfig, again: ModelConfig) -> None:
    layers = tuple(
        replace(layer, attention=replace(layer.attention, rope=rope))
        for layer in config.layers
        for rope in [as_read(layer.attention.rope, layer.attention.head_size, config)]
    )
    found = _first_difference("", replace(config, layers=layers), again)
    if found is not None:
        where, ours, theirs = found
        raise ConfigError(
            f"a GGUF file cannot say of a {config.family} that {where} is {_short(ours)}, "
            f"only {_short(theirs)}",
            hint="pack it into a folder instead",
        )


def _first_difference(where: str, one: Any, other: Any) -> tuple[str, Any, Any] | None:
    """Where two values of the same kind first differ, and what they are there."""
    pairs: list[tuple[str, Any, Any]] = []
    if is_dataclass(one) and type(one) is type(other):
        names = [f.name for f in fields(one) if where or f.name not in _ONLY_OF_TOKENIZER]
        pairs = [(name, getattr(one, name), getattr(other, name)) for name in names]
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    elif not _are_equal(one, other):
        return where, one, other
    found = (_first_difference(f"{where}.{n}".lstrip("."), a, b) for n, a, b in pairs)
    return next((difference for difference in found if difference is not None), None)


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _ROUNDING * abs(one)
    return bool(one == other)


def _short(value: Any) -> str:
    return f"a {type(value).__name__}" if is_dataclass(value) else str(value)[:60]
