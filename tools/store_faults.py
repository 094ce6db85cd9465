"""Faults while a model is streamed: no wrong token, no hang, nothing leaked.

    python tools/store_faults.py --faults 1000

Each round a bundled model, packed, with a quarter of its experts in memory, decodes a few tokens
while one read goes wrong. Ends with one line of JSON.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from faulty_disk import FAULTS, LASTING, FaultyDisk
from torch import Tensor

from expertly.checkpoint.apart import packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.checkpoint.streamed_loading import stream
from expertly.errors import CheckpointError
from expertly.model import NativeDecoder
from expertly.store import DirectDisk, Streamed

# the same, only that nobody waits so long for a thousand rounds
PATIENCE_SECONDS = 0.4
MOST_SECONDS = 10.0
IDS = [17 * n % 4000 for n in range(1, 13)]
_SLOTS = 32


class Bench:
    """One streamed model on a disk that can be told to go wrong, and what it should answer."""

    def __init__(self, folder: Path) -> None:
        apart = packed_apart(folder, threads=1)
        self.disk = FaultyDisk(DirectDisk(apart.experts.stamps))
        self.model = stream(apart, _SLOTS, threads=1, disk=self.disk)
        assert isinstance(self.model.store, Streamed)
        self.store = self.model.store
        self.store.patience_seconds = PATIENCE_SECONDS

    def decode(self) -> Tensor:
        cache = self.model.new_cache()
        parts = [self.model(torch.tensor([IDS[:6]]), cache=cache).logits]
        parts += [self.model(torch.tensor([[i]]), cache=cache).logits for i in IDS[6:]]
        return torch.cat(parts, dim=1)


def pack(folder: Path) -> Path:
    with open_folder(bundled()) as source:
        save_packed(source, folder, recipe_of_bits(4))
    return folder


def right_answer(folder: Path) -> Tensor:
    config, weights, _ = load_packed(folder)
    bench = object.__new__(Bench)
    bench.model = NativeDecoder(config, weights, threads=1)
    return bench.decode()


def one_round(bench: Bench, fault: str, after: int, right: Tensor) -> str:
    """What came of it: "right", "error", "interrupt", or what must not be."""
    bench.disk.arm(fault, after)
    begin = time.monotonic()
    try:
        found = "right" if torch.equal(bench.decode(), right) else "WRONG"
        # an interrupt may come late
        time.sleep(0.02 if fault == "interrupt" else 0.0)
    except CheckpointError:
        found = "error"
    except KeyboardInterrupt:
        found = "interrupt"
    seconds = time.monotonic() - begin
    bench.disk.heal()
    if fault in LASTING and bench.disk.happened and found != "error":
        found = f"{fault}: NO ERROR"
    if found == "error" and fault not in LASTING:
        found = f"{fault}: ERROR"
    return found if seconds < MOST_SECONDS else "HANG"


def leaks(bench: Bench) -> list[str]:
    """Slots that nobody can have any more, after a decode that nothing disturbs."""
    bench.decode()
    deadline = time.monotonic() + 5.0
    while bench.store.num_loading and time.monotonic() < deadline:
        bench.store.prefetch(0, [])
        time.sleep(0.001)
    slots = bench.store.slots
    return ["SLOTS"] * (len(slots) + slots.num_free != slots.count or bench.store.num_loading > 0)


def campaign(folder: Path, faults: int, seed: int = 0) -> dict[str, object]:
    # a shell ignores interrupts for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, right = random.Random(seed), right_answer(folder)
    outcomes: Counter[str] = Counter()
    longest, at_rest = 0.0, (_descriptors(), threading.active_count())
    bench = Bench(folder)
    done = 0
    while done < faults:
        begin = time.monotonic()
        outcome = one_round(bench, FAULTS[done % len(FAULTS)], rng.randrange(25), right)
        longest = max(longest, time.monotonic() - begin)
        if not bench.disk.happened:
            continue
        done += 1
        outcomes[outcome] += 1
        outcomes.update(leaks(bench))
        if done % 50 == 0:
            bench.store.close()
            bench = Bench(folder)
    bench.store.close()
    if (left := (_descriptors(), threading.active_count())) != at_rest:
        outcomes[f"LEAK of files or threads {at_rest} {left}"] += 1
    return {"faults": done, "longest_seconds": longest, "outcomes": dict(outcomes)}


def is_good(result: dict[str, object]) -> bool:
    outcomes = result["outcomes"]
    assert isinstance(outcomes, dict)
    return set(outcomes) <= {"right", "error", "interrupt"}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pack(Path(temporary) / "packed")
        result = campaign(folder, options.faults, options.seed)
    print(json.dumps(result))
    return 0 if is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
