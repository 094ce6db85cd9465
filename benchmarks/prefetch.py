"""Reading ahead, on a disk of set bandwidth and latency: `python -m benchmarks.prefetch`; on the
real one, with a model larger than its memory: `python -m benchmarks.prefetch --model FILE`.

The real store under a made-up decoder: layers that take a set time, choices drawn as real routers
were seen to choose, a forecast that names a share of the next layer's experts. Three disks: one
that is busy almost always, one half used, one idle; with and without reading ahead, in turns, and
in steady work as with pauses between tokens.
"""

import argparse
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from expertly.bench.modelled import MEASURED, drawn
from expertly.bench.work import random_ids
from expertly.checkpoint.apart import apart
from expertly.checkpoint.streamed_loading import num_chosen, num_experts, stream
from expertly.machine import usable_cores
from expertly.store import ExpectedUse, Streamed
from expertly.store.policies import Key

LAYERS, EXPERTS, CHOSEN, SHARE = 12, 64, 8, 0.4
EXPERT_BYTES = 2_000_000
BANDWIDTH, LATENCY = 2e9, 2e-4
TOKENS, PAIRS, REAL_PAIRS, ACCURACY = 24, 5, 15, 0.8
# of what a layer's missing experts take to read, so much is computed in a layer
DISKS = {"saturated": 0.05, "half used": 1.0, "idle": 6.0}
# between two tokens, as while somebody reads or a tool answers; not counted
PAUSES_SECONDS = (0.0, 0.1)


class Wheel:
    """A disk that gives one read after another, each after a latency of its own."""

    is_direct = True
    sizes: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self._free = 0.0
        self._lock = threading.Lock()

    def read(self, num_bytes: int) -> None:
        with self._lock:
            self._free = max(self._free, time.perf_counter()) + num_bytes / BANDWIDTH
            until = self._free + LATENCY
        time.sleep(max(0.0, until - time.perf_counter()))

    def close(self) -> None:
        pass


