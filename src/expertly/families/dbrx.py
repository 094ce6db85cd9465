"""DBRX: q, k and v fused and clipped, experts packed into one matrix, layer norms without bias.
Defaults are those of transformers' `DbrxConfig`, `DbrxAttentionConfig` and `DbrxFFNConfig`."""

from collections.abc import Mapping
from typing import Any

from expertly.config import Attention, Layer, Mixture, ModelConfig, Norm, Router
from expertly.families.common import assemble, read_glu, read_num_layers
from expertly.families.naming import Names, Part, Stored, head_names, norm_names, whole
from expertly.families.reading import Keys
from expertly.families.rope import read_rope


def read_config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    max_context = keys.size("max_seq_len", "max_position_embeddings", default=2048)
    keys.must_be("tie_word_embeddings", False)
    hidden_size = keys.size("d_model", "hidden_size")
    layer = Layer(
        attention=_attention(keys, hidden_size, max_context),
        feed_forward=_mixture(keys, hidden_size),
    )
    return assemble(
        hf,
        keys,
        hidden_size=hidden_size,
        layers=(layer,) * read_num_layers(keys, "n_layers", "num_hidden_layers"),
        norm=Norm(kind="layer", eps=1e-5),
        max_context=max_context,
    )


def _attention(keys: Keys, hidden_size: int, max_context: int) -> Attention:
    """The base of rope stands in `attn_config`; what transformers saves repeats it outside."""
    inner = keys.section("attn_config") or Keys({}, "config.json: attn_config")
    heads = keys.size("n_heads", "num_attention_heads")
    kv_heads = inner.size("kv_n_heads", default=1)
    keys.must_be("num_key_value_heads", kv_heads)
    base = inner.maybe_number("rope_theta")
    head_size = hidden_size // heads
    keys.must_be("head_dim", head_size)
    rope = read_rope(
        keys, head_size=head_size, max_context=max_context, default_base=base or 10000.0
    )
    if base is not None and rope.base != base:
        keys.contradict("attn_config.rope_theta", base, "rope_theta", rope.base)
    clip = inner.maybe_number("clip_qkv")
    inner.finish()
    return Attention(
        num_heads=heads, num_kv_heads=kv_heads, head_size=head_size, rope=rope, clip=clip
    )


def _mixture(keys: Keys, hidden_size: int) -> Mixture:
    inner = keys.section("ffn_config") or Keys({}, "config.json: ffn_config")
    inner.must_be("hidden_size", hidden_size)
    activation = inner.section("ffn_act_fn") or Keys({}, "config.json: ffn_act_fn")
    mixture = Mixture(
        num_experts=inner.size("moe_num_experts", default=4),
        num_chosen=inner.size("moe_top_k", default=1),
        expert_size=inner.size("ffn_hidden_size", default=3584),
        router=Router(norm_p=inner.maybe_number("moe_normalize_expert_weights", default=1.0)),
        glu=read_glu(activation, "name"),
    )
    activation.finish()
    inner.finish(("moe_jitter_eps", "moe_loss_weight"))  # of training alone
    return mixture


def stored_tensors(config: ModelConfig) -> Names:
    yield whole("transformer.wte.weight", (config.vocab_size, config.hidden_size), "embed_VD")
    for index, layer in enumerate(config.layers):
        here, ours = f"transformer.blocks.{index}", f"layers.{index}"
        yield from norm_names(config, f"{here}.norm_attn_norm.norm_1", f"{ours}.attention_norm")
        yield from _attention_names(
            f"{here}.norm_attn_norm.attn", layer.attention, config.hidden_size, ours
        )
        yield from norm_names(config, f"{here}.norm_attn_norm.norm_2", f"{ours}.feed_forward_norm")
        assert isinstance(layer.feed_forward, Mixture)
        yield from _mixture_names(f"{here}.ffn", layer.feed_forward, config.hidden_size, ours)
    yield from norm_names(config, "transformer.norm_f", "norm")
    yield from head_names(config)


def _attention_names(here: str, attention: Attention, D: int, ours: str) -> Names:
    H, G, C = attention.num_heads, attention.num_kv_heads, attention.head_size
    q, k = H * C, (H + G) * C
    yield Stored(
        f"{here}.Wqkv.weight",
        ((H + 2 * G) * C, D),
        (
            Part(f"{ours}.attention.w_q_HCD", view=lambda w: w[:q].reshape(H, C, D)),
            Part(f"{ours}.attention.w_k_GCD", view=lambda w: w[q:k].reshape(G, C, D)),
            Part(f"{ours}.attention.w_v_GCD", view=lambda w: w[k:].reshape(G, C, D)),
        ),
    )
    yield whole(f"{here}.out_proj.weight", (D, H * C), f"{ours}.attention.w_o_DHC")


def _mixture_names(here: str, mixture: Mixture, D: int, ours: str) -> Names:
    """The down matrix is stored as its experts' transposes, one below another."""
    E, F = mixture.num_experts, mixture.expert_size
    experts = f"{ours}.feed_forward.experts"
    yield whole(f"{here}.router.layer.weight", (E, D), f"{ours}.feed_forward.router.w_ED")
    yield whole(f"{here}.experts.mlp.w1", (E * F, D), f"{experts}.w_gate_EFD")
    yield whole(f"{here}.experts.mlp.v1", (E * F, D), f"{experts}.w_up_EFD")
    down = Part(f"{experts}.w_down_EDF", view=lambda w: w.reshape(E, F, D).mT)
    yield Stored(f"{here}.experts.mlp.w2", (E * F, D), (down,))
