"""How much memory a process may still take."""

import os
from pathlib import Path

from expertly.machine.cgroups import Group, groups, number, read


def available_memory_bytes(root: Path = Path("/")) -> int:
    """What the system can give without swapping, no more than the control groups leave.

    Pages of files that a group has not used lately do not count as its usage: they are dropped
    when memory is asked for.
    """
    left = [room for group in groups("memory", root) if (room := _room(group)) is not None]
    return max(0, min([_system_bytes(root), *left]))


def resident_bytes(root: Path = Path("/")) -> int:
    """What this process has in memory now, shared libraries included."""
    words = read(root / "proc" / "self" / "statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def total_memory_bytes(root: Path = Path("/")) -> int:
    """All memory of the machine, or the smallest limit of the control groups."""
    limits = [limit for group in groups("memory", root) if (limit := _limit(group)) is not None]
    return min([_meminfo(root).get("MemTotal", _physical_bytes()), *limits])


def _system_bytes(root: Path) -> int:
    return _meminfo(root).get("MemAvailable", _physical_bytes())


def _meminfo(root: Path) -> dict[str, int]:
    """Lines such as `MemAvailable:   123 kB`, in bytes."""
    found = {}
    for line in read(root / "proc" / "meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[0].isdecimal() and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(group: Group) -> int | None:
    return number(group.folder / ("memory.max", "memory.limit_in_bytes")[group.version == 1])


def _room(group: Group) -> int | None:
    limit = _limit(group)
    used = number(group.folder / ("memory.current", "memory.usage_in_bytes")[group.version == 1])
    if limit is None or used is None:
        return None
    return limit - max(0, used - _droppable(group))


def _droppable(group: Group) -> int:
    name = ("inactive_file", "total_inactive_file")[group.version == 1]
    for line in read(group.folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0
