"""What is read of a finished run: numbers from its metrics, pure functions of them."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertly.config import ModelConfig
from expertly.families import read_config
from expertly.planner.costs import active_params

Row = Mapping[str, Any]
LATE = 1 / 3  # the share of a run, at its end, that its router is judged by


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`tokens` and `bits` are the curve of mean bits per byte over the evaluations."""

    rows: tuple[Row, ...]
    tokens: tuple[int, ...]
    bits: tuple[float, ...]
    flops_per_token: float  # of a training step: forward 2, backward 4 a weight that is computed


def read_outcome(folder: Path) -> Outcome:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config = read_config(json.loads((folder / "final" / "config.json").read_text()))
    return outcome_of(rows, config)


def outcome_of(rows: Sequence[Row], config: ModelConfig) -> Outcome:
    seen = {row["step"]: row["tokens"] for row in rows if row["kind"] == "step"}
    curve = [row for row in rows if row["kind"] == "evaluation"]
    return Outcome(
        rows=tuple(rows),
        tokens=tuple(seen[row["step"]] for row in curve),
        bits=tuple(statistics.mean(row["bits_per_byte"].values()) for row in curve),
        flops_per_token=6.0 * active_params(config),
    )


def bits_per_byte(outcome: Outcome) -> float:
    """Of the last evaluation, the mean over domains."""
    return outcome.bits[-1]


def seconds(outcome: Outcome) -> float:
    """What the run took, evaluations and checkpoints too."""
    return float([row for row in outcome.rows if row["kind"] == "step"][-1]["seconds"])


def tokens_per_second(outcome: Outcome) -> float:
    last = [row for row in outcome.rows if row["kind"] == "step"][-1]
    return float(last["tokens"] / last["seconds"])


def max_violation(outcome: Outcome) -> float:
    """MaxVio of a step's rows, the mean over layers and over the run's last third."""
    late = _late_readings(outcome)
    return statistics.mean(row["max_violation"] for row in late) if late else 0.0


def dead_experts(outcome: Outcome) -> float:
    """Experts below 1% of their fair share of a step's rows, over all layers; the mean over the
    readings of the last third."""
    late = _late_readings(outcome)
    steps = {row["step"] for row in late}
    return sum(len(row["dead"]) for row in late) / len(steps) if steps else 0.0


def warned_at(outcome: Outcome) -> float:
    """The first step at which the watch warned; infinity if it never did."""
    return min(
        (row["step"] for row in outcome.rows if row["kind"] == "warning"), default=float("inf")
    )


def _late_readings(outcome: Outcome) -> list[Row]:
    readings = [row for row in outcome.rows if row["kind"] == "router"]
    last = max((row["step"] for row in readings), default=0)
    return [row for row in readings if row["step"] > (1 - LATE) * last]


def tokens_to(outcome: Outcome, bits: float) -> float:
    """Tokens after which the curve first is at `bits`, between evaluations on a straight line;
    infinity if it never is."""
    before: tuple[int, float] | None = None
    for tokens, now in zip(outcome.tokens, outcome.bits, strict=True):
        if now <= bits:
            if before is None or now == before[1]:
                return float(tokens)
            share = (before[1] - bits) / (before[1] - now)
            return before[0] + share * (tokens - before[0])
        before = (tokens, now)
    return float("inf")


# of one run by itself
MEASURES: dict[str, Callable[[Outcome], float]] = {
    "bits_per_byte": bits_per_byte,
    "tokens_per_second": tokens_per_second,
    "max_violation": max_violation,
    "dead_experts": dead_experts,
    "warned_at": warned_at,
}


def tokens_saved(outcome: Outcome, other: Outcome) -> float:
    """How many times fewer tokens than `other` it took to be where `other` ended."""
    return other.tokens[-1] / tokens_to(outcome, other.bits[-1])


def flops_saved(outcome: Outcome, other: Outcome) -> float:
    """The same in floating-point operations."""
    return tokens_saved(outcome, other) * other.flops_per_token / outcome.flops_per_token


# of one run against that of another arm with the same seed
AGAINST: dict[str, Callable[[Outcome, Outcome], float]] = {
    "tokens_saved": tokens_saved,
    "flops_saved": flops_saved,
}
