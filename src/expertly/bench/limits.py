"""The machine's limits, probed beside every measurement, as shared machines drift."""

from statistics import median
from typing import Literal

from expertly import _native

Limit = Literal["read_bytes_per_second", "int8_ops_per_second", "bf16_flops_per_second"]
LIMITS: tuple[Limit, ...] = (
    "read_bytes_per_second",
    "int8_ops_per_second",
    "bf16_flops_per_second",
)

_BUFFER_BYTES = 512 << 20
_SECONDS = 0.04


class Probe:
    """Probes on the threads of `runtime`; `limits` are the medians of all that was found."""

    def __init__(self, runtime: _native.Runtime, num_bytes: int | None = None) -> None:
        self._runtime = runtime
        self._buffer = _native.Buffer(num_bytes or _BUFFER_BYTES)
        # pages that were never written are all one page of zeros, which no memory is read for
        self._buffer.array().fill(1)
        self._found: dict[Limit, list[float]] = {limit: [] for limit in LIMITS}
        for limit in LIMITS:
            self.rate(limit)

    def rate(self, limit: Limit) -> float:
        """What the machine does now, a second."""
        if limit == "read_bytes_per_second":
            found = _native.read_bandwidth(self._runtime, self._buffer, _SECONDS)
        elif limit == "int8_ops_per_second":
            found = _native.int8_peak(self._runtime, _SECONDS)
        else:
            found = _native.bf16_peak(self._runtime, _SECONDS)
        self._found[limit].append(found)
        return found

    @property
    def limits(self) -> dict[Limit, float]:
        return {limit: median(rates) for limit, rates in self._found.items()}
