"""`expertly observe trace FILE`: what memory would bring, by what a model was seen to choose."""

import json
from collections.abc import Sequence
from pathlib import Path

from expertly.cli.plan import human
from expertly.errors import InputError
from expertly.planner import parse_bytes
from expertly.store.forecast import Line, Rates, forecast
from expertly.store.trace import Trace, read_trace


def observe_trace(files: Sequence[Path], disk: str, ram: str, is_json: bool) -> None:
    """Raises InputError unless `files` is one trace."""
    if len(files) != 1:
        raise InputError(f"{len(files)} traces", hint="expertly observe trace FILE")
    rates = Rates(disk=parse_bytes(disk), memory=parse_bytes(ram))
    trace = read_trace(files[0])
    lines = forecast(trace, rates)
    if is_json:
        about = {"tokens": trace.num_tokens, "working_set_bytes": trace.about.working_set_bytes}
        print(json.dumps({**about, "budgets": [line.to_dict() for line in lines]}))
    else:
        print("\n".join(table(trace, lines, rates)))


def table(trace: Trace, lines: Sequence[Line], rates: Rates) -> list[str]:
    """Rows of text; the cliff is a row of its own, where it lies."""
    about = trace.about
    names = list(lines[0].hit_rates)
    head = f"{'experts in memory':>18} " + " ".join(f"{name:>9}" for name in names)
    rows = [
        f"{trace.num_tokens:,} tokens, {human(about.all_expert_bytes)} of experts, "
        f"{human(about.working_set_bytes)} a token; hit rates by policy, then what the first "
        f"reads and would reach",
        f"(disk {human(int(rates.disk))}/s, memory {human(int(rates.memory))}/s, nothing overlaps)",
        "",
        f"{head} {'read/token':>11} {'tokens/s':>9} {'at best':>9}",
    ]
    is_below = False
    for line in lines:
        if is_below and not line.is_below_cliff:
            size = human(about.working_set_bytes)
            rows.append(f"{'--- one token':>18} {size}: with less, lru finds next to nothing")
        is_below = line.is_below_cliff
        rates_text = " ".join(f"{rate:>9.1%}" for rate in line.hit_rates.values())
        size = f"{line.share:.0%} {human(line.expert_bytes)}"
        rows.append(
            f"{size:>18} {rates_text} {human(int(line.bytes_per_token)):>11} "
            f"{line.tokens_per_second:>9.1f} {line.best_tokens_per_second:>9.1f}"
        )
    return rows
