"""Every parameter of the model that a config describes: its name and its shape."""

from collections.abc import Iterator

from expertly.config import Attention, Dense, HeadExperts, Mixture, ModelConfig, SoftMixture

Shape = tuple[int, ...]


def parameters(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes, in the model's order; a name's suffix spells its shape."""
    V, D = config.vocab_size, config.hidden_size
    found: dict[str, Shape] = {"embed_VD": (V, D)}
    for index, layer in enumerate(config.layers):
        here = f"layers.{index}"
        found |= _norm(config, f"{here}.attention_norm")
        found |= _prefixed(f"{here}.attention", _attention(layer.attention, D))
        found |= _norm(config, f"{here}.feed_forward_norm")
        found |= _prefixed(f"{here}.feed_forward", _feed_forward(layer.feed_forward, D, V))
    found |= _norm(config, "norm")
    if not config.is_tied:
        found["head_VD"] = (V, D)
    if config.has_head_bias:
        found["b_head_V"] = (V,)
    return found


def _prefixed(prefix: str, shapes: Iterator[tuple[str, Shape]]) -> dict[str, Shape]:
    return {f"{prefix}.{name}": shape for name, shape in shapes}


def _norm(config: ModelConfig, name: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight_D": (config.hidden_size,)}
    if config.norm.has_bias:
        shapes[f"{name}.bias_D"] = (config.hidden_size,)
    return shapes


def _attention(attention: Attention, D: int) -> Iterator[tuple[str, Shape]]:
    H, G, C = attention.num_heads, attention.num_kv_heads, attention.head_size
    yield from (("w_k_GCD", (G, C, D)), ("w_v_GCD", (G, C, D)))
    if attention.experts is None:
        yield from (("w_q_HCD", (H, C, D)), ("w_o_DHC", (D, H, C)))
    else:
        num = attention.experts.num_experts
        yield from _prefixed("heads.router", _router(attention.experts, D, 0)).items()
        yield "heads.w_q_EXD", (num, G * C, D)
        yield "heads.w_o_EDX", (num, D, G * C)
    if attention.has_qkv_bias:
        yield from (("b_q_HC", (H, C)), ("b_k_GC", (G, C)), ("b_v_GC", (G, C)))
    if attention.has_output_bias:
        yield "b_o_D", (D,)
    if attention.qk_norm == "head":
        yield from (("q_norm_C", (C,)), ("k_norm_C", (C,)))
    if attention.qk_norm == "projection":
        yield from (("q_norm_HC", (H, C)), ("k_norm_GC", (G, C)))
    if attention.has_sinks:
        yield "sinks_H", (H,)


def _feed_forward(
    rule: Dense | Mixture | SoftMixture, D: int, V: int
) -> Iterator[tuple[str, Shape]]:
    if isinstance(rule, Dense):
        return _dense(rule, D)
    return _mixture(rule, D, V) if isinstance(rule, Mixture) else _soft(rule, D)


def _dense(dense: Dense, D: int) -> Iterator[tuple[str, Shape]]:
    F = dense.size
    yield from (("w_gate_FD", (F, D)), ("w_up_FD", (F, D)), ("w_down_DF", (D, F)))
    if dense.has_bias:
        yield from (("b_gate_F", (F,)), ("b_up_F", (F,)), ("b_down_D", (D,)))


def _mixture(mixture: Mixture, D: int, V: int) -> Iterator[tuple[str, Shape]]:
    S = mixture.shared_size
    yield from _prefixed("router", _router(mixture, D, V)).items()
    yield from _experts(mixture, D)
    if S:
        yield from (("shared.w_gate_FD", (S, D)), ("shared.w_up_FD", (S, D)))
        yield "shared.w_down_DF", (D, S)
    if mixture.has_shared_gate:
        yield "w_shared_gate_D", (D,)
    if mixture.has_output_bias:
        yield "b_D", (D,)


def _soft(mixture: SoftMixture, D: int) -> Iterator[tuple[str, Shape]]:
    yield "router.w_slots_EPD", (mixture.num_experts, mixture.num_slots, D)
    yield "router.scale_1", (1,)
    yield from _experts(mixture, D)


def _experts(mixture: Mixture | SoftMixture, D: int) -> Iterator[tuple[str, Shape]]:
    E, F = mixture.num_experts, mixture.expert_size
    yield "experts.w_gate_EFD", (E, F, D)
    yield "experts.w_up_EFD", (E, F, D)
    yield "experts.w_down_EDF", (E, D, F)
    if mixture.has_expert_bias:
        yield "experts.b_gate_EF", (E, F)
        yield "experts.b_up_EF", (E, F)
        yield "experts.b_down_ED", (E, D)


def _router(mixture: Mixture | HeadExperts, D: int, V: int) -> Iterator[tuple[str, Shape]]:
    """The table of a hash counts as well: it must be stored."""
    rule, E = mixture.router, mixture.num_choices
    if rule.score != "uniform":
        yield "w_ED", (E, D)
    if rule.has_bias:
        yield "b_E", (E,)
    if rule.has_noise:
        yield "w_noise_ED", (E, D)
    if rule.norm_eps is not None:
        yield "scale_D", (D,)
    if rule.has_expert_scale:
        yield "scale_E", (E,)
    if rule.has_steering_bias:
        yield "b_steer_E", (E,)
    if rule.rule == "hash":
        yield "table_VK", (V, mixture.num_chosen)
