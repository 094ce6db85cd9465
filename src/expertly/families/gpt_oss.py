"""gpt-oss, its experts plain or in MXFP4: attention sinks, a biased router, clamped experts with
biases. Defaults are those of transformers' `GptOssConfig`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from expertly.config import (
    Attention,
    Glu,
    Layer,
    Mixture,
    ModelConfig,
    Norm,
    Router,
    YarnScaling,
)
from expertly.families.common import assemble, read_attention, read_num_layers, read_windows
from expertly.families.naming import (
    Coded,
    CodedPart,
    Names,
    Part,
    Stored,
    llama_names,
    whole,
)
from expertly.families.reading import Keys

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    has_rope = bool(hf.get("rope_parameters") or hf.get("rope_scaling"))
    spelled = {**hf} if has_rope else {**hf, "rope_scaling": _ROPE}
    if is_coded(hf):
        del spelled["quantization_config"]
    keys = Keys(spelled)
    num_layers = read_num_layers(keys)
    max_context = keys.size("max_position_embeddings", default=131072)
    attention = _attention(keys, max_context)
    mixture = _mixture(keys)
    window = keys.maybe_size("sliding_window", default=128)
    return assemble(
        hf,
        keys,
        hidden_size=keys.size("hidden_size"),
        layers=(
            Layer(attention=replace(attention, window=window), feed_forward=mixture)
            for window in read_windows(keys, num_layers, window, lambda layer: layer % 2 == 0)
        ),
        norm=Norm(eps=keys.number("rms_norm_eps", default=1e-5)),
        max_context=max_context,
    )


def is_coded(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json says that experts are MXFP4."""
    how = hf.get("quantization_config")
    return isinstance(how, Mapping) and how.get("quant_method") == "mxfp4"


def _attention(keys: Keys, max_context: int) -> Attention:
    has_bias = keys.flag("attention_bias", default=True)
    bare = read_attention(keys, max_context=max_context, kv_heads=8, head_size=64, base=150000.0)
    if isinstance(bare.rope.scaling, YarnScaling):
        keys.must_be("initial_context_length", bare.rope.scaling.original_context)
    return replace(bare, has_qkv_bias=has_bias, has_output_bias=has_bias, has_sinks=True)


def _mixture(keys: Keys) -> Mixture:
    """A softmax over the chosen logits is one over all of them, made to sum to 1 (norm_p 1)."""
    keys.must_be("hidden_act", "silu")
    return Mixture(
        num_experts=keys.size("num_local_experts", "num_experts", default=128),
        num_chosen=keys.size("num_experts_per_tok", "experts_per_token", default=4),
        expert_size=keys.size("intermediate_size"),
        router=Router(norm_p=1.0, has_bias=True),
        glu=Glu(
            alpha=keys.number("swiglu_alpha", default=1.702),
            limit=keys.number("swiglu_limit", default=7.0),
            up_shift=1.0,
        ),
        has_expert_bias=True,
    )


def stored_tensors(config: ModelConfig) -> Names:
    return llama_names(config, _mixture_names)


def _mixture_names(layer: int, config: ModelConfig) -> Names:
    """Experts are stored transposed, gate and up columns by turns: gate first."""
    mixture, D = config.layers[layer].feed_forward, config.hidden_size
    assert isinstance(mixture, Mixture)
    E, F = mixture.num_experts, mixture.expert_size
    here, ours = f"model.layers.{layer}.mlp", f"layers.{layer}.feed_forward"
    yield whole(f"{here}.router.weight", (E, D), f"{ours}.router.w_ED")
    yield whole(f"{here}.router.bias", (E,), f"{ours}.router.b_E")
    experts = f"{ours}.experts"
    if not is_coded(config.source):
        yield from _plain_experts(here, experts, mixture, D)
    yield Stored(
        f"{here}.experts.gate_up_proj_bias",
        (E, 2 * F),
        (
            Part(f"{experts}.b_gate_EF", view=lambda b: b[:, 0::2]),
            Part(f"{experts}.b_up_EF", view=lambda b: b[:, 1::2]),
        ),
    )
    yield whole(f"{here}.experts.down_proj_bias", (E, D), f"{experts}.b_down_ED")


def _plain_experts(here: str, experts: str, mixture: Mixture, D: int) -> Names:
    E, F = mixture.num_experts, mixture.expert_size
    yield Stored(
        f"{here}.experts.gate_up_proj",
        (E, D, 2 * F),
        (
            Part(f"{experts}.w_gate_EFD", view=lambda w: w[:, :, 0::2].mT),
            Part(f"{experts}.w_up_EFD", view=lambda w: w[:, :, 1::2].mT),
        ),
    )
    down = Part(f"{experts}.w_down_EDF", view=lambda w: w.mT)
    yield Stored(f"{here}.experts.down_proj", (E, F, D), (down,))


def coded_tensors(config: ModelConfig) -> Iterator[Coded]:
    """The experts that MXFP4 keeps: gate and up rows by turns, not transposed."""
    if not is_coded(config.source):
        return
    for layer in config.mixture_layers:
        mixture, D = config.layers[layer].feed_forward, config.hidden_size
        assert isinstance(mixture, Mixture)
        E, F = mixture.num_experts, mixture.expert_size
        here, ours = f"model.layers.{layer}.mlp.experts", f"layers.{layer}.feed_forward.experts"
        gate_up = (CodedPart(f"{ours}.w_gate_EFD", 0, 2), CodedPart(f"{ours}.w_up_EFD", 1, 2))
        down = (CodedPart(f"{ours}.w_down_EDF", 0, 1),)
        for name, rows, columns, parts in (
            (f"{here}.gate_up_proj", 2 * F, D, gate_up),
            (f"{here}.down_proj", D, F, down),
        ):
            yield Coded(f"{name}_blocks", f"{name}_scales", (E, rows, -(-columns // 32)), parts)
