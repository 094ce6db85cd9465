"""What a model costs, counted from its config alone. Units stand in the names.

Bytes at a number of bits are plain bits: the scales that a block format adds are not in them.
Below 16 bits, routers, norms, biases, sinks and shared gates stay in float32.
"""

from collections.abc import Mapping
from math import prod

from expertly.config import Dense, Mixture, ModelConfig, SoftMixture
from expertly.errors import InputError
from expertly.families import parameters

FORMATS: Mapping[str, int] = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}


def total_params(config: ModelConfig) -> int:
    """All that must be stored; a tied head counts once, as the embedding."""
    return sum(prod(shape) for shape in parameters(config).values())


def expert_params(mixture: Mixture | SoftMixture, hidden_size: int) -> int:
    """One routed expert: gate, up and down, 3 D F, and 2 F + D biases where it has them."""
    size = mixture.expert_size
    biases = 2 * size + hidden_size if mixture.has_expert_bias else 0
    return 3 * hidden_size * size + biases


def routed_expert_params(config: ModelConfig) -> int:
    """All routed experts: the sum over mixture layers of E experts."""
    return sum(m.num_experts * expert_params(m, config.hidden_size) for m in _mixtures(config))


def active_params(config: ModelConfig) -> int:
    """All that one token computes with: total - the sum over mixture layers of the E - K experts
    that were not chosen, heads that are experts alike. Embedding, head, routers and shared
    experts are in it."""
    idle = sum(
        (m.num_experts - m.num_chosen) * expert_params(m, config.hidden_size)
        for m in _mixtures(config)
    )
    return total_params(config) - idle - _idle_head_params(config)


def _idle_head_params(config: ModelConfig) -> int:
    """Query and output projections of the experts of heads that a token does not choose."""
    return (
        sum(
            2 * (a.experts.num_experts - a.experts.num_chosen) * a.num_kv_heads * a.head_size
            for a in (layer.attention for layer in config.layers)
            if a.experts is not None
        )
        * config.hidden_size
    )


def expert_bytes(config: ModelConfig, layer: int, bits: int = 16) -> int:
    """One expert of a layer; 0 for a layer without any."""
    mixture = config.layers[layer].feed_forward
    if isinstance(mixture, Dense):
        return 0
    matrix = _bytes(config.hidden_size * mixture.expert_size, bits)
    biases = 2 * mixture.expert_size + config.hidden_size if mixture.has_expert_bias else 0
    return 3 * matrix + _bytes(biases, _bits_of_small(bits))


def chosen_expert_bytes(config: ModelConfig, bits: int = 16) -> int:
    """The experts one token reads, its working set: the sum over layers of K experts, or of all
    where they are soft. Experts that choose tokens, or that a ReLU chooses, count as K a token."""
    return sum(
        _num_read(layer.feed_forward) * expert_bytes(config, index, bits)
        for index, layer in enumerate(config.layers)
    )


def _num_read(rule: Dense | Mixture | SoftMixture) -> int:
    if isinstance(rule, Dense):
        return 0
    return rule.num_chosen if isinstance(rule, Mixture) else rule.num_experts


def weight_bytes(config: ModelConfig) -> dict[str, int]:
    """All weights, a format of `FORMATS` each."""
    return {name: weight_bytes_at(config, bits) for name, bits in FORMATS.items()}


def weight_bytes_at(config: ModelConfig, bits: int) -> int:
    """All weights at `bits` a weight; a matrix is rounded up to whole bytes, experts one by one."""
    return sum(_tensor_bytes(name, shape, bits) for name, shape in parameters(config).items())


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Keys and values of one token: the sum over layers of 2 G C values.

    Layers with a window count as the others do: the cache keeps every token of theirs too.
    """
    attentions = [layer.attention for layer in config.layers]
    return sum(2 * a.num_kv_heads * a.head_size * bytes_per_value for a in attentions)


def decode_bytes_per_token(
    config: ModelConfig, bits: int = 16, context: int = 0, bytes_per_value: int = 2
) -> int:
    """What one decoded token reads, alone in its batch: the weights outside routed experts, K
    experts a layer, one row of an untied embedding, and the `context` tokens before it in the
    cache (a layer with a window reads no more than the window)."""
    table = ("embed_VD", (config.vocab_size, config.hidden_size))
    row = ("embed_VD", (1, config.hidden_size))
    outside = sum(
        _tensor_bytes(name, shape, bits)
        for name, shape in parameters(config).items()
        if ".experts." not in name
    ) - _bytes(_idle_head_params(config), bits)
    if not config.is_tied:
        outside += _tensor_bytes(*row, bits) - _tensor_bytes(*table, bits)
    cache = sum(
        2 * a.num_kv_heads * a.head_size * bytes_per_value * min(context, a.window or context)
        for a in (layer.attention for layer in config.layers)
    )
    return outside + chosen_expert_bytes(config, bits) + cache


def check_bits(bits: int) -> int:
    """`bits` if a format has as many, or else InputError."""
    if bits not in FORMATS.values():
        raise InputError(
            f"{bits} bits a weight is not a format",
            hint=f"use one of {', '.join(map(str, FORMATS.values()))}",
        )
    return bits


def _mixtures(config: ModelConfig) -> list[Mixture]:
    found = (layer.feed_forward for layer in config.layers)
    return [each for each in found if isinstance(each, Mixture)]


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _bits_of_small(bits: int) -> int:
    return bits if bits >= 16 else 32


def _is_small(name: str) -> bool:
    last = name.rsplit(".", 1)[-1]
    return (
        "norm" in name or ".router." in name or last.startswith(("b_", "sinks_", "w_shared_gate_"))
    )


def _tensor_bytes(name: str, shape: tuple[int, ...], bits: int) -> int:
    if _is_small(name):
        return _bytes(prod(shape), _bits_of_small(bits))
    if ".experts." in name:
        return shape[0] * _bytes(prod(shape[1:]), bits)
    return _bytes(prod(shape), bits)
