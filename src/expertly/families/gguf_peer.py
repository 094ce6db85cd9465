"""What llama.cpp does otherwise with a model than its config asks for, in words for a user."""

from collections.abc import Iterator

from expertly.config import (
    Attention,
    Dense,
    Llama3Scaling,
    LongScaling,
    Mixture,
    ModelConfig,
    YarnScaling,
)
from expertly.families.gguf_archs import Arch

_CANNOT = "llama.cpp cannot load it:"


def told_of_llama_cpp(config: ModelConfig, arch: Arch) -> Iterator[str]:
    """One line a difference, none for a model that it computes as it is."""
    attention = config.layers[0].attention
    yield from _told_of_attention(config, attention, arch)
    yield from _told_of_rope(attention, arch)
    yield from _told_of_router(config, arch)
    yield from _told_of_shapes(config, attention, arch)


def _told_of_attention(config: ModelConfig, attention: Attention, arch: Arch) -> Iterator[str]:
    is_cut = attention.window is not None and attention.window < config.max_context
    if is_cut and not arch.has_window_every_other:
        yield f"llama.cpp attends to all tokens, not to the last {attention.window}"
    if attention.clip is not None and not arch.has_merged_qkv:
        yield "llama.cpp does not clip q, k and v"


def _told_of_rope(attention: Attention, arch: Arch) -> Iterator[str]:
    scaling = attention.rope.scaling
    if isinstance(scaling, YarnScaling):
        if (scaling.beta_fast, scaling.beta_slow) != (32.0, 1.0):
            yield "llama.cpp takes 32 and 1 for YaRN's beta_fast and beta_slow"
        if not scaling.is_truncated:
            yield "llama.cpp rounds the ends of YaRN's ramp to whole dimensions"
    if isinstance(scaling, LongScaling):
        yield "llama.cpp chooses LongRoPE's factors by the context it is given, not by the length"
    if isinstance(scaling, Llama3Scaling | LongScaling) and not arch.takes_divisors:
        yield f"{_CANNOT} it reads no factors of frequencies for this architecture"


def _told_of_router(config: ModelConfig, arch: Arch) -> Iterator[str]:
    for layer in config.layers:
        rule = layer.feed_forward
        if not isinstance(rule, Mixture):
            continue
        if rule.router.rule == "sparsemixer":
            yield "llama.cpp takes a softmax over the chosen logits for SparseMixer's weights"
            yield "llama.cpp takes RMS norms for the layer norms"
        elif rule.router.norm_p != arch.router.norm_p:
            does = "makes" if arch.router.norm_p else "does not make"
            yield f"llama.cpp {does} the weights of the chosen experts sum to 1"
        return


def _told_of_shapes(config: ModelConfig, attention: Attention, arch: Arch) -> Iterator[str]:
    width = attention.num_heads * attention.head_size
    if width != config.hidden_size and not arch.takes_any_width:
        yield f"{_CANNOT} its heads are {width} wide, the model {config.hidden_size}"
    if arch.output_bias == ("never" if attention.has_output_bias else "always"):
        wants = "knows no" if attention.has_output_bias else "wants an"
        yield f"{_CANNOT} it {wants} attn_output.bias of this architecture"
    if attention.qk_norm == "projection" and attention.num_kv_heads != attention.num_heads:
        yield f"{_CANNOT} it wants as many key heads as query heads"
    is_dense = [isinstance(layer.feed_forward, Dense) for layer in config.layers]
    if any(is_dense) and not all(is_dense) and not arch.counts_shared:
        yield f"{_CANNOT} it wants a mixture in every layer"
