"""A model larger than its memory, measured from outside: `python -m benchmarks.stored MODEL --limit
2GiB`. A process of its own decodes within a memory control group; its reads are those that the
system counted (/proc/PID/io), and the disk is measured before and after."""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from expertly.planner import parse_bytes
from expertly.store.probe import DiskProbe

_GROUPS = Path("/sys/fs/cgroup/memory")
_NAME = "expertly-stored"
# of what a limit allows, what is given to us: the system counts a little that we do not
_OURS = 0.9

CHILD = """
import sys, time, torch
from expertly import load
from expertly.bench.modelled import MEASURED, drawn
from expertly.bench.work import random_ids
from expertly.checkpoint.streamed_loading import num_chosen, num_experts
model = load(sys.argv[1], memory=int(sys.argv[2]), context=1024, threads=int(sys.argv[3]))
model.rechoose = drawn(MEASURED, num_experts(model.config), num_chosen(model.config))
ids = random_ids(model.config.vocab_size, 4096, 0)
print(model.budget, file=sys.stderr, flush=True)
end, at, cache = time.monotonic() + float(sys.argv[4]), 0, model.new_cache()
while time.monotonic() < end:
    if cache.lengths[0] >= 1000:
        cache = model.new_cache()
    model(torch.tensor([[ids[at % 4096]]]), cache=cache, logits="last")
    at += 1
    print(f"{time.monotonic():.6f}", flush=True)
"""
PEER = """
import sys, time, random
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=1024, n_threads=int(sys.argv[3]), verbose=False)
source, end = random.Random(0), time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    model.eval([source.randrange(model.n_vocab())])
    print(f"{time.monotonic():.6f}", flush=True)
"""


@contextmanager
def limited(num_bytes: int) -> Iterator[Path]:
    """A memory control group (version 1), for whoever may make one."""
    group = _GROUPS / _NAME
    group.mkdir(exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(str(num_bytes))
    (group / "memory.max_usage_in_bytes").write_text("0")
    try:
        yield group
    finally:
        time.sleep(0.5)
        group.rmdir()


def run(python: str, code: str, model: Path, limit: int, threads: int, seconds: float) -> dict:
    """Tokens and their times, in a process that began inside of the limit."""
    memory = int(limit * _OURS)
    with limited(limit) as group:
        inside = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        arguments = [python, "-c", code, str(model), str(memory), str(threads), str(seconds)]
        process = subprocess.Popen(
            ["sh", "-c", inside, "sh", *arguments], stdout=subprocess.PIPE, text=True
        )
        times, read = [], []
        assert process.stdout is not None
        began = time.monotonic()
        # a process that makes no progress is not waited for
        watch = threading.Timer(seconds + 240, process.kill)
        watch.start()
        for line in process.stdout:
            times.append(float(line))
            read.append(_read_bytes(process.pid) or read[-1])
        ended = process.wait()
        watch.cancel()
        peak = int((group / "memory.max_usage_in_bytes").read_text())
    return {"exit": ended, "start": began, "times": times, "read": read, "peak_bytes": peak}


def _read_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def summary(found: dict, disk: float) -> dict[str, object]:
    """Of all tokens but the first ten, which fill the arena."""
    times, read = found["times"][10:], found["read"][10:]
    if len(times) < 20:
        return {"exit": found["exit"], "tokens": len(found["times"]), "peak": found["peak_bytes"]}
    steps = [b - a for a, b in pairwise(times)]
    seconds, middle = times[-1] - times[0], len(steps) // 2
    return {
        "exit": found["exit"],
        "tokens": len(found["times"]),
        "tokens_per_second": round(len(steps) / seconds, 2),
        "megabytes_a_token": round((read[-1] - read[0]) / len(steps) / 1e6, 1),
        "read_gigabytes_per_second": round((read[-1] - read[0]) / seconds / 1e9, 3),
        "share_of_disk": round((read[-1] - read[0]) / seconds / disk, 3),
        "p99_to_median": round(_quantile(steps, 0.99) / statistics.median(steps), 2),
        "second_half_to_first": round(sum(steps[:middle]) / sum(steps[middle : 2 * middle]), 3),
        "peak_bytes": found["peak_bytes"],
    }


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stored", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--limit", type=parse_bytes, default=2 << 30)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--expert-bytes", type=int, default=1 << 20, help="of a probe's reads")
    parser.add_argument("--peer-python", help="an interpreter that has llama-cpp-python")
    options = parser.parse_args()
    model = options.model
    files = [model] if model.is_file() else [*model.glob("*.safetensors")]
    probe = DiskProbe(
        {file: file.stat().st_size for file in files}, options.expert_bytes, seconds=2
    )
    before = probe.rate()
    given = (model, options.limit, options.threads, options.seconds)
    ours = run(sys.executable, CHILD, *given)
    disk = statistics.mean((before, probe.rate()))
    result = {"model": model.name, "limit": options.limit, "disk_bytes_per_second": round(disk),
              "ours": summary(ours, disk)}  # fmt: skip
    if options.peer_python:
        peer = run(
            options.peer_python, PEER, model, options.limit, options.threads, options.seconds
        )
        result["llama.cpp"] = summary(peer, disk)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
