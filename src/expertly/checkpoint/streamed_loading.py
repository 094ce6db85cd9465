"""A model into a decoder whose experts are read as they are chosen."""

from pathlib import Path

from expertly import _native
from expertly.checkpoint.apart import Apart, gguf_apart, packed_apart
from expertly.checkpoint.budget import (
    CACHE_TOKENS,
    budget_of,
    check_slots,
    in_words,
    with_chunks,
)
from expertly.config import Mixture, ModelConfig
from expertly.model import PROMPT_CHUNK, NativeDecoder
from expertly.store import DirectDisk, Disk, ExpectedUse, Streamed


def load_streamed(
    path: Path,
    memory: str | int,
    threads: int,
    kernels: str = "",
    *,
    context: int = CACHE_TOKENS,
    read_ahead: bool = True,
) -> NativeDecoder:
    """The model of a packed folder or GGUF file within `memory` ("8GB", "auto" or bytes), which is
    the whole process's; its experts stay on the disk but for those that fit beside a cache of
    `context` tokens. `read_ahead`: some before they are asked for, in what time the disk has.

    Raises as `load_packed` and `load_gguf`, and InputError for a budget in which not even the
    experts of one token in one layer fit.
    """
    is_gguf = str(path).endswith(".gguf")
    apart = gguf_apart(path, threads) if is_gguf else packed_apart(path, threads)
    budget = budget_of(memory, apart.config, context)
    total, chunk = len(apart.pieces), PROMPT_CHUNK
    if budget.for_experts // apart.slot_bytes < total:
        budget, chunk = with_chunks(budget, apart.config, context)
    num_slots = min(total, max(0, budget.for_experts) // apart.slot_bytes)
    chosen = num_chosen(apart.config)
    check_slots(budget, apart.slot_bytes, num_slots, max(chosen))
    decoder = stream(apart, num_slots, threads, kernels, read_ahead=read_ahead)
    decoder.prompt_chunk = chunk
    decoder.budget = in_words(budget, apart.slot_bytes, num_slots, total, sum(chosen))
    if num_slots == total:
        _fill(decoder)
    return decoder


def stream(
    apart: Apart,
    num_slots: int,
    threads: int,
    kernels: str = "",
    disk: Disk | None = None,
    *,
    read_ahead: bool = True,
) -> NativeDecoder:
    """A decoder that has room for so many experts, read from `disk` (the model's files unless
    given)."""
    arena = _native.Buffer(num_slots * apart.slot_bytes)
    for key, pieces in apart.pieces.items():
        # no expert is computed before it was placed
        for piece, matrix in zip(pieces, apart.matrices(key, arena, 0), strict=True):
            apart.weights.matrices[piece.place.parameter, piece.place.expert] = matrix
    decoder = NativeDecoder(apart.config, apart.weights, threads, kernels)
    decoder.tokenizer = apart.tokenizer

    def put(layer: int, expert: int, slot: int) -> None:
        gate, up, down = apart.matrices((layer, expert), arena, slot)
        decoder.place_expert(layer, expert, gate, up, down)

    source = apart.source(disk or DirectDisk(apart.stamps), arena)
    policy = ExpectedUse(num_experts(apart.config))
    decoder.store = Streamed(source, num_slots, policy, put, is_looking_ahead=read_ahead)
    return decoder


def _fill(decoder: NativeDecoder) -> None:
    """Every expert into its slot; then nothing is left to ask the store for."""
    store, decoder.store = decoder.store, None
    assert store is not None
    try:
        for layer, count in enumerate(num_experts(decoder.config)):
            for _ in store.get(layer, range(count)):
                pass
    finally:
        store.close()


def num_experts(config: ModelConfig) -> list[int]:
    """Of each layer; 0 of one without a mixture."""
    rules = [layer.feed_forward for layer in config.layers]
    return [rule.num_experts if isinstance(rule, Mixture) else 0 for rule in rules]


def num_chosen(config: ModelConfig) -> list[int]:
    rules = [layer.feed_forward for layer in config.layers]
    return [rule.num_chosen if isinstance(rule, Mixture) else 0 for rule in rules]
