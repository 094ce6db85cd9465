import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine_files import CGROUP, V1, V2, machine_at

from expertly.errors import InputError
from expertly.machine import MOST_THREADS, thread_count, usable_cores


def test_without_groups_all_allowed_cores_are_usable(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, allowed=6) == 6


def test_the_system_says_which_cores_are_allowed(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_this_machine_has_at_least_one_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("350000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("5 0\n", 8),
        ("garbage\n", 8),
        ("", 8),
    ],
)
def test_a_quota_of_version_2_bounds_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    root = machine_at(tmp_path, {**V2, f"{CGROUP}/a/b/cpu.max": text})
    assert usable_cores(root, allowed=8) == cores


def test_the_tightest_group_around_a_process_counts(tmp_path: Path) -> None:
    quotas = {f"{CGROUP}/a/b/cpu.max": "600000 100000", f"{CGROUP}/a/cpu.max": "300000 100000"}
    assert usable_cores(machine_at(tmp_path, {**V2, **quotas}), allowed=8) == 3


def test_a_container_that_sees_only_its_own_top_reads_that(tmp_path: Path) -> None:
    root = machine_at(tmp_path, {**V2, f"{CGROUP}/cpu.max": "200000 100000"})
    assert usable_cores(root, allowed=8) == 2


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("150000", 1), ("400000", 4), ("x", 8)])
@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_version_1_bounds_the_cores(
    tmp_path: Path, quota: str, cores: int, folder: str
) -> None:
    files = {
        f"{CGROUP}/{folder}/a/cpu.cfs_quota_us": quota,
        f"{CGROUP}/{folder}/a/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(machine_at(tmp_path, {**V1, **files}), allowed=8) == cores


def test_a_path_that_climbs_out_of_the_groups_is_not_followed(tmp_path: Path) -> None:
    files = {**V2, "proc/self/cgroup": "0::/../../outside\n", "sys/outside/cpu.max": "1 1"}
    assert usable_cores(machine_at(tmp_path, files), allowed=8) == 8


@given(quota=st.integers(1, 10**9), period=st.integers(1, 10**6), allowed=st.integers(1, 512))
def test_cores_are_between_one_and_the_allowed(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int, allowed: int
) -> None:
    root = tmp_path_factory.mktemp("machine")
    machine_at(root, {**V2, f"{CGROUP}/a/b/cpu.max": f"{quota} {period}"})
    cores = usable_cores(root, allowed=allowed)
    assert 1 <= cores <= allowed
    assert cores == 1 or cores * period <= quota


def test_threads_are_as_many_as_asked_for_or_as_there_are_cores() -> None:
    assert thread_count(3) == 3 and thread_count(MOST_THREADS) == MOST_THREADS
    assert thread_count(None) == usable_cores()


@pytest.mark.parametrize("asked", [-1, 0, MOST_THREADS + 1])
def test_threads_that_no_machine_gains_by_are_refused(asked: int) -> None:
    with pytest.raises(InputError, match=f"threads={asked}: not from 1 to 1024"):
        thread_count(asked)
