"""Limit, ours, peer, limit, ours, peer: medians, and ratios taken within each round."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from expertly.bench import costs
from expertly.bench.contender import Contender, Ours, Timed
from expertly.bench.limits import Limit
from expertly.bench.work import Phase, Work

Spread = tuple[float, float]
_FLOAT_BITS = 15


class Rates(Protocol):
    def rate(self, limit: Limit) -> float: ...
    @property
    def limits(self) -> dict[Limit, float]: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the store did in the timed rounds, of `bytes_per_token`: `hit_rate` of the uses were
    kept from earlier ones (what was read ahead counts as missed), `best_hit_rate` is that of the
    fewest misses possible (Belady) in the same room after all that went before, `regret` how many
    more misses than those. `share_of_disk`: of what the disk gave, probed in the same rounds, over
    all of their time."""

    hit_rate: float
    best_hit_rate: float
    regret: float
    bytes_per_token: float
    stall_share: float
    disk_bytes_per_second: float
    share_of_disk: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians over the rounds; a spread is the quartiles. `ratio`: ours to the peer."""

    engine: str
    phase: Phase
    length: int  # tokens of a prefill, or the context that a decoding began at
    batch: int
    tokens_per_second: float
    spread: Spread
    share_of_limit: float
    share_spread: Spread
    ratio: float | None = None
    ratio_spread: Spread | None = None
    reading: Reading | None = None  # of a model whose experts are read as they are chosen

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "engine": self.engine,
            "phase": self.phase,
            ("tokens" if self.phase == "prefill" else "context"): self.length,
            "batch": self.batch,
            "tokens_per_second": _short(self.tokens_per_second),
            "share_of_limit": _short(self.share_of_limit),
            "spread": [_short(value) for value in self.spread],
            "share_spread": [_short(value) for value in self.share_spread],
        }
        if self.reading is not None:
            found["reading"] = {name: _short(value) for name, value in vars(self.reading).items()}
        if self.ratio is None or self.ratio_spread is None:
            return found
        spread = [_short(value) for value in self.ratio_spread]
        return {**found, "ratio": _short(self.ratio), "ratio_spread": spread}


@dataclass
class Bench:
    """Everything that one run of the benchmark needs."""

    model: Timed
    probe: Rates
    peer: Contender | None = None
    pairs: int = 5

    def rows(self, work: Work) -> list[Row]:
        """Ours, and the peer's if there is one."""
        ours = Ours(self.model)
        contenders: list[Contender] = [ours] if self.peer is None else [ours, self.peer]
        for each in contenders:
            each.prepare(work)
        touched = ours.touched(work) if work.phase == "decode" else []
        limit, cost = limit_of(self.model, work), cost_of(self.model, work, touched)
        return measure(work, contenders, self.probe, limit, cost, self.pairs)


def limit_of(model: Timed, work: Work) -> Limit:
    """What bounds this work."""
    if work.phase == "decode":
        return "read_bytes_per_second"
    bits = costs.bits_a_weight(model.config, model.dense_bytes, model.expert_bytes)
    return "int8_ops_per_second" if bits < _FLOAT_BITS else "bf16_flops_per_second"


def cost_of(model: Timed, work: Work, touched: Sequence[int]) -> float:
    """How much of its limit the work needs; `touched`, as `decode_bytes` has it, if it decodes."""
    if work.phase == "prefill":
        return work.num_tokens * costs.prefill_ops(model.config)
    return costs.decode_bytes(
        model.config,
        work,
        dense_bytes=model.dense_bytes,
        expert_bytes=model.expert_bytes,
        touched=touched,
    )


def measure(
    work: Work,
    contenders: Sequence[Contender],
    probe: Rates,
    limit: Limit,
    cost: float,
    pairs: int,
) -> list[Row]:
    """One row a contender, the first compared with the last; `cost`: bytes or operations of all
    calls. Contenders are prepared; each is run once before, untimed."""
    for each in contenders:
        each.seconds(work)
    bounds: list[float] = []
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(pairs):
        bounds.append(cost / probe.rate(limit))
        for each, times in zip(contenders, seconds, strict=True):
            times.append(each.seconds(work))
    rows = []
    for each, times in zip(contenders, seconds, strict=True):
        is_ours = each is contenders[0] and len(contenders) > 1
        ratios = [b / a for a, b in zip(times, seconds[-1], strict=True)] if is_ours else []
        rows.append(row_of(work, each.name, times, bounds, ratios))
    return rows


def row_of(
    work: Work,
    engine: str,
    times: Sequence[float],
    bounds: Sequence[float],
    ratios: Sequence[float] = (),
    reading: Reading | None = None,
) -> Row:
    """Medians of rounds that took `times`, and would take `bounds` at the limit."""
    speeds = [work.num_tokens / taken for taken in times]
    shares = [bound / taken for bound, taken in zip(bounds, times, strict=True)]
    return Row(
        engine=engine,
        phase=work.phase,
        length=work.room if work.phase == "prefill" else work.context,
        batch=work.batch,
        tokens_per_second=median(speeds),
        spread=_quartiles(speeds),
        share_of_limit=median(shares),
        share_spread=_quartiles(shares),
        ratio=median(ratios) if ratios else None,
        ratio_spread=_quartiles(ratios) if ratios else None,
        reading=reading,
    )


def _quartiles(values: Sequence[float]) -> Spread:
    ordered, cut = sorted(values), len(values) // 4
    return ordered[cut], ordered[-1 - cut]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
