from pathlib import Path

import pytest
from machine_files import CGROUP, V1, V2, machine_at

from expertly.machine import available_memory_bytes
from expertly.machine.memory import total_memory_bytes

MEMINFO = {"proc/meminfo": "MemTotal:  4000 kB\nMemFree: 10 kB\nMemAvailable:  3000 kB\nodd\n"}
UNLIMITED_V1 = str(2**63 - 4096)


def test_the_system_says_what_is_available(tmp_path: Path) -> None:
    assert available_memory_bytes(machine_at(tmp_path, MEMINFO)) == 3000 * 1024
    assert total_memory_bytes(tmp_path) == 4000 * 1024


def test_this_machine_has_memory_left_and_less_than_all() -> None:
    assert 0 < available_memory_bytes() <= total_memory_bytes()


def test_without_a_word_from_the_system_physical_memory_counts(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path) == total_memory_bytes(tmp_path) > 2**20


@pytest.mark.parametrize(
    ("limit", "used", "stat", "left"),
    [
        ("max", "100", "", 3000 * 1024),
        ("1000000", "400000", "", 600000),
        ("1000000", "400000", "anon 5\ninactive_file 100000\n", 700000),
        ("1000000", "400000", "inactive_file 900000\n", 1000000),
        ("1000000", "1200000", "", 0),
        ("1000000000", "0", "", 3000 * 1024),
    ],
)
def test_a_limit_of_version_2_leaves_what_is_not_used(
    tmp_path: Path, limit: str, used: str, stat: str, left: int
) -> None:
    folder = f"{CGROUP}/a/b"
    files = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    named = {f"{folder}/{name}": text + "\n" for name, text in files.items()}
    root = machine_at(tmp_path, {**MEMINFO, **V2, **named})
    assert available_memory_bytes(root) == left


@pytest.mark.parametrize(("limit", "left"), [(UNLIMITED_V1, 3000 * 1024), ("900000", 650000)])
def test_a_limit_of_version_1_leaves_what_is_not_used(
    tmp_path: Path, limit: str, left: int
) -> None:
    folder = f"{CGROUP}/memory/a"
    files = {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": "300000\n",
        f"{folder}/memory.stat": "inactive_file 7\ntotal_inactive_file 50000\n",
    }
    root = machine_at(tmp_path, {**MEMINFO, **V1, **files})
    assert available_memory_bytes(root) == left


def test_all_memory_is_no_more_than_a_group_may_have(tmp_path: Path) -> None:
    root = machine_at(tmp_path, {**MEMINFO, **V2, f"{CGROUP}/a/memory.max": "70000\n"})
    assert total_memory_bytes(root) == 70000
