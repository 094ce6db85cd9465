"""What is measured: prompts that are in the cache before, and the calls whose time is taken."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from expertly.errors import InputError

Phase = Literal["prefill", "decode"]
DECODE_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class Work:
    """`prompts` holds the ids of each stream; each of `calls` adds as many ids to every stream."""

    phase: Phase
    prompts: tuple[tuple[int, ...], ...]
    calls: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def batch(self) -> int:
        return len(self.prompts)

    @property
    def context(self) -> int:
        """Tokens of a stream that are in the cache before."""
        return len(self.prompts[0])

    @property
    def room(self) -> int:
        """Tokens that the calls add to a stream."""
        return sum(len(call[0]) for call in self.calls)

    @property
    def num_tokens(self) -> int:
        """Tokens that the calls compute, all streams together."""
        return self.batch * self.room

    def __str__(self) -> str:
        if self.phase == "prefill":
            return f"prefill of {self.room}"
        return f"decode at {self.context}" + (f", {self.batch} streams" if self.batch > 1 else "")


def plan(
    prefill: Sequence[int],
    decode: Sequence[int],
    batch: Sequence[int],
    *,
    vocab_size: int,
    max_context: int,
) -> list[Work]:
    """A piece of work a prompt length, then a context, then a batch.

    Contexts are measured in the smallest batch, and the other batches at the smallest context:
    the caches of all pairs would not fit a machine. Raises InputError for what does not fit the
    model.
    """
    _check(prefill, decode, batch, max_context)
    sizes = [(context, min(batch)) for context in sorted(set(decode)) if batch]
    sizes += [(min(decode), streams) for streams in sorted(set(batch))[1:] if decode]
    works = [_prefill(tokens, vocab_size) for tokens in sorted(set(prefill))]
    return works + [_decode(context, streams, vocab_size) for context, streams in sizes]


def _check(
    prefill: Sequence[int], decode: Sequence[int], batch: Sequence[int], max_context: int
) -> None:
    if not prefill and not (decode and batch):
        raise InputError("nothing to measure", hint="give lengths with --prefill or --decode")
    if any(tokens < 1 for tokens in (*prefill, *batch)) or any(tokens < 0 for tokens in decode):
        raise InputError(
            f"a length is too small: prefill {list(prefill)}, decode {list(decode)}, "
            f"batch {list(batch)}",
            hint="prompts and batches are 1 or more, contexts 0 or more",
        )
    longest = max([*prefill, *(context + DECODE_STEPS for context in decode)])
    if longest > max_context:
        raise InputError(
            f"{longest} tokens are more than the context of {max_context}",
            hint=f"ask for less; decoding adds {DECODE_STEPS} tokens to its context",
        )


def _prefill(tokens: int, vocab_size: int) -> Work:
    return Work(phase="prefill", prompts=((),), calls=((random_ids(vocab_size, tokens, tokens),),))


def _decode(context: int, streams: int, vocab_size: int) -> Work:
    """Random ids rather than the model's own: random weights soon repeat themselves, and so would
    the choice of experts."""
    prompts = tuple(random_ids(vocab_size, context, 1000 + stream) for stream in range(streams))
    added = [random_ids(vocab_size, DECODE_STEPS, 100_000 + stream) for stream in range(streams)]
    calls = tuple(tuple((ids[step],) for ids in added) for step in range(DECODE_STEPS))
    return Work(phase="decode", prompts=prompts, calls=calls)


def random_ids(vocab_size: int, count: int, seed: int) -> tuple[int, ...]:
    source = random.Random(seed)
    return tuple(source.randrange(vocab_size) for _ in range(count))
