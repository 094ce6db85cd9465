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

    def __post_init__(self) -> None:
        _require(self.base > 0, f"a rope base of {self.base:g} is not positive")
        factor = getattr(self.scaling, "factor", 1.0)
        _require(factor > 0, f"a rope scaling factor of {factor:g} is not positive")


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Only experts of the best groups can be chosen: `num` groups of neighbours, the `num_chosen`
    best by their largest score ("max", DeepSeek-V2) or the sum of their two largest ("top_two",
    DeepSeek-V3)."""

    num: int
    num_chosen: int
    score: Literal["max", "top_two"] = "max"

    def __post_init__(self) -> None:
        _require(
            0 < self.num_chosen <= self.num,
            f"{self.num_chosen} groups of experts chosen out of {self.num}",
        )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """In training an expert takes C = ceil(T K / E * factor) rows at most, T tokens without
    padding. Of those beyond, "drop_weight" drops the least probable, "drop_position" those of the
    last tokens, and "next" sends each to its token's next best expert that has room."""

    factor: float
    policy: Literal["drop_weight", "drop_position", "next"] = "drop_weight"

    def __post_init__(self) -> None:
        _require(self.factor > 0, f"a capacity factor of {self.factor} leaves no row to an expert")


@dataclass(frozen=True, kw_only=True)
class Router:
    """How experts are chosen and weighed; z are the logits, s the scores made of them.

    rule:
    top_k: the K experts of the largest s.
    sparsemixer: SparseMixer-v2 (GRIN, arXiv 2409.12136): one argmax after another, each weighed
    by a softmax over the logits within 2 * jitter of its maximum; in training a sample instead.
    expert_choice: each expert takes the T K / E tokens that want it most (arXiv 2202.09368).
    relu: every expert whose logit is positive, weighed by it (ReMoE, arXiv 2412.14711); K is
    then no more than what training aims at.
    hash: K experts by a frozen table of token ids (arXiv 2106.04426; DeepSeek-V4's first layers).

    score: softmax, sigmoid or sqrt(softplus(z)); "uniform", of hash alone, has no logits at all.
    The weights are s of the chosen, divided by their p-norm when `norm_p` is given (1: they sum
    to 1, for softmax the same as a softmax over the chosen), times `scale`.
    """

    rule: Literal["top_k", "sparsemixer", "expert_choice", "relu", "hash"] = "top_k"
    score: Literal["softmax", "sigmoid", "sqrt_softplus", "uniform"] = "softmax"
    norm_p: float | None = None
    scale: float = 1.0
    jitter: float = 0.0
    has_bias: bool = False
    has_steering_bias: bool = False  # a bias on s that has a say in the choice, not in weights
    groups: Groups | None = None
    norm_eps: float | None = None  # the router reads rms_norm(x) * scale / sqrt(D) (Gemma 4)
    has_expert_scale: bool = False  # a learned factor an expert on its weights (Gemma 4)
    # in training alone
    input_jitter: float = 0.0  # the router reads x * U(1 - jitter, 1 + jitter) (Switch)
    has_noise: bool = False  # z + N(0, 1) * softplus(W_noise x) (arXiv 1701.06538)
    min_pool: int | None = None  # a document's tokens share n ~ U{min_pool..E} experts (EMO)
    capacity: Capacity | None = None
    min_rows: int = 0  # an expert takes so many rows at least, from tokens that want it most

    def __post_init__(self) -> None:
        _require(self.min_rows >= 0, f"a least number of {self.min_rows} rows an expert")
        _require(
            self.min_rows == 0 or self.capacity is None,
            "a least number of rows (min_rows) and a capacity contradict each other",
        )
        _require(self.scale > 0, f"expert weights times {self.scale}: it must be positive")
        _require(0 <= self.input_jitter < 1, f"an input jitter of {self.input_jitter}")
        _require(self.jitter >= 0, f"a jitter of {self.jitter} is negative")
        _require(
            self.score == "softmax" or self.rule in ("top_k", "hash"),
            f"a router of rule {self.rule} has no other score than softmax, not {self.score}",
        )
        _require(
            self.score != "uniform" or (self.rule == "hash" and not self.has_bias),
            f"uniform scores are those of a hash without a bias, not of rule {self.rule}",
        )
        for name in self._of_top_k():
            _require(
                self.rule == "top_k",
                f"{name} belongs to routers of rule top_k, not to {self.rule}",
            )
        _require(
            self.norm_p is None or self.rule in ("top_k", "hash"),
            f"a router of rule {self.rule} does not make its weights sum to 1 (norm_p)",
        )
        _require(
            self.min_pool is None or self.score == "softmax",
            f"a pool (min_pool) is chosen by softmax, not by {self.score}",
        )

    def is_idle(self, num_chosen: int) -> bool:
        """One chosen expert whose weight is divided by itself: always 1, so that the loss of the
        language model has no gradient for the router."""
        return num_chosen == 1 and self.norm_p is not None and self.score != "uniform"

    def _of_top_k(self) -> list[str]:
        names = ("has_steering_bias", "groups", "has_noise", "min_pool", "capacity", "min_rows")
        return [name for name in names if getattr(self, name)]


