"""What a bench says of a store: counts of its rounds, by hand."""

from types import SimpleNamespace

import pytest

from expertly.bench.stored import StoredBench, _Round

# with room for one of two experts that take turns, keeping the first finds it once
TURNS = [(0, (0,)), (0, (1,)), (0, (0,)), (0, (1,))]


def reading(*, hits: int, misses: int, foreseen: int):
    store = SimpleNamespace(
        tally=SimpleNamespace(visits=TURNS), slots=SimpleNamespace(count=1), experts=None
    )
    bench = StoredBench(None, store, None, None, [0], 1)
    found = _Round(
        seconds=2.0,
        bound=1.0,
        disk_rate=100.0,
        hits=hits,
        misses=misses,
        foreseen=foreseen,
        read_bytes=50,
        stall_seconds=0.5,
    )
    return bench._reading(5, [found], 0)


def test_experts_read_ahead_were_not_kept() -> None:
    found = reading(hits=3, misses=1, foreseen=3)
    assert (found.hit_rate, found.best_hit_rate) == (0.0, 0.25)
    assert found.regret == pytest.approx(1 / 3)


def test_bytes_waits_and_the_disks_share_are_of_the_rounds() -> None:
    found = reading(hits=1, misses=3, foreseen=0)
    assert (found.hit_rate, found.regret) == (0.25, 0.0)
    assert (found.bytes_per_token, found.stall_share, found.share_of_disk) == (10.0, 0.25, 0.25)
