"""What a store says of itself, held against the best possible, by hand."""

import pytest

from expertly.store.report import report
from expertly.store.tally import Tally

# with room for one of two experts that take turns: keeping the first finds it once
TURNS = [(0, (0,)), (0, (1,)), (0, (0,)), (0, (1,))]


def tally(**counts: int) -> Tally:
    return Tally(visits=list(TURNS), turns=len(TURNS), **counts)


def test_what_was_kept_is_held_against_the_best_that_could_be() -> None:
    found = report(tally(hits=1, misses=3), 1, 2.0)
    assert (found.hit_rate, found.best_hit_rate, found.regret) == (0.25, 0.25, 0.0)


def test_what_was_read_ahead_is_not_called_kept() -> None:
    found = report(tally(hits=3, misses=1, foreseen=3, wasted=2, turns_ahead=1), 1, 2.0)
    assert found.hit_rate == 0.0 and found.best_hit_rate == 0.25
    assert found.regret == pytest.approx(1 / 3)
    assert str(found).startswith(
        "experts: 0.0% of 4 uses kept in memory (at best 25.0%; 33% more misses than that), "
        "3 more read ahead (2 in vain; in 25% of the turns), 0.0 MB read"
    )


def test_a_store_that_nobody_used_says_so_without_dividing_by_nothing() -> None:
    found = report(Tally(), 1, 0.0)
    assert (found.uses, found.hit_rate, found.regret, found.stall_share) == (0, 0.0, 0.0, 0.0)


def test_the_disk_is_used_as_far_as_bytes_and_time_say() -> None:
    found = report(tally(hits=1, misses=3, read_bytes=50), 1, 2.0, disk_bytes_per_second=100.0)
    assert found.share_of_disk == 0.25
    assert "25% of it used" in str(found)
