"""What work costs at least: bytes to read when decoding, operations when filling a prompt."""

from collections.abc import Sequence
from math import prod

from expertly.bench.work import Work
from expertly.config import Mixture, ModelConfig
from expertly.families import parameters
from expertly.planner import costs


def decode_bytes(
    config: ModelConfig,
    work: Work,
    *,
    dense_bytes: int,
    expert_bytes: Sequence[int],
    touched: Sequence[int],
    bytes_per_value: int = 2,
) -> int:
    """Bytes that all calls of `work` read: in each the dense weights once and every expert that
    any stream chose, once; and each stream's keys and values up to its new token.

    `touched`: in each mixture layer the number of distinct experts, summed over the calls.
    """
    weights = dense_bytes * len(work.calls)
    weights += sum(count * size for count, size in zip(touched, expert_bytes, strict=True))
    lengths = range(work.context + 1, work.context + work.room + 1)
    cached = sum(cache_bytes(config, length, bytes_per_value) for length in lengths)
    return weights + work.batch * cached


def cache_bytes(config: ModelConfig, length: int, bytes_per_value: int = 2) -> int:
    """Keys and values that one token reads: 2 G C values a layer and token that it sees."""
    return sum(
        2 * a.num_kv_heads * a.head_size * bytes_per_value * min(length, a.window or length)
        for a in (layer.attention for layer in config.layers)
    )


def prefill_ops(config: ModelConfig) -> int:
    """Operations of one prefilled token, a multiply-add as two: projections, feed-forwards and K
    of E experts. Scores, norms, routers and the head (the last token's alone) are left out."""
    return sum(
        2 * _active(config, name, prod(shape))
        for name, shape in parameters(config).items()
        if name.startswith("layers.") and _is_multiplied(name, shape)
    )


def _is_multiplied(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and ".router." not in name and not name.split(".")[-1].startswith("b_")


def _active(config: ModelConfig, name: str, weights: int) -> int:
    mixture = config.layers[int(name.split(".")[1])].feed_forward
    if ".experts." not in name or not isinstance(mixture, Mixture):
        return weights
    return weights * mixture.num_chosen // mixture.num_experts


def bits_a_weight(config: ModelConfig, dense_bytes: int, expert_bytes: Sequence[int]) -> float:
    """Of all weights that are multiplied: a table that is only looked up does not count."""
    mixtures = [config.layers[index].feed_forward for index in config.mixture_layers]
    routed = sum(
        mixture.num_experts * size
        for mixture, size in zip(mixtures, expert_bytes, strict=True)
        if isinstance(mixture, Mixture)
    )
    table = 0 if config.is_tied else config.vocab_size * config.hidden_size
    return 8 * (dense_bytes + routed) / (costs.total_params(config) - table)
