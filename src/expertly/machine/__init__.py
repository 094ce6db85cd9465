"""What this computer has and what of it this process may use; no torch, no numpy."""

from expertly.machine.allocating import keep_freed_memory
from expertly.machine.cores import usable_cores
from expertly.machine.describing import Machine, describe
from expertly.machine.memory import available_memory_bytes, resident_bytes

__all__ = [
    "Machine",
    "available_memory_bytes",
    "describe",
    "keep_freed_memory",
    "resident_bytes",
    "usable_cores",
]
