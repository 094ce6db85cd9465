"""What a store did, in numbers: beside it what the best possible would have done."""

from dataclasses import dataclass

from expertly.store.ladder import Ladder
from expertly.store.replay import belady
from expertly.store.tally import Tally


@dataclass(frozen=True, kw_only=True)
class StoreReport:
    """`hit_rate`: of the uses, those that were kept from earlier ones; what was read ahead
    (`foreseen`) counts as missed, as in `best_hit_rate`. `regret`: how many more misses than the
    fewest possible (Belady, who may bypass), as a share of those; over the first turns where there
    were very many. `ahead_share`: of the turns, those in
    which the disk had time to read ahead. `share_of_disk`: of what the disk
    was measured to give, over all of the time; None without a measurement."""

    uses: int
    hit_rate: float
    best_hit_rate: float
    regret: float
    read_bytes: int
    stall_share: float
    foreseen: int
    wasted: int
    ahead_share: float
    disk_bytes_per_second: float | None
    share_of_disk: float | None

    def __str__(self) -> str:
        ahead = (
            f", {self.foreseen:,} more read ahead ({self.wasted:,} in vain; in "
            f"{self.ahead_share:.0%} of the turns)"
        ) * bool(self.foreseen + self.wasted)
        disk = ""
        if self.disk_bytes_per_second is not None:
            gigabytes = self.disk_bytes_per_second / 1e9
            disk = f"; disk {gigabytes:.2f} GB/s, {self.share_of_disk:.0%} of it used"
        return (
            f"experts: {self.hit_rate:.1%} of {self.uses:,} uses kept in memory (at best "
            f"{self.best_hit_rate:.1%}; {self.regret:.0%} more misses than that){ahead}, "
            f"{self.read_bytes / 1e6:,.1f} MB read, {self.stall_share:.0%} of the time waited{disk}"
        )


def report(
    tally: Tally, capacity: int, seconds: float, disk_bytes_per_second: float | None = None
) -> StoreReport:
    """`seconds` in all; `capacity` in experts."""
    uses = tally.hits + tally.misses
    best = belady(tally.visits, capacity)
    kept = tally.hits - tally.foreseen
    # of the turns that were remembered
    seen = best.hits + best.misses
    misses = (uses - kept) * seen / uses if uses else 0.0
    return StoreReport(
        uses=uses,
        hit_rate=kept / uses if uses else 0.0,
        best_hit_rate=best.hit_rate,
        regret=misses / best.misses - 1.0 if best.misses else 0.0,
        read_bytes=tally.read_bytes,
        stall_share=tally.stall_seconds / seconds if seconds > 0 else 0.0,
        foreseen=tally.foreseen,
        wasted=tally.wasted,
        ahead_share=tally.turns_ahead / tally.turns if tally.turns else 0.0,
        disk_bytes_per_second=disk_bytes_per_second,
        share_of_disk=_share(tally.read_bytes, disk_bytes_per_second, seconds),
    )


def _share(num_bytes: int, rate: float | None, seconds: float) -> float | None:
    return num_bytes / rate / seconds if rate and seconds > 0 else None


@dataclass(frozen=True, kw_only=True)
class LadderReport:
    """`device_share`: of all uses of experts, each once a layer's turn, those that the device
    computed."""

    num_held: int
    uses: int
    device_share: float
    copied_bytes: int
    failures: int
    is_off: bool

    def __str__(self) -> str:
        failed = f", {self.failures:,} failures" * bool(self.failures)
        ended = ", so it was not asked any more" * self.is_off
        return (
            f"device: {self.num_held:,} experts in its memory; {self.device_share:.1%} of "
            f"{self.uses:,} uses computed there, {1 - self.device_share:.1%} on the processor; "
            f"{self.copied_bytes / 1e6:,.1f} MB copied{failed}{ended}"
        )


def ladder_report(ladder: Ladder, expert_bytes: int) -> LadderReport:
    """`expert_bytes` on the device."""
    tally = ladder.tally
    uses = tally.on_device + tally.on_host
    return LadderReport(
        num_held=len(ladder.slots),
        uses=uses,
        device_share=tally.on_device / uses if uses else 0.0,
        copied_bytes=tally.copies * expert_bytes,
        failures=tally.failures,
        is_off=ladder.is_off,
    )
