"""A GGUF file's metadata as a `ModelConfig`. Keys of the architecture that nobody knows are
refused; general.* and tokenizer.* are other readers'."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from expertly.config import (
    Attention,
    Dense,
    Layer,
    LinearScaling,
    LongScaling,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
    YarnScaling,
)
from expertly.errors import ConfigError
from expertly.families.gguf_archs import Arch, arch_of

Shapes = Mapping[str, tuple[int, ...]]
ReadFloats = Callable[[str], tuple[float, ...]]

# said of a model, but nothing that its logits depend on, or said again by its tensors
_WITHOUT_MEANING = (
    "vocab_size",
    "rope.scaling.finetuned",
    "attention.causal",
    "tensor_data_layout",
    "use_parallel_residual",
)
_SOFTMAX_GATINGS = (None, 0, 1, 3)  # absent, none, softmax, softmax over the chosen


class GgufKeys:
    """The keys of an architecture, each read once by its name without the prefix."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.arch: str = metadata.get("general.architecture", "")
        self._metadata = metadata
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        self._read.add(name)
        return self._metadata.get(f"{self.arch}.{name}")

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number, 0 or more; an array that says it for each layer must say one thing."""
        found = self.get(name)
        if isinstance(found, list) and found and all(item == found[0] for item in found):
            found = found[0]
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 40:
            raise self.error(name, found, "a whole number")
        return found

    def number(self, name: str, default: float | None = None) -> float:
        found = self.get(name)
        if found is None and default is not None:
            return default
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not is_number or not math.isfinite(found):
            raise self.error(name, found, "a number")
        return float(found)

    def must_be(self, name: str, *allowed: Any) -> None:
        found = self.get(name)
        if found not in allowed:
            raise self.error(name, found, " or ".join(repr(value) for value in allowed))

    def error(self, name: str, found: object, wanted: str) -> ConfigError:
        said = "is missing" if found is None else f"is {str(found)[:60]!r}"
        return ConfigError(
            f"{self.arch}.{name} {said}; wanted is {wanted}",
            hint="convert the model again with a current tool",
        )

    def finish(self) -> None:
        """Raises ConfigError for keys of the architecture that were not read."""
        prefix = f"{self.arch}."
        known = self._read.union(_WITHOUT_MEANING)
        left = sorted(
            key
            for key in self._metadata
            if key.startswith(prefix) and key[len(prefix) :] not in known
        )
        if left:
            raise ConfigError(
                f"the keys {', '.join(left[:5])} are not known for {self.arch}",
                hint="a newer kind of this architecture; this version cannot run it",
            )


def read_gguf_config(
    metadata: Mapping[str, Any], shapes: Shapes, read_floats: ReadFloats
) -> ModelConfig:
    """`shapes`: of every tensor, slowest first; `read_floats`: the values of a small f32 tensor.

    Raises ConfigError for what is missing, contradictory or not known.
    """
    arch, keys = arch_of(metadata.get("general.architecture")), GgufKeys(metadata)
    vocab_size, hidden_size = _embedding(shapes)
    if keys.size("embedding_length") != hidden_size:
        raise keys.error("embedding_length", keys.get("embedding_length"), f"{hidden_size}")
    attention = _attention(keys, arch, hidden_size, shapes, read_floats)
    eps_key = "attention.layer_norm_rms_epsilon"
    eps = keys.number(eps_key if keys.get(eps_key) is not None else "attention.layer_norm_epsilon")
    config = ModelConfig(
        family=_family(keys, arch),
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_context=keys.size("context_length"),
        layers=_layers(keys, arch, attention, shapes),
        norm=Norm(kind=arch.norm, eps=eps, has_bias=arch.has_norm_bias),
        is_tied="output.weight" not in shapes,
        has_head_bias=arch.has_head_bias,
        bos_id=_id(metadata, "bos"),
        eos_ids=tuple(i for i in (_id(metadata, "eos"), _id(metadata, "eot")) if i is not None),
        pad_id=_id(metadata, "padding"),
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


def _id(metadata: Mapping[str, Any], which: str) -> int | None:
    found = metadata.get(f"tokenizer.ggml.{which}_token_id")
    return found if isinstance(found, int) else None


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
            scaling=_scaling(keys, arch, shapes, read_floats),
        ),
        window=keys.size("attention.sliding_window", 0) or None,
        has_qkv_bias=has_qkv_bias,
        has_output_bias=has_output_bias,
        qk_norm=arch.qk_norm,
        clip=clip or None,
        has_sinks=arch.has_sinks,
    )


def _scaling(
    keys: GgufKeys, arch: Arch, shapes: Shapes, read_floats: ReadFloats
) -> LinearScaling | YarnScaling | LongScaling | None:
    kind = keys.get("rope.scaling.type")
    context = keys.size("context_length")
    original = keys.size("rope.scaling.original_context_length", context)
    factor = keys.number("rope.scaling.factor", 1.0)
    attention_factor = keys.number("rope.scaling.attn_factor", 1.0)
    beta_fast = keys.number("rope.scaling.yarn_beta_fast", 32.0)
    beta_slow = keys.number("rope.scaling.yarn_beta_slow", 1.0)
    if "rope_factors_long.weight" in shapes or "rope_freqs.weight" in shapes:
        return _divided(shapes, read_floats, original, attention_factor)
    if kind == "yarn":
        return YarnScaling(
            factor=factor,
            original_context=original,
            beta_fast=beta_fast,
            beta_slow=beta_slow,
            # the growth of cos and sin that the factor brings is left unsaid in these files
            attention_factor=attention_factor * (1.0 + 0.1 * math.log(factor)),
            is_truncated=arch.is_truncated,
        )
    if kind not in (None, "none", "linear"):
        raise keys.error("rope.scaling.type", kind, "linear or yarn")
    return LinearScaling(factor=factor) if kind == "linear" and factor != 1.0 else None


def _divided(shapes: Shapes, read_floats: ReadFloats, original: int, scale: float) -> LongScaling:
    """Frequencies divided by factors that the file lists: LongRoPE's two sets, or one set for
    sequences of any length (how Llama 3's rule is kept)."""
    if "rope_freqs.weight" in shapes:
        short = long = read_floats("rope_freqs.weight")
    else:
        short, long = (read_floats(f"rope_factors_{which}.weight") for which in ("short", "long"))
    return LongScaling(
        short_factors=short,
        long_factors=long,
        short_scale=scale,
        long_scale=scale,
        original_context=original,
    )


def _layers(keys: GgufKeys, arch: Arch, attention: Attention, shapes: Shapes) -> tuple[Layer, ...]:
    num_experts, num_layers = keys.size("expert_count", 0), keys.size("block_count")
    if num_layers > 1 << 12:
        raise keys.error("block_count", num_layers, "a model's number of layers")
    num_dense = keys.size("leading_dense_block_count", 0) if num_experts else num_layers
    size = keys.size("feed_forward_length", 0)
    mixture = _mixture(keys, arch, size, num_experts) if num_experts else None
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
    if arch.has_window_every_other and index % 2:
        return Attention(**{**vars(attention), "window": None})
    return attention


def _mixture(keys: GgufKeys, arch: Arch, size: int, num_experts: int) -> Mixture:
    expert_size = keys.size("expert_feed_forward_length", size)
    keys.must_be("expert_weights_scale", None, 0.0, 1.0)
    keys.must_be("expert_gating_func", *_SOFTMAX_GATINGS)
    keys.must_be("expert_group_count", None, 0, 1)
    keys.must_be("expert_group_used_count", None, 0, 1)
    shared_size = keys.size("expert_shared_count", 0) * expert_size
    shared_size = keys.size("expert_shared_feed_forward_length", shared_size)
    return Mixture(
        num_experts=num_experts,
        num_chosen=keys.size("expert_used_count"),
        expert_size=expert_size,
        router=_router(keys, arch.router),
        glu=arch.glu,
        has_expert_bias=arch.has_expert_bias,
        shared_size=shared_size,
        has_shared_gate=arch.has_shared_gate and shared_size > 0,
    )


def _router(keys: GgufKeys, router: Router) -> Router:
    is_normed = keys.get("expert_weights_norm")
    if is_normed is None or router.rule != "softmax":
        return router
    if not isinstance(is_normed, bool):
        raise keys.error("expert_weights_norm", is_normed, "true or false")
    return Router(norm_p=1.0 if is_normed else None, has_bias=router.has_bias)