class Blobs:
    """Experts that are nothing but their bytes."""

    def __init__(self) -> None:
        self.disk = Wheel()

    def parts(self, key: Key, slot: int) -> list[Callable[[], None]]:
        return [partial(self.disk.read, EXPERT_BYTES // 2)] * 2

    def read_bytes(self, key: Key) -> int:
        return EXPERT_BYTES


def choices(tokens: int) -> list[list[list[int]]]:
    """Experts by token and layer."""
    made = drawn(MEASURED, [EXPERTS] * LAYERS, [CHOSEN] * LAYERS, tokens=max(tokens, 64))
    nothing, ids = np.zeros((1, CHOSEN), np.float32), np.zeros((1, CHOSEN), np.int32)
    first = np.array([0])

    def one(layer: int, token: int) -> list[int]:
        chosen, _ = made(layer, first, np.array([token]), ids, nothing, nothing)
        found: list[int] = chosen[0].tolist()
        return found

    return [[one(layer, token) for layer in range(LAYERS)] for token in range(tokens)]


def forecast(actual: list[int], source: random.Random) -> list[int]:
    return [e if source.random() < ACCURACY else source.randrange(EXPERTS) for e in actual]


class Run:
    """A store and where in the routing it is."""

    def __init__(
        self,
        compute_seconds: float,
        is_looking_ahead: bool,
        tokens: int,
        pause_seconds: float = 0.0,
    ) -> None:
        self.store = Streamed(
            Blobs(),  # type: ignore[arg-type]
            int(SHARE * LAYERS * EXPERTS),
            ExpectedUse([EXPERTS] * LAYERS),
            lambda layer, expert, slot: None,
            is_looking_ahead=is_looking_ahead,
        )
        self._compute = compute_seconds
        self._pause = pause_seconds
        self._choices = choices(tokens)
        self._source = random.Random(1)
        self._at = 0

    def seconds(self, tokens: int) -> float:
        spent = 0.0
        for _ in range(tokens):
            time.sleep(self._pause)
            began = time.perf_counter()
            self._token(self._choices[self._at])
            spent += time.perf_counter() - began
            self._at += 1
        return spent

    def _token(self, layers: list[list[int]]) -> None:
        for layer, experts in enumerate(layers):
            ahead = partial(self._ahead, layer + 1, layers) if layer + 1 < LAYERS else None
            for _ in self.store.get(layer, experts, ahead):
                pass
            time.sleep(self._compute)

    def _ahead(self, layer: int, layers: list[list[int]]) -> None:
        if self.store.looks_ahead():
            self.store.prefetch(layer, list(dict.fromkeys(forecast(layers[layer], self._source))))


class Real:
    """A model on the real disk, with its routers' choices, which forecasts foresee, or others'."""

    def __init__(self, path: Path, is_own: bool) -> None:
        model = apart(path, usable_cores())
        slots = int(SHARE * len(model.experts.pieces))
        self._model = stream(model, slots, usable_cores())
        config = self._model.config
        if not is_own:
            self._model.rechoose = drawn(MEASURED, num_experts(config), num_chosen(config))
        assert isinstance(self._model.store, Streamed)
        self.store = self._model.store
        self._ids = itertools.cycle(random_ids(config.vocab_size, 4096, 0))
        self._cache = self._model.new_cache()

    def seconds(self, tokens: int) -> float:
        began = time.perf_counter()
        for _ in range(tokens):
            ids = torch.tensor([[next(self._ids)]])
            self._model(ids, cache=self._cache, logits="last")
        return time.perf_counter() - began


@dataclass(frozen=True)
class RealRun:
    """With or without reading ahead, of one arena: two of them lie on other pages of memory, which
    alone made one a tenth quicker than the other."""

    real: Real
    is_looking_ahead: bool

    @property
    def store(self) -> Streamed:
        return self.real.store

    def seconds(self, tokens: int) -> float:
        self.store.is_looking_ahead = self.is_looking_ahead
        return self.real.seconds(tokens)


def compare(runs: dict[bool, "Run | RealRun"], pairs: int = PAIRS) -> dict[str, float]:
    """How much quicker reading ahead is: the median of pairs, and their quartiles."""
    for run in runs.values():
        run.seconds(TOKENS)
    ratios = []
    for pair in range(pairs):
        turns = (False, True) if pair % 2 else (True, False)
        seconds = {on: runs[on].seconds(TOKENS) for on in turns}
        ratios.append(seconds[False] / seconds[True])
    tally = runs[True].store.tally
    for run in runs.values():
        run.store.close()
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"quicker": middle, "low": low, "high": high,
            "foreseen": tally.foreseen, "wasted": tally.wasted}  # fmt: skip


def missing_seconds() -> float:
    """What reading a layer's missing experts takes, on average."""
    run = Run(0.0, False, 3 * TOKENS)
    run.seconds(2 * TOKENS)
    before = run.store.tally.misses
    run.seconds(TOKENS)
    misses = (run.store.tally.misses - before) / (TOKENS * LAYERS)
    run.store.close()
    return misses * EXPERT_BYTES / BANDWIDTH


def made_up() -> Iterator[tuple[str, dict[str, float]]]:
    each, tokens = missing_seconds(), (PAIRS + 1) * TOKENS
    for pause, (disk, share) in itertools.product(PAUSES_SECONDS, DISKS.items()):
        runs = {on: Run(share * each, on, tokens, pause) for on in (False, True)}
        yield f"{disk}, with pauses" if pause else disk, compare(runs)


def real(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for is_own, choices_of in ((True, "its routers' choices"), (False, "choices as measured")):
        model = Real(path, is_own)
        runs: dict[bool, Run | RealRun] = {on: RealRun(model, on) for on in (False, True)}
        yield f"{path.name}, {choices_of}", compare(runs, REAL_PAIRS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefetch", description=__doc__)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    found = {}
    for name, quicker in real(options.model) if options.model else made_up():
        found[name] = quicker
        said = {key: round(value, 3) for key, value in quicker.items()}
        print(f"{name}: {said}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
