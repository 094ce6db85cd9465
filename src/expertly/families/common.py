"""What nearly every family's config.json shares, read once here; a family states its defaults."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from expertly.config import Attention, Glu, Layer, ModelConfig, Norm
from expertly.errors import ConfigError
from expertly.families.reading import Keys, show
from expertly.families.rope import read_rope

_ACTIVATIONS: Mapping[str, Glu] = {
    "silu": Glu(),
    "swish": Glu(),
    "gelu": Glu(activation="gelu"),
    "gelu_new": Glu(activation="gelu_tanh"),
    "gelu_pytorch_tanh": Glu(activation="gelu_tanh"),
    "relu": Glu(activation="relu"),
}
_MAX_LAYERS = 10_000  # a layer is an object here: a damaged count must not fill the memory


def read_attention(
    keys: Keys,
    *,
    max_context: int,
    kv_heads: int | None,
    head_size: int | None = None,
    base: float = 10000.0,
    has_mscales: bool = False,
) -> Attention:
    """Heads and rope, without biases, windows and norms.

    `kv_heads` and `head_size` are the defaults for missing keys; None and null stand for as many
    as query heads, and for the hidden size shared out among them.
    """
    hidden_size = keys.size("hidden_size")
    heads = keys.size("num_attention_heads")
    kv = keys.maybe_size("num_key_value_heads", default=kv_heads) or heads
    width = keys.maybe_size("head_dim", default=head_size)
    if width is None and hidden_size % heads:
        raise ConfigError(
            f"config.json: hidden_size {hidden_size} cannot be shared among "
            f"{heads} num_attention_heads",
            hint="give head_dim, or check the file against its published one",
        )
    width = width or hidden_size // heads
    rope = read_rope(
        keys,
        head_size=width,
        max_context=max_context,
        default_base=base,
        has_mscales=has_mscales,
    )
    return Attention(num_heads=heads, num_kv_heads=kv, head_size=width, rope=rope)


def read_glu(keys: Keys, name: str = "hidden_act") -> Glu:
    """The activation of a gated feed-forward; every class's default is silu."""
    return keys.choice(name, of=_ACTIVATIONS, default="silu")


def read_num_layers(keys: Keys, *names: str) -> int:
    num_layers = keys.size(*(names or ("num_hidden_layers",)))
    if num_layers > _MAX_LAYERS:
        raise ConfigError(
            f"config.json: {num_layers} layers are more than {_MAX_LAYERS}",
            hint="check the model's config.json against its published one",
        )
    return num_layers


def read_windows(
    keys: Keys, num_layers: int, window: int | None, slides: Callable[[int], bool]
) -> tuple[int | None, ...]:
    """A window or None for each layer: as `layer_types` says, or else where `slides(layer)`.

    Raises `ConfigError` when `layer_types` has another length, another kind of attention, or
    asks for a window that the file does not give.
    """
    kinds = keys.maybe_texts("layer_types")
    if kinds is None:
        return tuple(window if slides(layer) else None for layer in range(num_layers))
    allowed = {"sliding_attention", "full_attention"} if window else {"full_attention"}
    if len(kinds) != num_layers or not set(kinds) <= allowed:
        raise ConfigError(
            f"config.json: layer_types {show(kinds)} does not fit {num_layers} layers "
            f"with a window of {window}",
            hint=f"one of {', '.join(sorted(allowed))} for each layer",
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def read_upper_windows(keys: Keys, num_layers: int) -> tuple[int | None, ...]:
    """Windows of a dense Qwen: with `use_sliding_window`, layers from `max_window_layers` on."""
    is_windowed = keys.flag("use_sliding_window", default=False)
    window = keys.maybe_size("sliding_window", default=4096)
    first = keys.size("max_window_layers", default=28, minimum=0)
    return read_windows(
        keys, num_layers, window if is_windowed else None, lambda layer: layer >= first
    )


def is_sparse_layer(keys: Keys, num_layers: int) -> tuple[bool, ...]:
    """Which layers of a Qwen hold a mixture: every `decoder_sparse_step`-th, unless it is named
    in `mlp_only_layers`."""
    step = keys.size("decoder_sparse_step", default=1)
    dense = keys.maybe_sizes("mlp_only_layers") or ()
    if any(layer >= num_layers for layer in dense):
        raise ConfigError(
            f"config.json: mlp_only_layers {show(dense)} names a layer beyond {num_layers - 1}",
            hint="layers are counted from 0",
        )
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(num_layers))


def assemble(
    hf: Mapping[str, Any],
    keys: Keys,
    *,
    hidden_size: int,
    layers: Iterable[Layer],
    norm: Norm,
    max_context: int,
    bos: int | None = None,
    eos: int | None = None,
    pad: int | None = None,
    has_head_bias: bool = False,
    without_meaning: Iterable[str] = (),
) -> ModelConfig:
    """The whole config; reads what is left (vocabulary, tying, special tokens with the family's
    defaults `bos`, `eos`, `pad`) and refuses every key that nobody read."""
    config = ModelConfig(
        family=keys.text("model_type"),
        vocab_size=keys.size("vocab_size"),
        hidden_size=hidden_size,
        max_context=max_context,
        layers=tuple(layers),
        norm=norm,
        is_tied=keys.flag("tie_word_embeddings", default=False),
        has_head_bias=has_head_bias,
        bos_id=keys.token("bos_token_id", default=bos),
        eos_ids=keys.tokens("eos_token_id", default=eos),
        pad_id=keys.token("pad_token_id", default=pad),
        source=copy.deepcopy(dict(hf)),
    )
    keys.finish(without_meaning)
    return config
