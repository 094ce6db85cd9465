"""Who is measured: whatever can take prompts into a cache and be timed; ours is one of them."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from expertly import _native
from expertly.bench.work import Work
from expertly.model import Model


class Contender(Protocol):
    @property
    def name(self) -> str: ...
    def prepare(self, work: Work) -> None:
        """Put the prompts into a new cache, in place of the one before."""
        ...

    def seconds(self, work: Work) -> float:
        """The time of the calls; the cache is afterwards as it was before."""
        ...


class Timed(Model, Protocol):
    """A native model; bytes as `NativeDecoder` counts them."""

    runtime: _native.Runtime
    dense_bytes: int
    expert_bytes: list[int]


class Ours:
    name = "expertly"

    def __init__(self, model: Timed, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._cache: Any = None

    def prepare(self, work: Work) -> None:
        # the old one's memory first
        self._cache = None
        self._cache = self._model.new_cache(work.batch)
        prompts_BS = torch.tensor(work.prompts, dtype=torch.int64).reshape(work.batch, -1)
        chunk = self._model.prompt_chunk
        for start in range(0, work.context, chunk):
            part_BS = prompts_BS[:, start : start + chunk]
            self._model(part_BS, cache=self._cache, logits="last")

    def seconds(self, work: Work) -> float:
        assert self._cache is not None
        calls = [torch.tensor(call, dtype=torch.int64) for call in work.calls]
        began = self._clock()
        for ids_BS in calls:
            self._model(ids_BS, cache=self._cache, logits="last")
        took = self._clock() - began
        self._cache.truncate(work.context)
        return took

    def touched(self, work: Work) -> list[int]:
        """In each mixture layer the number of distinct experts, summed over the calls."""
        assert self._cache is not None
        totals = [0] * len(self._model.config.mixture_layers)
        for call in work.calls:
            ids_BS = torch.tensor(call, dtype=torch.int64)
            found = self._model(ids_BS, cache=self._cache, logits="last", routings=True)
            for place, routing in enumerate(found.routings or ()):
                totals[place] += int((routing.counts_E > 0).sum())
        self._cache.truncate(work.context)
        return totals
