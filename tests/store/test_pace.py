"""How quick work is, learned from what it took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertly.store.pace import Pace


def test_nothing_is_known_at_first_and_costs_nothing() -> None:
    pace = Pace()
    assert not pace.is_known and pace.is_stale and pace.seconds(3, 9) == 0.0


def test_the_first_measurement_is_what_the_same_work_takes() -> None:
    pace = Pace()
    pace.took(6.0, experts=2, rows=16)
    # 2 experts and 16 rows of a sixteenth each are 3 shares of 2 seconds
    assert pace.seconds(1, 0) == pytest.approx(2.0) and pace.seconds(0, 16) == pytest.approx(2.0)
    assert pace.seconds(2, 16) == pytest.approx(6.0)


@pytest.mark.parametrize(("expert", "row"), [(2e-4, 2e-5), (1e-5, 1e-7), (1e-4, 1e-4), (3.0, 5.0)])
def test_both_shares_are_found_from_small_and_large_work(expert: float, row: float) -> None:
    pace = Pace()
    for turn in range(400):
        experts, rows = [(8, 8), (60, 2000), (3, 90)][turn % 3]
        pace.took(experts * expert + rows * row, experts, rows)
    for experts, rows in ((8, 8), (60, 2000), (10, 100)):
        right = experts * expert + rows * row
        assert pace.seconds(experts, rows) == pytest.approx(right, rel=0.02)


def test_a_pause_of_the_machine_moves_little() -> None:
    pace = Pace()
    for _ in range(20):
        pace.took(1.0, 1, 0)
    pace.took(1000.0, 1, 0)
    # four times the expected, a fifth of that is taken over
    assert pace.seconds(1, 0) == pytest.approx(1.6)
    for _ in range(20):
        pace.took(1.0, 1, 0)
    assert pace.seconds(1, 0) == pytest.approx(1.0, rel=0.02)


def test_what_was_not_measured_for_256_turns_is_stale_until_it_is() -> None:
    pace = Pace()
    pace.took(1.0, 1, 1)
    for _ in range(255):
        pace.rest()
    assert not pace.is_stale
    pace.rest()
    assert pace.is_stale
    pace.took(1.0, 1, 1)
    assert not pace.is_stale


def test_work_without_experts_or_time_teaches_nothing() -> None:
    pace = Pace()
    pace.took(0.0, 1, 1)
    pace.took(1.0, 0, 0)
    assert not pace.is_known


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 1e6, allow_subnormal=False), st.integers(0, 128), st.integers(0, 10**6)
        ),
        max_size=60,
    )
)
def test_no_share_ever_gets_negative_or_infinite(measured) -> None:
    pace = Pace()
    for seconds, experts, rows in measured:
        pace.took(seconds, experts, rows)
        assert 0.0 <= pace.seconds(1, 0) < 1e12 and 0.0 <= pace.seconds(0, 1) < 1e12
