"""What a training step on many ranks takes: memory a rank, bytes between ranks, time.

The layout is that of a run's [ranks]: `experts` ranks share each layer's experts, `data` such sets
compute parts of a batch, and with `is_sharded` weights, gradients and moments lie in shards over
the data ranks. Expert ranks are numbered side by side, so a node is filled with them first.
"""

from dataclasses import dataclass

from expertly.config import Dense, Mixture, ModelConfig, SoftMixture
from expertly.errors import InputError
from expertly.planner.costs import active_params, routed_expert_params, total_params
from expertly.planner.devices import Device

# weights, gradients and moments are float32; products are of bfloat16
WEIGHT_BYTES, FACTOR_BYTES = 4, 2
# moments beside each weight
MOMENTS = {"adamw": 2, "muon": 1}


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Raises InputError for experts that cannot be shared out evenly."""

    experts: int = 1
    data: int = 1
    is_sharded: bool = False

    @property
    def count(self) -> int:
        return self.experts * self.data

    def check(self, config: ModelConfig) -> None:
        for layer in config.layers:
            rule = layer.feed_forward
            if isinstance(rule, Mixture | SoftMixture) and rule.num_experts % self.experts:
                raise InputError(
                    f"{rule.num_experts} experts on {self.experts} ranks: each needs as many",
                    hint=f"set --expert-ranks to a divisor of {rule.num_experts}",
                )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that one rank sends in a step."""

    rows: int  # to experts and back, both passes
    gathers: int  # of shards of weights, both passes
    gradients: int  # sums over ranks, in full or into shards


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step; `apart` if nothing overlaps, `together` if all but rows and the start of
    exchanges does."""

    compute: float
    rows: float
    weights: float
    exchanges: float

    @property
    def apart(self) -> float:
        return self.compute + self.rows + self.weights + self.exchanges

    @property
    def together(self) -> float:
        return max(self.compute + self.rows, self.weights) + self.exchanges


def step_flops_per_token(config: ModelConfig, sequence: int) -> int:
    """Forward and backward: 6 a weight that multiplies (not the embedding, unless it is the head
    too), and 6 S H C a layer for scores and sums of values, of which a causal half is computed."""
    embedding = 0 if config.is_tied else config.vocab_size * config.hidden_size
    attention = sum(
        6 * min(sequence, a.window or sequence) * a.num_heads * a.head_size
        for a in (layer.attention for layer in config.layers)
    )
    return 6 * (active_params(config) - embedding) + attention


def rank_params(config: ModelConfig, mesh: Mesh) -> int:
    """Weights of one rank, its own experts and everything else, or its shard of them."""
    experts = routed_expert_params(config)
    own = experts // mesh.experts + total_params(config) - experts
    return -(-own // mesh.data) if mesh.is_sharded else own


def activation_bytes_per_token(config: ModelConfig, *, recompute: bool = False) -> int:
    """What the backward pass finds of one token: of a layer its input, queries, keys, values and
    answers of attention, the normed input of its feed-forward and gate and up of each routed row;
    logits and their gradient in float32. With `recompute` each layer's input, and one layer."""
    D = config.hidden_size
    layers = []
    for layer in config.layers:
        a, rule = layer.attention, layer.feed_forward
        heads = (2 * a.num_heads + 2 * a.num_kv_heads) * a.head_size
        layers.append(3 * D + heads + 2 * _active_width(rule))
    numbers = len(layers) * D + max(layers) if recompute else sum(layers)
    return FACTOR_BYTES * numbers + 2 * 4 * config.vocab_size


def _active_width(rule: Dense | Mixture | SoftMixture) -> int:
    if isinstance(rule, Mixture):
        return rule.num_chosen * rule.expert_size + rule.shared_size
    return rule.num_experts * rule.expert_size if isinstance(rule, SoftMixture) else rule.size


def memory(
    config: ModelConfig, mesh: Mesh, tokens: int, optimiser: str, *, recompute: bool = False
) -> Memory:
    """`tokens` are those that one rank computes at once."""
    params = rank_params(config, mesh)
    return Memory(
        weights=WEIGHT_BYTES * params,
        gradients=WEIGHT_BYTES * params,
        moments=WEIGHT_BYTES * MOMENTS[optimiser] * params,
        activations=tokens * activation_bytes_per_token(config, recompute=recompute),
    )


def traffic(config: ModelConfig, mesh: Mesh, tokens: int) -> Traffic:
    """Rings: a sum over n ranks sends 2 (n - 1) / n of its bytes, half of that into shards, and as
    much as that half to gather them. Rows are taken to be spread evenly over experts."""
    rules = [layer.feed_forward for layer in config.layers]
    chosen = sum(rule.num_chosen for rule in rules if isinstance(rule, Mixture))
    row_bytes = FACTOR_BYTES * config.hidden_size
    rows = 4 * tokens * chosen * row_bytes * (mesh.experts - 1) // mesh.experts
    experts = WEIGHT_BYTES * routed_expert_params(config) // mesh.experts
    others = WEIGHT_BYTES * (total_params(config) - routed_expert_params(config))
    if mesh.is_sharded:
        shards = (experts + others) * (mesh.data - 1) // mesh.data
        between = 2 * (mesh.experts - 1) * (others // mesh.data) // mesh.experts
        return Traffic(rows=rows, gathers=2 * shards, gradients=shards + between)
    over_data = 2 * experts * (mesh.data - 1) // mesh.data
    over_all = 2 * others * (mesh.count - 1) // mesh.count
    return Traffic(rows=rows, gathers=0, gradients=over_data + over_all)


def num_exchanges(config: ModelConfig, mesh: Mesh) -> int:
    """Of a step on one batch, however small: a layer's row counts, its rows and answers in both
    passes; loads, losses and the norm; gradients, or shards of each layer, its experts and the
    rest: gathered twice and summed."""
    if mesh.count == 1:
        return 0
    mixtures = len(config.mixture_layers)
    rows = 5 * mixtures if mesh.experts > 1 else 0
    spread = mesh.experts > 1 and mesh.data > 1
    if mesh.is_sharded:
        units = len(config.layers) + 1 + (mixtures if mesh.experts > 1 else 0)
        # those of experts are not the same on other expert ranks
        between = len(config.layers) + 1 if mesh.experts > 1 else 0
        return rows + 3 + 3 * units + between
    return rows + 3 + (2 if spread else 1)


def step_time(
    config: ModelConfig,
    mesh: Mesh,
    device: Device,
    tokens: int,
    sequence: int,
    efficiency: float,
) -> StepTime:
    """`efficiency`: the share of a device's peak that its products reach."""
    sent = traffic(config, mesh, tokens)
    # a set of expert ranks stays in a node if sets fill nodes, or all ranks are in one
    is_near = device.devices_a_node % mesh.experts == 0 or mesh.count <= device.devices_a_node
    row_link = device.node_link if is_near else device.net_link
    # data ranks lie `experts` apart
    weight_link = device.node_link if mesh.count <= device.devices_a_node else device.net_link
    return StepTime(
        compute=tokens * step_flops_per_token(config, sequence) / (device.flops * efficiency),
        rows=sent.rows / row_link,
        weights=(sent.gathers + sent.gradients) / weight_link,
        exchanges=num_exchanges(config, mesh) * device.exchange_seconds,
    )
