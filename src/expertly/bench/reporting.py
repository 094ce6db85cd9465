"""What was measured, as a table for people and as one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expertly.bench.limits import Limit
from expertly.bench.measuring import Row
from expertly.machine import Machine

_HEADER = f"{'work':<29}{'engine':<11}{'tokens/s':>10}{'quartiles':>18}{'of limit':>10}{'ratio':>8}"


def header(machine: Machine, threads: int, kernels: str, limits: Mapping[Limit, float]) -> str:
    """Two lines about the machine, then the names of the columns."""
    read, int8, bf16 = (
        limits[name]
        for name in ("read_bytes_per_second", "int8_ops_per_second", "bf16_flops_per_second")
    )
    return (
        f"{machine}; {threads} threads, {kernels} kernels\n"
        f"limits: {read / 1e9:.1f} GB/s read, {int8 / 1e9:.0f} GOP/s int8, "
        f"{bf16 / 1e9:.0f} GFLOP/s bf16\n{_HEADER}"
    )


def table_row(row: Row) -> str:
    work = f"prefill of {row.length}" if row.phase == "prefill" else f"decode at {row.length}"
    streams = f", {row.batch} streams" if row.batch > 1 else ""
    low, high = row.spread
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return (
        f"{work + streams:<29}{row.engine:<11}{row.tokens_per_second:>10.1f}"
        f"{f'{low:.1f} to {high:.1f}':>18}{row.share_of_limit:>10.0%}{ratio:>8}"
    )


def line(
    *,
    model: str,
    machine: Machine,
    threads: int,
    kernels: str,
    limits: Mapping[Limit, float],
    rows: Sequence[Row],
    peer: Mapping[str, Any] | None,
) -> str:
    """One JSON object; rates are a second's."""
    found = {
        "machine": {**machine.to_dict(), "threads": threads, "kernels": kernels},
        "model": model,
        "limits": {name: round(rate) for name, rate in limits.items()},
        "rows": [row.to_dict() for row in rows],
    }
    return json.dumps(found if peer is None else {**found, "peer": dict(peer)})
