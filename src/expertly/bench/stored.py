"""A model whose experts are read as they are chosen: its speed beside what disk and cache allow.

What was read once may still be in memory, so nothing is measured twice: every round goes on where
the last one ended.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch

from expertly.bench.measuring import Rates, Reading, Row, cost_of, limit_of, row_of
from expertly.bench.work import Work
from expertly.config import Mixture
from expertly.errors import InputError
from expertly.model import NativeDecoder
from expertly.store import Streamed, belady
from expertly.store.probe import DiskProbe


@dataclass(frozen=True, kw_only=True)
class _Round:
    seconds: float
    bound: float
    disk_rate: float
    hits: int
    misses: int
    foreseen: int
    read_bytes: int
    stall_seconds: float


class StoredBench:
    """`ids`: of a text, taken as they come and from the beginning again."""

    def __init__(
        self,
        model: NativeDecoder,
        store: Streamed,
        probe: Rates,
        disk: DiskProbe,
        ids: list[int],
        pairs: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._store = store
        self._probe = probe
        self._disk = disk
        self._ids: Iterator[int] = cycle(ids)
        self._pairs = pairs
        self._clock = clock

    def rows(self, work: Work) -> list[Row]:
        """The first round is not counted: the store has then seen this kind of work."""
        self._check(work)
        cache = self._model.new_cache(work.batch)
        chunk = self._model.prompt_chunk
        for start in range(0, work.context, chunk):
            self._feed(cache, work.batch, min(chunk, work.context - start))
        self._round(work, cache)
        since = len(self._store.tally.visits)
        rounds = [self._round(work, cache) for _ in range(self._pairs)]
        times, bounds = [r.seconds for r in rounds], [r.bound for r in rounds]
        reading = self._reading(work.num_tokens, rounds, since)
        return [row_of(work, "expertly", times, bounds, reading=reading)]

    def _check(self, work: Work) -> None:
        rounds = 1 if work.phase == "prefill" else self._pairs + 1
        needed, longest = work.context + rounds * work.room, self._model.context
        if needed > longest:
            raise InputError(
                f"{work}, {self._pairs} rounds and one before them are {needed} tokens, more than "
                f"the {longest} that there is room for",
                hint="ask for fewer rounds with --pairs, a smaller --decode or a larger --context",
            )

    def _feed(self, cache: Any, batch: int, count: int) -> None:
        rows = [[*islice(self._ids, count)] for _ in range(batch)]
        self._model(torch.tensor(rows), cache=cache, logits="last")

    def _round(self, work: Work, cache: Any) -> _Round:
        limit = self._probe.rate(limit_of(self._model, work))
        disk_rate, before = self._disk.rate(), replace(self._store.tally)
        since = len(before.visits)
        if work.phase == "prefill":
            cache.truncate(0)
        began = self._clock()
        for call in work.calls:
            self._feed(cache, work.batch, len(call[0]))
        seconds, after = self._clock() - began, self._store.tally
        return _Round(
            seconds=seconds,
            bound=cost_of(self._model, work, self._touched(since)) / limit,
            disk_rate=disk_rate,
            hits=after.hits - before.hits,
            misses=after.misses - before.misses,
            foreseen=after.foreseen - before.foreseen,
            read_bytes=after.read_bytes - before.read_bytes,
            stall_seconds=after.stall_seconds - before.stall_seconds,
        )

    def _touched(self, since: int) -> list[int]:
        """Experts of each mixture layer in the turns from `since` on; a lower copy is the part of
        one that its bytes are."""
        model, counts = self._model, [[0, 0] for _ in self._model.config.layers]
        for layer, experts in self._store.tally.visits[since:]:
            rule = model.config.layers[layer].feed_forward
            assert isinstance(rule, Mixture)
            lowered = sum(expert >= rule.num_experts for expert in experts)
            counts[layer][0] += len(experts) - lowered
            counts[layer][1] += lowered
        sizes = zip(model.config.mixture_layers, model.expert_bytes, model.lower_bytes, strict=True)
        return [
            counts[layer][0] + round(counts[layer][1] * lower / own) for layer, own, lower in sizes
        ]

    def _reading(self, num_tokens: int, rounds: Sequence[_Round], since: int) -> Reading:
        seconds = sum(r.seconds for r in rounds)
        read_bytes, misses = sum(r.read_bytes for r in rounds), sum(r.misses for r in rounds)
        uses = misses + sum(r.hits for r in rounds)
        # as in the bound, which reads nothing ahead
        misses += sum(r.foreseen for r in rounds)
        best = belady(self._store.tally.visits, self._store.slots.count, since=since)
        return Reading(
            hit_rate=1.0 - misses / uses,
            best_hit_rate=best.hit_rate,
            regret=misses / best.misses - 1.0 if best.misses else 0.0,
            bytes_per_token=read_bytes / (num_tokens * len(rounds)),
            stall_share=sum(r.stall_seconds for r in rounds) / seconds,
            disk_bytes_per_second=median(r.disk_rate for r in rounds),
            share_of_disk=sum(r.read_bytes / r.disk_rate for r in rounds) / seconds,
        )
