"""A model's layers as the native kernels take them, and which ones they do not compute."""

from expertly import _native
from expertly.config import Attention, Dense, Glu, Mixture, ModelConfig, SoftMixture
from expertly.errors import ConfigError
from expertly.model.weights import Floats, NativeWeights

# config's names of the rules that the kernels know, and theirs
_RULES = {"top_k": "softmax", "sparsemixer": "sparsemixer"}
# what else must be as here
_PLAIN = {
    "score": "softmax",
    "scale": 1.0,
    "has_steering_bias": False,
    "groups": None,
    "norm_eps": None,
    "has_expert_scale": False,
    "has_noise": False,
    "num_zero": 0,
    "scales_input": False,
    "has_output_bias": False,
}


def check_native(config: ModelConfig) -> None:
    """Raises ConfigError for what the native kernels do not compute."""
    for index, layer in enumerate(config.layers):
        rule = layer.feed_forward
        if layer.attention.experts is not None:
            raise ConfigError(
                f"the native kernels do not compute the experts of heads in layer {index}",
                hint='load it with dtype="float32" or "bfloat16"',
            )
        found = None if isinstance(rule, Dense) else _unknown_of(rule)
        if found is not None:
            raise ConfigError(
                f"the native kernels do not compute the mixture of layer {index}: its {found}",
                hint='load it with dtype="float32" or "bfloat16"',
            )


def _unknown_of(mixture: Mixture | SoftMixture) -> str | None:
    """A setting that the kernels do not know; those that only training heeds do not count."""
    if isinstance(mixture, SoftMixture):
        return "experts are soft"
    router = mixture.router
    if router.rule not in _RULES:
        return f"router is of rule {router.rule}"
    for name, plain in _PLAIN.items():
        value = getattr(router if hasattr(router, name) else mixture, name)
        if value != plain:
            return f"{name} is {value}"
    return None


def native_layer(config: ModelConfig, index: int, weights: NativeWeights) -> _native.Layer:
    here = f"layers.{index}"
    rule = config.layers[index].feed_forward
    assert not isinstance(rule, SoftMixture)
    mixture = rule if isinstance(rule, Mixture) else None
    return _native.Layer(
        native_norm(config, f"{here}.attention_norm", weights),
        _attention(config.layers[index].attention, config, f"{here}.attention", weights),
        native_norm(config, f"{here}.feed_forward_norm", weights),
        experts=_experts(rule, f"{here}.feed_forward", weights),
        router=_router(mixture, f"{here}.feed_forward.router", weights) if mixture else None,
        shared=_shared(mixture, f"{here}.feed_forward.shared", weights) if mixture else None,
        shared_gate=weights.vector(f"{here}.feed_forward.w_shared_gate_D"),
    )


def native_norm(config: ModelConfig, name: str, weights: NativeWeights) -> _native.Norm:
    weight_D = weights.vectors[f"{name}.weight_D"]
    return _native.Norm(
        config.norm.kind, config.norm.eps, weight_D, weights.vector(f"{name}.bias_D")
    )


def _attention(
    attention: Attention, config: ModelConfig, here: str, weights: NativeWeights
) -> _native.Attention:
    is_head = attention.qk_norm != "projection"

    def flat(name: str) -> Floats | None:
        found = weights.vector(f"{here}.{name}")
        return None if found is None else found.reshape(-1)

    return _native.Attention(
        q=weights.matrix(f"{here}.w_q_HCD"),
        k=weights.matrix(f"{here}.w_k_GCD"),
        v=weights.matrix(f"{here}.w_v_GCD"),
        o=weights.matrix(f"{here}.w_o_DHC"),
        heads=attention.num_heads,
        groups=attention.num_kv_heads,
        head_size=attention.head_size,
        window=attention.window or 0,
        eps=config.norm.eps,
        q_bias=flat("b_q_HC"),
        k_bias=flat("b_k_GC"),
        v_bias=flat("b_v_GC"),
        o_bias=flat("b_o_D"),
        clip=attention.clip,
        q_norm=flat("q_norm_C" if is_head else "q_norm_HC"),
        k_norm=flat("k_norm_C" if is_head else "k_norm_GC"),
        is_head_norm=is_head,
        sinks=flat("sinks_H"),
    )


def _bank(experts: list[_native.Expert], glu: Glu) -> _native.Bank:
    return _native.Bank(experts, glu.activation, glu.alpha, glu.limit, glu.up_shift)


def _experts(rule: Dense | Mixture, here: str, weights: NativeWeights) -> _native.Bank:
    if isinstance(rule, Dense):
        return _bank([_alone(here, weights)], rule.glu)
    experts = [
        _native.Expert(
            weights.matrix(f"{here}.experts.w_gate_EFD", e),
            weights.matrix(f"{here}.experts.w_up_EFD", e),
            weights.matrix(f"{here}.experts.w_down_EDF", e),
            weights.row_of(f"{here}.experts.b_gate_EF", e % rule.num_experts),
            weights.row_of(f"{here}.experts.b_up_EF", e % rule.num_experts),
            weights.row_of(f"{here}.experts.b_down_ED", e % rule.num_experts),
        )
        for e in range(weights.num_copies * rule.num_experts)
    ]
    return _bank(experts, rule.glu)


def _alone(here: str, weights: NativeWeights) -> _native.Expert:
    return _native.Expert(
        weights.matrix(f"{here}.w_gate_FD"),
        weights.matrix(f"{here}.w_up_FD"),
        weights.matrix(f"{here}.w_down_DF"),
        weights.vector(f"{here}.b_gate_F"),
        weights.vector(f"{here}.b_up_F"),
        weights.vector(f"{here}.b_down_D"),
    )


def _shared(rule: Mixture, here: str, weights: NativeWeights) -> _native.Bank | None:
    return _bank([_alone(here, weights)], rule.glu) if rule.shared_size else None


def _router(rule: Mixture, here: str, weights: NativeWeights) -> _native.Router:
    router = rule.router
    return _native.Router(
        weights.matrix(f"{here}.w_ED"),
        weights.vector(f"{here}.b_E"),
        rule.num_chosen,
        _RULES[router.rule],
        router.norm_p or 0.0,
        router.jitter,
    )


def expert_bytes(config: ModelConfig, weights: NativeWeights, copy: int) -> list[int]:
    """Of each mixture layer, the first expert of a copy."""
    rules = {index: config.layers[index].feed_forward for index in config.mixture_layers}
    first = {i: copy * rule.num_experts for i, rule in rules.items() if isinstance(rule, Mixture)}
    found = dict.fromkeys(first, 0)
    for (name, expert), matrix in weights.matrices.items():
        if expert is not None and expert == first[int(name.split(".")[1])]:
            found[int(name.split(".")[1])] += matrix.num_bytes
    return [*found.values()]


def dense_bytes(weights: NativeWeights, head: _native.Matrix) -> int:
    """Bytes that every token reads, without the embedding's row."""
    dense = sum(
        matrix.num_bytes
        for (name, expert), matrix in weights.matrices.items()
        if expert is None and name not in ("embed_VD", "head_VD")
    )
    vectors = sum(vector.nbytes for vector in weights.vectors.values())
    return dense + vectors + head.num_bytes
