"""What a model is: one frozen description of its layers, free of torch.

Families make a `ModelConfig`; the model, the planner and the checkpoint reader read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expertly.errors import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message, hint="check the model's config.json against its published one")


@dataclass(frozen=True, kw_only=True)
class Norm:
    kind: Literal["rms", "layer"] = "rms"
    eps: float
    has_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Every frequency divided by `factor`."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """NTK by parts (YaRN, arXiv 2309.00071, section 3.2) and a factor on cos and sin."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float
    is_truncated: bool = True


@dataclass(frozen=True, kw_only=True)
class LongScaling:
    """LongRoPE (arXiv 2402.13753): a divisor a frequency and a factor on cos and sin;
    one set up to `original_context` tokens, another for sequences beyond it."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    short_scale: float
    long_scale: float
    original_context: int


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions, halves rotated (not interleaved pairs)."""

    base: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | LongScaling | None = None


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Grouped-query attention; scores are divided by sqrt(head_size)."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    rope: Rope
    window: int | None = None  # a token sees itself and the window - 1 before it
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    clip: float | None = None  # q, k and v clamped to +-clip
    has_sinks: bool = False  # one learned logit a head that takes part in the softmax

    def __post_init__(self) -> None:
        _require(
            self.num_heads > 0 and self.num_kv_heads > 0 and self.head_size > 0,
            f"attention sizes must be positive: heads {self.num_heads}, "
            f"kv heads {self.num_kv_heads}, head size {self.head_size}",
        )
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.num_heads} heads cannot be grouped over {self.num_kv_heads} kv heads",
        )
        _require(self.head_size % 2 == 0, f"head size {self.head_size} is odd; rope needs pairs")
        _require(self.window is None or self.window > 0, f"window {self.window} is not positive")


@dataclass(frozen=True, kw_only=True)
class Glu:
    """down(act(gate) * (up + up_shift)), act(g) = g * sigmoid(alpha * g) for silu;
    with a limit, gate is clamped above and up on both sides before that."""

    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    alpha: float = 1.0
    limit: float | None = None
    up_shift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dense:
    size: int
    glu: Glu = Glu()
    has_bias: bool = False

    def __post_init__(self) -> None:
        _require(self.size > 0, f"feed-forward size {self.size} is not positive")


@dataclass(frozen=True, kw_only=True)
class Router:
    """How experts are chosen and weighed.

    softmax: probabilities over all experts, the largest chosen; their weights are divided by
    their p-norm when `norm_p` is given (1: they sum to 1, the same as a softmax over the chosen).
    sparsemixer: the inference rule of SparseMixer-v2 (GRIN, arXiv 2409.12136): one argmax after
    another, each weighed by a softmax over the logits within 2 * jitter of its maximum.
    """

    rule: Literal["softmax", "sparsemixer"] = "softmax"
    norm_p: float | None = None
    jitter: float = 0.0
    has_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Mixture:
    num_experts: int
    num_chosen: int
    expert_size: int
    router: Router
    glu: Glu = Glu()
    has_expert_bias: bool = False
    shared_size: int = 0  # one shared expert of this width beside the routed ones; 0: none
    has_shared_gate: bool = False  # the shared expert's output times sigmoid(w . x)

    def __post_init__(self) -> None:
        _require(
            self.num_experts > 0 and self.expert_size > 0,
            f"{self.num_experts} experts of width {self.expert_size}: both must be positive",
        )
        _require(
            0 < self.num_chosen <= self.num_experts,
            f"{self.num_chosen} experts chosen out of {self.num_experts}",
        )
        _require(self.shared_size >= 0, f"shared expert of width {self.shared_size}")
        _require(
            self.shared_size > 0 or not self.has_shared_gate,
            "a shared gate without a shared expert",
        )
        _require(
            self.router.rule != "sparsemixer" or self.num_chosen <= 2,
            f"sparsemixer chooses at most 2 experts, not {self.num_chosen}",
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    attention: Attention
    feed_forward: Dense | Mixture


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder: embedding, layers (norm, attention, norm, feed-forward), norm, head."""

    family: str  # the model_type of its config.json
    vocab_size: int
    hidden_size: int
    max_context: int
    layers: tuple[Layer, ...]
    norm: Norm
    is_tied: bool = False  # the head is the embedding
    has_head_bias: bool = False
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    # the config.json this was read from, kept so that it can be written back
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require(len(self.layers) > 0, "a model needs at least one layer")
        _require(
            self.vocab_size > 0 and self.hidden_size > 0 and self.max_context > 0,
            f"sizes must be positive: vocabulary {self.vocab_size}, "
            f"hidden {self.hidden_size}, context {self.max_context}",
        )

    @property
    def mixture_layers(self) -> tuple[int, ...]:
        """Indices of the layers that hold a mixture; routings come in this order."""
        return tuple(
            i for i, layer in enumerate(self.layers) if isinstance(layer.feed_forward, Mixture)
        )
