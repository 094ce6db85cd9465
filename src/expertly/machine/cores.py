"""How many threads are worth starting."""

import os
from pathlib import Path

from expertly.errors import InputError
from expertly.machine.cgroups import Group, groups, number, read

# more than any machine gains by, and fewer than break one
MOST_THREADS = 1024


def thread_count(asked: int | None) -> int:
    """`asked` threads, or one for each usable core. Raises InputError below 1 and beyond
    MOST_THREADS."""
    if asked is None:
        return min(usable_cores(), MOST_THREADS)
    if not 1 <= asked <= MOST_THREADS:
        raise InputError(
            f"threads={asked}: not from 1 to {MOST_THREADS}",
            hint=f"leave it out: {usable_cores()} here, one for each core",
        )
    return asked


def usable_cores(root: Path = Path("/"), allowed: int | None = None) -> int:
    """Cores that this process may run on (`allowed`, or what the system says), no more than its
    control groups' share of processor time in whole cores; at least 1."""
    cores = _allowed() if allowed is None else allowed
    shares = [share for group in groups("cpu", root) if (share := _share(group)) is not None]
    return max(1, int(min([cores, *shares])))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _share(group: Group) -> float | None:
    """Cores' worth of time in a period; None without a limit."""
    if group.version == 2:
        quota, _, period = read(group.folder / "cpu.max").strip().partition(" ")
        if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0:
            return None
        return int(quota) / int(period)
    given = number(group.folder / "cpu.cfs_quota_us")
    every = number(group.folder / "cpu.cfs_period_us")
    return given / every if given and every and given > 0 and every > 0 else None
