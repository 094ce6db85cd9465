"""Who is measured: whatever can take prompts into a cache and be timed; ours is one of them."""

import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from expertly import _native
from expertly.bench.work import Work
from expertly.config import ModelConfig
from expertly.mixture import Routing

_PROMPT_CHUNK = 512


class Contender(Protocol):
    @property
    def name(self) -> str: ...
    def prepare(self, work: Work) -> None:
        """Put the prompts into a new cache, in place of the one before."""
        ...

    def seconds(self, work: Work) -> float:
        """The time of the calls; the cache is afterwards as it was before."""
        ...


class Cache(Protocol):
    def truncate(self, length: int) -> None: ...


class Output(Protocol):
    @property
    def routings(self) -> Sequence[Routing] | None: ...


class Model(Protocol):
    """A native model as the benchmark sees it; bytes as NativeDecoder counts them."""

    config: ModelConfig
    runtime: _native.Runtime
    dense_bytes: int
    expert_bytes: list[int]

    def new_cache(self, batch_size: int = 1) -> Cache: ...
    def __call__(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        *,
        cache: Cache | None = None,
        logits: Literal["all", "last"] = "all",
        routings: bool = False,
    ) -> Output: ...


class Ours:
    name = "expertly"

    def __init__(self, model: Model, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._cache: Cache | None = None

    def prepare(self, work: Work) -> None:
        # the old one's memory first
        self._cache = None
        self._cache = self._model.new_cache(work.batch)
        prompts_BS = torch.tensor(work.prompts, dtype=torch.int64).reshape(work.batch, -1)
        for start in range(0, work.context, _PROMPT_CHUNK):
            part_BS = prompts_BS[:, start : start + _PROMPT_CHUNK]
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
