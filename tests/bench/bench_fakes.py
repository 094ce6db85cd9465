"""Models, peers and probes of which a test knows every number."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from hand_routing import routing_of
from small_models import MIXTURE, PLAIN
from torch import Tensor

from expertly.bench.limits import LIMITS, Limit
from expertly.bench.work import Work
from expertly.config import Layer, ModelConfig, Norm
from expertly.mixture import Routing

CONFIG = ModelConfig(
    family="fake",
    vocab_size=50,
    hidden_size=16,
    max_context=4096,
    layers=(Layer(attention=PLAIN, feed_forward=MIXTURE),) * 2,
    norm=Norm(eps=1e-5),
)


@dataclass
class FakeRuntime:
    threads: int = 2
    kernels: str = "generic"


@dataclass
class FakeCache:
    batch_size: int
    length: int = 0

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)


@dataclass
class FakeOutput:
    routings: tuple[Routing, ...] | None


class FakeModel:
    """A token chooses experts id % 4 and (id + 1) % 4 in every layer; `seen` are the shapes and
    lengths that it was called with."""

    def __init__(self, config: ModelConfig = CONFIG) -> None:
        self.config = config
        self.prompt_chunk = 512
        self.context = config.max_context
        self.runtime = FakeRuntime()
        self.dense_bytes = 1000
        self.expert_bytes = [10, 100]
        self.seen: list[tuple[tuple[int, ...], int]] = []
        self.caches: list[FakeCache] = []

    def new_cache(self, batch_size: int = 1) -> FakeCache:
        self.caches.append(FakeCache(batch_size))
        return self.caches[-1]

    def __call__(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        *,
        cache: FakeCache | None = None,
        logits: str = "all",
        routings: bool = False,
    ) -> FakeOutput:
        assert logits == "last" and mask_BS is None and ids_BS.dtype == torch.int64
        assert cache is not None and cache.batch_size == ids_BS.shape[0]
        self.seen.append((tuple(ids_BS.shape), cache.length))
        cache.length += ids_BS.shape[1]
        chosen = [[id_ % 4, (id_ + 1) % 4] for id_ in ids_BS.flatten().tolist()]
        return FakeOutput((routing_of(chosen, 4),) * 2 if routings else None)


@dataclass
class FakeContender:
    """Takes the given times in turn; the first is the warm-up's."""

    name: str
    times: Sequence[float]
    log: list[str]
    prepared: list[Work] = field(default_factory=list)
    calls: int = 0

    def prepare(self, work: Work) -> None:
        self.prepared.append(work)

    def seconds(self, work: Work) -> float:
        self.log.append(self.name)
        self.calls += 1
        return self.times[self.calls - 1]


@dataclass
class FakeProbe:
    rates: Sequence[float]
    log: list[str]
    asked: list[Limit] = field(default_factory=list)

    def rate(self, limit: Limit) -> float:
        self.log.append("limit")
        self.asked.append(limit)
        return self.rates[(len(self.asked) - 1) % len(self.rates)]

    @property
    def limits(self) -> dict[Limit, float]:
        return dict.fromkeys(LIMITS, 1e9)
