"""How GGUF files call a model's tensors, and how their rows lie in our parameters."""

from collections.abc import Iterator
from dataclasses import dataclass

from expertly.config import Attention, Dense, Layer, Mixture, ModelConfig
from expertly.families.gguf_archs import Arch

Shape = tuple[int, ...]

# read with the config, and no parameters
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class GgufPart:
    """Rows of a stored tensor, from `first_row` on, that are one parameter. `paired_heads`: so
    many heads whose rows stand in pairs; `rows_in_order` says which goes where."""

    parameter: str
    first_row: int = 0
    paired_heads: int | None = None


@dataclass(frozen=True)
class GgufStored:
    """A tensor by its name in the file; `shape` is slowest first."""

    name: str
    shape: Shape
    parts: tuple[GgufPart, ...]


def rows_in_order(num_rows: int, heads: int) -> list[int]:
    """Which stored row each of a parameter's rows is, where heads are stored in pairs."""
    size = num_rows // heads
    return [
        head * size + 2 * (i % (size // 2)) + i // (size // 2)
        for head in range(heads)
        for i in range(size)
    ]


def gguf_tensors(config: ModelConfig, arch: Arch) -> Iterator[GgufStored]:
    """Every tensor of the file but those of `ROPE_TENSORS`."""
    V, D = config.vocab_size, config.hidden_size
    yield _whole("token_embd.weight", (V, D), "embed_VD")
    for index, layer in enumerate(config.layers):
        here, ours = f"blk.{index}", f"layers.{index}"
        yield from _norm(config, f"{here}.attn_norm", f"{ours}.attention_norm")
        yield from _attention(layer.attention, arch, D, here, f"{ours}.attention")
        yield from _norm(config, f"{here}.{arch.second_norm}", f"{ours}.feed_forward_norm")
        yield from _feed_forward(layer, D, here, f"{ours}.feed_forward")
    yield from _norm(config, "output_norm", "norm")
    if not config.is_tied:
        yield _whole("output.weight", (V, D), "head_VD")
    if config.has_head_bias:
        yield _whole("output.bias", (V,), "b_head_V")


def _whole(name: str, shape: Shape, parameter: str) -> GgufStored:
    return GgufStored(name, shape, (GgufPart(parameter),))


def _norm(config: ModelConfig, name: str, parameter: str) -> Iterator[GgufStored]:
    yield _whole(f"{name}.weight", (config.hidden_size,), f"{parameter}.weight_D")
    if config.norm.has_bias:
        yield _whole(f"{name}.bias", (config.hidden_size,), f"{parameter}.bias_D")


def _attention(
    attention: Attention, arch: Arch, D: int, here: str, ours: str
) -> Iterator[GgufStored]:
    H, G, C = attention.num_heads, attention.num_kv_heads, attention.head_size
    yield from _projections(attention, arch, D, here, ours)
    yield _whole(f"{here}.attn_output.weight", (D, H * C), f"{ours}.w_o_DHC")
    if attention.has_output_bias:
        yield _whole(f"{here}.attn_output.bias", (D,), f"{ours}.b_o_D")
    if attention.qk_norm == "head":
        yield _whole(f"{here}.attn_q_norm.weight", (C,), f"{ours}.q_norm_C")
        yield _whole(f"{here}.attn_k_norm.weight", (C,), f"{ours}.k_norm_C")
    if attention.qk_norm == "projection":
        yield _whole(f"{here}.attn_q_norm.weight", (H * C,), f"{ours}.q_norm_HC")
        yield _whole(f"{here}.attn_k_norm.weight", (G * C,), f"{ours}.k_norm_GC")
    if attention.has_sinks:
        yield _whole(f"{here}.attn_sinks.weight", (H,), f"{ours}.sinks_H")


def _projections(
    attention: Attention, arch: Arch, D: int, here: str, ours: str
) -> Iterator[GgufStored]:
    H, G, C = attention.num_heads, attention.num_kv_heads, attention.head_size
    rows = {"q": (H, "HC"), "k": (G, "GC"), "v": (G, "GC")}
    for letters in ("qkv",) if arch.has_merged_qkv else ("q", "k", "v"):
        weights, biases, first = [], [], 0
        for letter in letters:
            heads, suffix = rows[letter]
            paired = heads if arch.is_permuted and letter != "v" else None
            weights.append(GgufPart(f"{ours}.w_{letter}_{suffix}D", first, paired))
            biases.append(GgufPart(f"{ours}.b_{letter}_{suffix}", first, paired))
            first += heads * C
        yield GgufStored(f"{here}.attn_{letters}.weight", (first, D), tuple(weights))
        if attention.has_qkv_bias:
            yield GgufStored(f"{here}.attn_{letters}.bias", (first,), tuple(biases))


def _feed_forward(layer: Layer, D: int, here: str, ours: str) -> Iterator[GgufStored]:
    rule = layer.feed_forward
    if isinstance(rule, Dense):
        yield from _glu(f"{here}.ffn", "", rule.size, D, ours)
        if rule.has_bias:
            yield _whole(f"{here}.ffn_gate.bias", (rule.size,), f"{ours}.b_gate_F")
            yield _whole(f"{here}.ffn_up.bias", (rule.size,), f"{ours}.b_up_F")
            yield _whole(f"{here}.ffn_down.bias", (D,), f"{ours}.b_down_D")
        return
    assert isinstance(rule, Mixture)
    yield from _mixture(rule, D, here, ours)
    if rule.shared_size:
        yield from _glu(f"{here}.ffn", "_shexp", rule.shared_size, D, f"{ours}.shared")
    if rule.has_shared_gate:
        yield _whole(f"{here}.ffn_gate_inp_shexp.weight", (D,), f"{ours}.w_shared_gate_D")


def _glu(here: str, suffix: str, F: int, D: int, ours: str) -> Iterator[GgufStored]:
    yield _whole(f"{here}_gate{suffix}.weight", (F, D), f"{ours}.w_gate_FD")
    yield _whole(f"{here}_up{suffix}.weight", (F, D), f"{ours}.w_up_FD")
    yield _whole(f"{here}_down{suffix}.weight", (D, F), f"{ours}.w_down_DF")


def _mixture(rule: Mixture, D: int, here: str, ours: str) -> Iterator[GgufStored]:
    E, F = rule.num_experts, rule.expert_size
    yield _whole(f"{here}.ffn_gate_inp.weight", (E, D), f"{ours}.router.w_ED")
    if rule.router.has_bias:
        yield _whole(f"{here}.ffn_gate_inp.bias", (E,), f"{ours}.router.b_E")
    experts = f"{ours}.experts"
    yield _whole(f"{here}.ffn_gate_exps.weight", (E, F, D), f"{experts}.w_gate_EFD")
    yield _whole(f"{here}.ffn_up_exps.weight", (E, F, D), f"{experts}.w_up_EFD")
    yield _whole(f"{here}.ffn_down_exps.weight", (E, D, F), f"{experts}.w_down_EDF")
    if rule.has_expert_bias:
        yield _whole(f"{here}.ffn_gate_exps.bias", (E, F), f"{experts}.b_gate_EF")
        yield _whole(f"{here}.ffn_up_exps.bias", (E, F), f"{experts}.b_up_EF")
        yield _whole(f"{here}.ffn_down_exps.bias", (E, D), f"{experts}.b_down_ED")
