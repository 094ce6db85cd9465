"""What this computer has and what of it this process may use; no torch, no numpy."""

from expertly.machine.allocating import keep_freed_memory
from expertly.machine.cores import MOST_THREADS, thread_count, usable_cores
from expertly.machine.describing import Machine, describe
from expertly.machine.memory import available_memory_bytes, resident_bytes, total_memory_bytes

__all__ = [
    "MOST_THREADS",
    "Machine",
    "available_memory_bytes",
    "describe",
    "keep_freed_memory",
    "resident_bytes",
    "thread_count",
    "total_memory_bytes",
    "usable_cores",
]
