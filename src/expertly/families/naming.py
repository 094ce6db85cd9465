"""How a checkpoint's tensors map to ours: data that one reader and one writer walk both ways.

Knows names and shapes, not tensors: a view is any function of a tensor-like value that returns
a view of it, so that reading copies out of it and writing copies into it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from expertly.config import Dense, Mixture, ModelConfig

View = Callable[[Any], Any]


@dataclass(frozen=True)
class Part:
    """The part of a stored tensor that fills one parameter, or one expert of its stack.

    `view` turns the stored tensor into one of the parameter's shape; None: same memory order.
    """

    parameter: str
    expert: int | None = None
    view: View | None = None


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: its name, its shape there, and what it holds."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class CodedPart:
    """Every `step`-th row of a stored expert from `first` on: one parameter's expert."""

    parameter: str
    first: int
    step: int


@dataclass(frozen=True)
class Coded:
    """A stack of experts in MXFP4 (OCP Microscaling 1.0) as gpt-oss keeps it: `codes` uint8
    (experts, rows, groups, 16), a byte two neighbours, the first in its low half; `scales` uint8
    (experts, rows, groups), exponents of two with a bias of 127. A group is 32 columns."""

    codes: str
    scales: str
    shape: tuple[int, int, int]  # experts, rows, groups
    parts: tuple[CodedPart, ...]


Names = Iterator[Stored]


@dataclass(frozen=True, kw_only=True)
class MixtureNames:
    """How a family calls the parts of a mixture whose experts are kept apart."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_expert"


MIXTRAL_NAMES = MixtureNames(block="block_sparse_moe", gate="w1", up="w3", down="w2")


def is_table(parameter: str) -> bool:
    """Whether it holds experts by token id, int64, and no weights."""
    return parameter.endswith(".table_VK")


FeedForwardNames = Callable[[int, ModelConfig], Names]


def whole(name: str, shape: tuple[int, ...], parameter: str) -> Stored:
    """A tensor that is one parameter, in the same memory order."""
    return Stored(name, shape, (Part(parameter),))


def llama_names(config: ModelConfig, feed_forward: FeedForwardNames) -> Names:
    """All tensors of a decoder that is named as Llama is, feed-forwards aside."""
    yield whole("model.embed_tokens.weight", (config.vocab_size, config.hidden_size), "embed_VD")
    for layer in range(len(config.layers)):
        here, ours = f"model.layers.{layer}", f"layers.{layer}"
        yield from norm_names(config, f"{here}.input_layernorm", f"{ours}.attention_norm")
        yield from attention_names(layer, config)
        yield from norm_names(
            config, f"{here}.post_attention_layernorm", f"{ours}.feed_forward_norm"
        )
        yield from feed_forward(layer, config)
    yield from norm_names(config, "model.norm", "norm")
    yield from head_names(config)


def norm_names(config: ModelConfig, name: str, parameter: str) -> Names:
    yield whole(f"{name}.weight", (config.hidden_size,), f"{parameter}.weight_D")
    if config.norm.has_bias:
        yield whole(f"{name}.bias", (config.hidden_size,), f"{parameter}.bias_D")


def head_names(config: ModelConfig) -> Names:
    if not config.is_tied:
        yield whole("lm_head.weight", (config.vocab_size, config.hidden_size), "head_VD")
    if config.has_head_bias:
        yield whole("lm_head.bias", (config.vocab_size,), "b_head_V")


def attention_names(layer: int, config: ModelConfig) -> Names:
    """Projections, and what the attention has of biases, norms and sinks."""
    here, ours = f"model.layers.{layer}.self_attn", f"layers.{layer}.attention"
    attention, D = config.layers[layer].attention, config.hidden_size
    H, G, C = attention.num_heads, attention.num_kv_heads, attention.head_size
    for letter, rows, suffix in (("q", H, "HC"), ("k", G, "GC"), ("v", G, "GC")):
        name = f"{here}.{letter}_proj"
        yield whole(f"{name}.weight", (rows * C, D), f"{ours}.w_{letter}_{suffix}D")
        if attention.has_qkv_bias:
            yield whole(f"{name}.bias", (rows * C,), f"{ours}.b_{letter}_{suffix}")
    yield whole(f"{here}.o_proj.weight", (D, H * C), f"{ours}.w_o_DHC")
    if attention.has_output_bias:
        yield whole(f"{here}.o_proj.bias", (D,), f"{ours}.b_o_D")
    if attention.qk_norm == "head":
        yield whole(f"{here}.q_norm.weight", (C,), f"{ours}.q_norm_C")
        yield whole(f"{here}.k_norm.weight", (C,), f"{ours}.k_norm_C")
    if attention.qk_norm == "projection":
        yield whole(f"{here}.q_norm.weight", (H * C,), f"{ours}.q_norm_HC")
        yield whole(f"{here}.k_norm.weight", (G * C,), f"{ours}.k_norm_GC")
    if attention.has_sinks:
        yield whole(f"{here}.sinks", (H,), f"{ours}.sinks_H")


def dense_names(layer: int, config: ModelConfig) -> Names:
    """A dense feed-forward named as Llama's."""
    dense, D = config.layers[layer].feed_forward, config.hidden_size
    assert isinstance(dense, Dense)
    here, ours = f"model.layers.{layer}.mlp", f"layers.{layer}.feed_forward"
    yield from glu_names(here, MixtureNames(), dense.size, D, ours)
    if dense.has_bias:
        yield whole(f"{here}.gate_proj.bias", (dense.size,), f"{ours}.b_gate_F")
        yield whole(f"{here}.up_proj.bias", (dense.size,), f"{ours}.b_up_F")
        yield whole(f"{here}.down_proj.bias", (D,), f"{ours}.b_down_D")


def glu_names(here: str, names: MixtureNames, F: int, D: int, ours: str) -> Names:
    """The three matrices of a gated feed-forward that stands alone."""
    yield whole(f"{here}.{names.gate}.weight", (F, D), f"{ours}.w_gate_FD")
    yield whole(f"{here}.{names.up}.weight", (F, D), f"{ours}.w_up_FD")
    yield whole(f"{here}.{names.down}.weight", (D, F), f"{ours}.w_down_DF")


def mixture_names(layer: int, config: ModelConfig, names: MixtureNames) -> Names:
    """A mixture whose experts a checkpoint keeps apart; dense layers are named as Llama's."""
    mixture, D = config.layers[layer].feed_forward, config.hidden_size
    if isinstance(mixture, Dense):
        yield from dense_names(layer, config)
        return
    assert isinstance(mixture, Mixture)
    here, ours = f"model.layers.{layer}.{names.block}", f"layers.{layer}.feed_forward"
    E, F = mixture.num_experts, mixture.expert_size
    yield whole(f"{here}.gate.weight", (E, D), f"{ours}.router.w_ED")
    for e in range(E):
        for name, shape, parameter in (
            (names.gate, (F, D), "w_gate_EFD"),
            (names.up, (F, D), "w_up_EFD"),
            (names.down, (D, F), "w_down_EDF"),
        ):
            part = Part(f"{ours}.experts.{parameter}", expert=e)
            yield Stored(f"{here}.experts.{e}.{name}.weight", shape, (part,))
    if mixture.shared_size:
        yield from glu_names(
            f"{here}.{names.shared}", names, mixture.shared_size, D, f"{ours}.shared"
        )
    if mixture.has_shared_gate:
        yield whole(f"{here}.{names.shared}_gate.weight", (1, D), f"{ours}.w_shared_gate_D")