@dataclass(frozen=True, kw_only=True)
class HeadExperts:
    """A mixture of attention heads (MoA, arXiv 2210.05144; JetMoE, arXiv 2404.07413, section 2.2):
    keys and values are shared; an expert is a query and an output projection, as many heads as
    there are key heads, and a token has those of the K experts that its router chose."""

    num_experts: int
    num_chosen: int
    router: Router = Router(norm_p=1.0)

    def __post_init__(self) -> None:
        _require(
            0 < self.num_chosen <= self.num_experts,
            f"{self.num_chosen} experts of heads chosen out of {self.num_experts}",
        )
        router = self.router
        _require(router.rule == "top_k", f"experts of heads chosen by {router.rule}, not top_k")
        for name in ("groups", "min_pool", "capacity", "min_rows"):
            _require(not getattr(router, name), f"{name} is not for experts of heads")

    @property
    def num_choices(self) -> int:
        return self.num_experts

    @property
    def has_idle_router(self) -> bool:
        return self.router.is_idle(self.num_chosen)


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
    experts: HeadExperts | None = None  # of which a token has num_heads / num_kv_heads

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
        self._check_experts()
        if isinstance(self.rope.scaling, LongScaling):
            counts = {len(self.rope.scaling.short_factors), len(self.rope.scaling.long_factors)}
            _require(
                counts == {self.head_size // 2},
                f"LongRoPE has {' and '.join(map(str, sorted(counts)))} factors for heads of "
                f"{self.head_size}, which need {self.head_size // 2}",
            )

    def _check_experts(self) -> None:
        if self.experts is None:
            return
        chosen = self.experts.num_chosen
        _require(
            self.num_heads == self.num_kv_heads * chosen,
            f"{self.num_heads} heads are not {self.num_kv_heads} key heads times {chosen} experts",
        )
        _require(
            not self.has_qkv_bias and self.qk_norm is None,
            "experts of heads have no biases on q, k and v and no norms of q and k",
        )


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
class Mixture:
    num_experts: int
    num_chosen: int
    expert_size: int
    router: Router
    glu: Glu = Glu()
    has_expert_bias: bool = False
    shared_size: int = 0  # one shared expert of this width beside the routed ones; 0: none
    has_shared_gate: bool = False  # the shared expert's output times sigmoid(w . x)
    num_zero: int = 0  # further choices that compute nothing; the router has rows for them too
    zero: Literal["nothing", "identity"] = "nothing"  # they add 0 (ZEDA) or w * x (LongCat)
    scales_input: bool = False  # a weight multiplies its expert's input, not output (Llama 4)
    has_output_bias: bool = False  # one bias on the layer's output (JetMoE)

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
        _require(self.num_zero >= 0, f"{self.num_zero} zero experts")
        _require(
            self.num_zero == 0 or not self.scales_input,
            "zero experts have no input to scale (scales_input)",
        )
        self._check_groups()
        pool = self.router.min_pool
        _require(
            pool is None or self.num_chosen <= pool <= self.num_choices,
            f"pools of {pool} experts or more, where {self.num_chosen} of {self.num_choices} "
            "are chosen",
        )

    def _check_groups(self) -> None:
        groups = self.router.groups
        if groups is None:
            return
        size = self.num_choices // groups.num
        _require(
            self.num_choices % groups.num == 0,
            f"{self.num_choices} experts cannot be shared out among {groups.num} groups",
        )
        _require(
            groups.score != "top_two" or size >= 2,
            f"groups of {size} expert have no two largest scores",
        )
        _require(
            self.num_chosen <= groups.num_chosen * size,
            f"{self.num_chosen} experts chosen out of {groups.num_chosen} groups of {size}",
        )

    @property
    def num_choices(self) -> int:
        """Experts and zero experts: what the router has a logit for."""
        return self.num_experts + self.num_zero

    @property
    def has_idle_router(self) -> bool:
        return self.router.is_idle(self.num_chosen)


@dataclass(frozen=True, kw_only=True)
class SoftMixture:
    """Soft MoE (arXiv 2308.00951): each expert computes `num_slots` averages of a sequence's
    tokens, and each token takes an average of all that they give; nothing is chosen."""

    num_experts: int
    num_slots: int
    expert_size: int
    glu: Glu = Glu()
    has_expert_bias: bool = False

    def __post_init__(self) -> None:
        _require(
            self.num_experts > 0 and self.num_slots > 0 and self.expert_size > 0,
            f"{self.num_experts} soft experts of width {self.expert_size} with {self.num_slots} "
            "slots each: all must be positive",
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    attention: Attention
    feed_forward: Dense | Mixture | SoftMixture


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

    @property
    def head_mixture_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose attention has experts."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.attention.experts)

    @property
    def is_causal(self) -> bool:
        """Whether a token's logits depend on no later token once training is over."""
        rules = [layer.feed_forward for layer in self.layers]
        return not any(
            isinstance(rule, SoftMixture)
            or (isinstance(rule, Mixture) and rule.router.rule == "expert_choice")
            for rule in rules
        )

    def check_trainable(self) -> None:
        """Raises ConfigError for a router that training could not teach anything."""
        for index, layer in enumerate(self.layers):
            for rule in (layer.attention.experts, layer.feed_forward):
                if isinstance(rule, Mixture | HeadExperts) and rule.has_idle_router:
                    raise ConfigError(
                        f"layer {index} chooses 1 expert and divides its weight by itself "
                        f"(norm_p {rule.router.norm_p:g}): the router would have no gradient",
                        hint="choose 2 experts or more, or leave the weights as they are "
                        "(norm_p null, norm_topk_prob false)",
                    )
