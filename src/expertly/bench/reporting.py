"""What was measured, as a table for people and as one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expertly.bench.limits import Limit
from expertly.bench.measuring import Reading, Row
from expertly.machine import Machine

_HEADER = f"{'work':<29}{'engine':<11}{'tokens/s':>10}{'quartiles':>20}{'of limit':>10}{'ratio':>8}"


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
    found = (
        f"{work + streams:<29}{row.engine:<11}{row.tokens_per_second:>10.1f}"
        f"{f'{low:.1f} to {high:.1f}':>20}{row.share_of_limit:>10.0%}{ratio:>8}"
    )
    return found if row.reading is None else f"{found}\n{_read(row.reading)}"


def _read(reading: Reading) -> str:
    return (
        f"  experts: {reading.hit_rate:.1%} kept in memory (at best {reading.best_hit_rate:.1%}; "
        f"{reading.regret:.0%} more misses than that), {reading.bytes_per_token / 1e6:,.1f} MB "
        f"read a token, {reading.stall_share:.0%} waited; disk "
        f"{reading.disk_bytes_per_second / 1e9:.2f} GB/s, {reading.share_of_disk:.0%} of it used"
    )


def line(
    *,
    machine: Machine,
    threads: int,
    kernels: str,
    limits: Mapping[Limit, float],
    rows: Sequence[Row],
    named: Mapping[str, Any],
) -> str:
    """One JSON object; rates are a second's. `named`: the model, and what else the run was of."""
    found = {
        "machine": {**machine.to_dict(), "threads": threads, "kernels": kernels},
        **named,
        "limits": {name: round(rate) for name, rate in limits.items()},
        "rows": [row.to_dict() for row in rows],
    }
    return json.dumps(found)
