"""A model into a decoder whose experts are read as they are chosen."""

from pathlib import Path

from expertly import _native
from expertly.checkpoint.apart import Apart, apart, experts_at
from expertly.checkpoint.budget import budget_of, check_slots, in_words, room_for, with_chunks
from expertly.checkpoint.copies import check_lower, with_lower
from expertly.checkpoint.stored_experts import StoredExperts
from expertly.config import Mixture, ModelConfig
from expertly.model import PROMPT_CHUNK, NativeDecoder
from expertly.store import DirectDisk, Disk, ExpectedUse, Streamed


def load_streamed(
    path: Path,
    memory: str | int,
    threads: int,
    kernels: str = "",
    *,
    context: int | None = None,
    read_ahead: bool = True,
    lower: Path | None = None,
) -> NativeDecoder:
    """The model of a packed folder or GGUF file within `memory` ("8GB", "auto" or bytes), which is
    the whole process's; its experts stay on the disk but for those that fit beside a cache of
    `context` tokens (None: 4,096, or the model's context), to which texts are kept. `read_ahead`:
    some before they are asked for, in what time the disk has.

    Raises as `load_packed` and `load_gguf`, and InputError for a context beyond the model's and
    for a budget in which not even the experts of one token in one layer fit.
    """
    model = apart(path, threads)
    smaller = None if lower is None else _lower(model, lower)
    room = room_for(context, model.config)
    budget = budget_of(memory, model.config, room)
    total, slot_bytes, chunk = len(model.experts.pieces), model.experts.slot_bytes, PROMPT_CHUNK
    if budget.for_experts // slot_bytes < total:
        budget, chunk = with_chunks(budget, model.config, room)
    num_slots = min(total, max(0, budget.for_experts) // slot_bytes)
    chosen, is_whole = num_chosen(model.config), num_slots == total
    check_slots(budget, slot_bytes, num_slots, max(chosen))
    smaller = None if is_whole else smaller
    decoder = stream(model, num_slots, threads, kernels, read_ahead=read_ahead, lower=smaller)
    decoder.prompt_chunk, decoder.context = chunk, room
    decoder.budget = in_words(budget, slot_bytes, num_slots, total, sum(chosen))
    if smaller is not None:
        decoder.budget += f"; a lower copy takes {smaller.slot_bytes / slot_bytes:.0%} of the bytes"
    if is_whole:
        _fill(decoder)
    return decoder


def _lower(model: Apart, path: Path) -> StoredExperts:
    found = experts_at(path)
    check_lower(model.experts, found, path)
    return found


def stream(
    model: Apart,
    num_slots: int,
    threads: int,
    kernels: str = "",
    disk: Disk | None = None,
    *,
    read_ahead: bool = True,
    lower: StoredExperts | None = None,
) -> NativeDecoder:
    """A decoder that has room for so many experts, read from `disk` (the model's files unless
    given). `lower`: copies of them at fewer bits, which have passed `check_lower`."""
    counts, experts, weights = num_experts(model.config), model.experts, model.weights
    if lower is not None:
        experts, weights.num_copies = with_lower(experts, lower, counts), 2
    arena = _native.Buffer(num_slots * experts.slot_bytes)
    for key, pieces in experts.pieces.items():
        # no expert is computed before it was placed
        for piece, matrix in zip(pieces, experts.matrices(key, arena, 0), strict=True):
            weights.matrices[piece.place.parameter, key[1]] = matrix
    decoder = NativeDecoder(model.config, weights, threads, kernels)
    decoder.tokenizer = model.tokenizer

    def put(layer: int, expert: int, slot: int) -> None:
        gate, up, down = experts.matrices((layer, expert), arena, slot)
        decoder.place_expert(layer, expert, gate, up, down)

    source = experts.source(disk or DirectDisk(experts.stamps), arena, experts.slot_bytes)
    policy = ExpectedUse(counts, has_lower=lower is not None)
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
