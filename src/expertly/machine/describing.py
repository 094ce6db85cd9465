"""One line about this machine, for reports of what was measured on it."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expertly.machine.cgroups import read
from expertly.machine.cores import usable_cores
from expertly.machine.memory import total_memory_bytes


@dataclass(frozen=True, kw_only=True)
class Machine:
    processor: str
    cores: int  # that this process may use
    features: tuple[str, ...]  # kernel sets that run here, the best first
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "features": list(self.features)}

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        features = ", ".join(self.features)
        return f"{self.processor}, {self.cores} cores, {memory}, {features}"


def describe(features: Sequence[str], root: Path = Path("/")) -> Machine:
    """`features`: what the extension found that processor and system can run; the names of flags
    in /proc are not asked, as they do not say what the system saves."""
    return Machine(
        processor=_processor(root),
        cores=usable_cores(root),
        features=tuple(features),
        memory_bytes=total_memory_bytes(root),
    )


def _processor(root: Path) -> str:
    for line in read(root / "proc" / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"
