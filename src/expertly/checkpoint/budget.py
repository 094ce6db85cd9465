"""What of a memory budget is left for experts: a budget is the whole process's."""

from dataclasses import dataclass, replace
from math import prod

from expertly.config import Mixture, ModelConfig, SoftMixture
from expertly.errors import InputError
from expertly.machine import available_memory_bytes, resident_bytes
from expertly.model import PROMPT_CHUNK
from expertly.planner import kv_bytes_per_token, parse_bytes

# tokens that room is kept for in the cache
CACHE_TOKENS = 4096
# of what experts may take, so much at most goes to longer chunks of a prompt, which read each
# expert fewer times
_CHUNK_SHARE = 1 / 16
# interpreter, libraries and the allocator still grow a little after a model is loaded
_SLACK_BYTES = 48 << 20
# of what the machine has, `auto` leaves this share and at least so much to others
_LEFT_SHARE = 0.1
_LEFT_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Bytes. `used` is what the process takes when all but the experts is loaded, `reserve` what
    cache and activations will take."""

    total: int
    used: int
    reserve: int

    @property
    def for_experts(self) -> int:
        return self.total - self.used - self.reserve


def total_bytes(memory: str | int) -> int:
    """What the process may take. "auto": what it has and most of what the machine and its control
    groups can still give."""
    if memory != "auto":
        return parse_bytes(memory)
    free = available_memory_bytes()
    return resident_bytes() + max(0, free - max(int(free * _LEFT_SHARE), _LEFT_BYTES))


def room_for(context: int | None, config: ModelConfig) -> int:
    """Tokens that the cache is to have room for. Raises InputError for more than the model's."""
    if context is None:
        return min(CACHE_TOKENS, config.max_context)
    if not 0 < context <= config.max_context:
        raise InputError(
            f"room for {context:,} tokens, the model's context is {config.max_context:,}",
            hint=f"give --context 1 to {config.max_context}",
        )
    return context


def budget_of(memory: str | int, config: ModelConfig, tokens: int = CACHE_TOKENS) -> Budget:
    """To be asked when all but the experts is loaded; `tokens` that the cache has room for."""
    total = total_bytes(memory)
    return Budget(total=total, used=resident_bytes(), reserve=reserve_bytes(config, tokens))


def with_chunks(budget: Budget, config: ModelConfig, tokens: int) -> tuple[Budget, int]:
    """For experts that do not all fit: tokens of a prompt that are read at once, as many as a
    small share of the experts' room allows, as each chunk reads nearly all experts; and what the
    budget then is."""
    chunk, most = PROMPT_CHUNK, budget.reserve + int(_CHUNK_SHARE * max(0, budget.for_experts))
    while 2 * chunk <= tokens and reserve_bytes(config, tokens, 2 * chunk) <= most:
        chunk *= 2
    return replace(budget, reserve=reserve_bytes(config, tokens, chunk)), chunk


def reserve_bytes(
    config: ModelConfig, tokens: int = CACHE_TOKENS, chunk: int = PROMPT_CHUNK
) -> int:
    """Cache for so many tokens and activations of `chunk` of them, float32, of the widest layer:
    residual and normed rows, projections, and of each chosen expert its rows, hidden rows and
    results; and logits of one token."""
    tokens = min(tokens, config.max_context)
    chunk = min(chunk, tokens)
    D = config.hidden_size
    widest = 0
    for layer in config.layers:
        a, rule = layer.attention, layer.feed_forward
        assert not isinstance(rule, SoftMixture), "soft mixtures are neither packed nor GGUF"
        chosen, size = (
            (rule.num_chosen, rule.expert_size) if isinstance(rule, Mixture) else (1, rule.size)
        )
        heads = 2 * (a.num_heads + a.num_kv_heads) * a.head_size
        widest = max(widest, heads + chosen * (2 * D + size))
    activations = prod((4, chunk, 4 * D + widest)) + 8 * config.vocab_size
    return kv_bytes_per_token(config) * tokens + activations + _SLACK_BYTES


def check_slots(budget: Budget, slot_bytes: int, num_slots: int, needed: int) -> None:
    """InputError, with the smallest budget that works, if there are fewer slots than one layer
    needs for one token."""
    if num_slots >= needed:
        return
    least = budget.used + budget.reserve + needed * slot_bytes
    raise InputError(
        f"{budget.total:,} bytes of memory: {budget.used:,} are taken already, {budget.reserve:,} "
        f"go to cache and activations, and one layer's experts of one token take "
        f"{needed * slot_bytes:,}",
        hint=f"give --memory {-(-least // 10**7)}0MB or more",
    )


def in_words(
    budget: Budget,
    slot_bytes: int,
    num_slots: int,
    total: int,
    token: int,
) -> str:
    """What a budget means before the first token: slots for so many of `total` experts, of which a
    token uses `token`."""
    text = (
        f"memory {budget.total / 1e6:,.0f} MB: {budget.used / 1e6:,.0f} taken, "
        f"{budget.reserve / 1e6:,.0f} for cache and activations, "
        f"{num_slots * slot_bytes / 1e6:,.0f} for {num_slots:,} of {total:,} experts"
    )
    if num_slots == total:
        return f"{text}: all fit"
    if num_slots < token:
        return f"{text}: fewer than the {token:,} of one token, so most are read for each token"
    return f"{text}; one token uses {token:,} ({token * slot_bytes / 1e6:,.0f} MB)"
