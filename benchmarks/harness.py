"""Interleaved timing: A B A B, because shared machines drift; only ratios within a run count."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Median milliseconds a path, and each path's median ratio to the first one with its spread
    (the quartiles of the pairs' ratios)."""

    milliseconds: dict[str, float]
    ratio: dict[str, float]
    spread: dict[str, tuple[float, float]]


def interleave(paths: Mapping[str, Work], pairs: int = 9, least_seconds: float = 0.02) -> Timed:
    """Times every path once a round, in turn; the first is what the others are compared with."""
    repeats = _repeats(next(iter(paths.values())), least_seconds)
    for work in paths.values():
        work()
    rounds = [{name: _time(work, repeats) for name, work in paths.items()} for _ in range(pairs)]
    first = next(iter(paths))
    ratios = {name: sorted(r[name] / r[first] for r in rounds) for name in paths}
    return Timed(
        {name: 1e3 * statistics.median(r[name] for r in rounds) for name in paths},
        {name: statistics.median(ratio) for name, ratio in ratios.items()},
        {name: (ratio[pairs // 4], ratio[-1 - pairs // 4]) for name, ratio in ratios.items()},
    )


def _repeats(work: Work, least_seconds: float) -> int:
    work()
    return max(1, round(least_seconds / max(_time(work, 1), 1e-6)))


def _time(work: Work, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats


def machine() -> dict[str, object]:
    """What was measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "features": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
