"""What a planned step says against what local processes do: `python -m benchmarks.ranks`.

Steps of a small mixture on 1, 2 and 4 processes; the bytes that torch.distributed was asked to
move, the weights that a rank holds and the seconds that a step takes, beside `planner.training`'s
figures for the same layout. A rank's peak and link are probed by all ranks at once, which share
this machine's cores; the share of the peak that a step reaches is that of one process alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from expertly.families import read_config
from expertly.model import Decoder, initialise
from expertly.parallel import Ranks, joined, place
from expertly.planner.devices import Device
from expertly.planner.training import (
    FACTOR_BYTES,
    WEIGHT_BYTES,
    Mesh,
    rank_params,
    step_time,
    traffic,
)
from expertly.train.recipe import parse_recipe
from expertly.train.state import State, make_optimisers
from expertly.train.step import take_step

MODEL = {
    "model_type": "qwen3_moe",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
    "vocab_size": 1024,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
BATCH, SEQUENCE = 8, 128
RECIPE = f"""
[model]
model_type = "qwen3_moe"
[tokenizer]
vocab_size = 1024
[data]
texts = ["packaged:drama"]
sequence = {SEQUENCE}
[optimiser]
peak_lr = 1e-3
[run]
steps = 1000
batch = {BATCH}
[balance]
rule = "none"
z = 0.0
"""
# experts, data, in shards
LAYOUTS = [
    (1, 1, False),
    (2, 1, False),
    (1, 2, False),
    (1, 2, True),
    (2, 2, False),
    (2, 2, True),
    (4, 1, False),
    (1, 4, False),
    (1, 4, True),
]
# by layout
Figures = dict[tuple[int, int, bool], dict[str, float]]
STEPS, ROUNDS = 12, 3
_MATRIX, _LINK_NUMBERS = 512, 1 << 20


class Counted:
    """Bytes of this rank's exchanges of rows and sums, as they are asked for."""

    def __init__(self) -> None:
        self.rows = self.sums = 0
        self._rows, self._sum = dist.all_to_all_single, dist.all_reduce

    def __enter__(self) -> "Counted":
        dist.all_to_all_single, dist.all_reduce = self.all_to_all_single, self.all_reduce
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_to_all_single, dist.all_reduce = self._rows, self._sum

    def all_to_all_single(self, out, given, coming=None, leaving=None, group=None, **more):  # type: ignore[no-untyped-def]
        if given.is_floating_point():
            kept = leaving[dist.get_rank(group)]
            self.rows += (given.shape[0] - kept) * given[0].nbytes if len(given) else 0
        return self._rows(out, given, coming, leaving, group=group, **more)

    def all_reduce(self, x, *others, group=None, **more):  # type: ignore[no-untyped-def]
        size = dist.get_world_size(group)
        self.sums += 2 * x.nbytes * (size - 1) // size if x.numel() > 1000 else 0
        return self._sum(x, *others, group=group, **more)


def work(experts: int, data: int, is_sharded: bool) -> None:
    """One rank: its figures as a line of JSON, from the first one."""
    torch.set_num_threads(1)
    recipe = parse_recipe(RECIPE, name="ranks", folder=Path())
    with joined(experts, data, is_sharded=is_sharded) as ranks:
        model = Decoder(read_config(MODEL), dtype=torch.float32)
        initialise(model, 1, std=0.02)
        place(model, ranks)
        state = State(model=model.train(), optimisers=make_optimisers(model, recipe.optimiser))
        generator = torch.Generator().manual_seed(1)
        ids_BS = torch.randint(1024, (BATCH, SEQUENCE + 1), generator=generator)

        def step() -> None:
            take_step(state, recipe, [ids_BS], torch.float32, read=False, ranks=ranks)

        with Counted() as counted:
            step()
        held = sum(_local(parameter).nbytes for parameter in model.parameters())
        rows = float(ranks.sum(torch.tensor(float(counted.rows)))) / ranks.count
        flops, link = _flops(ranks), _link(ranks)
        exchange = _seconds(lambda: ranks.sum(torch.zeros(1)), ranks)
        seconds = _seconds(step, ranks)
        if ranks.is_first:
            print(json.dumps({"rows": rows, "sums": counted.sums, "weights": held, "flops": flops,
                              "link": link, "exchange": exchange, "seconds": seconds}))  # fmt: skip


def _local(parameter: torch.Tensor) -> torch.Tensor:
    local = getattr(parameter, "to_local", None)
    return parameter if local is None else local()


def _seconds(do: Callable[[], object], ranks: Ranks) -> float:
    """Of one call, all ranks at once: the median."""
    found = []
    for _ in range(STEPS):
        ranks.wait()
        began = time.perf_counter()
        do()
        ranks.wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _flops(ranks: Ranks) -> float:
    """A second, of this rank while the others compute too."""
    a, out = torch.rand(_MATRIX, _MATRIX), torch.empty(_MATRIX, _MATRIX)
    return 2 * 4 * _MATRIX**3 / _seconds(lambda: [torch.mm(a, a, out=out) for _ in range(4)], ranks)


def _link(ranks: Ranks) -> float:
    """Bytes a second that a rank sends in a sum over all; no time where it is alone."""
    if ranks.count == 1:
        return float("inf")
    x = torch.rand(_LINK_NUMBERS)
    sent = 2 * x.nbytes * (ranks.count - 1) / ranks.count
    return sent / _seconds(lambda: dist.all_reduce(x), ranks)


def planned(mesh: Mesh, measured: dict[str, float], efficiency: float) -> dict[str, float]:
    config = read_config(MODEL)
    tokens = BATCH * SEQUENCE // mesh.count
    sent = traffic(config, mesh, tokens)
    where = Device(
        name="here",
        memory_bytes=0,
        flops=measured["flops"],
        node_link=measured["link"],
        net_link=measured["link"],
        exchange_seconds=measured["exchange"],
        devices_a_node=mesh.count,
        source="probed",
    )
    took = step_time(config, mesh, where, tokens, SEQUENCE, efficiency)
    # rows are bfloat16 in the plan, float32 here; nothing overlaps
    wide = WEIGHT_BYTES / FACTOR_BYTES
    return {
        "rows": sent.rows * wide,
        "sums": sent.gradients,
        "weights": WEIGHT_BYTES * rank_params(config, mesh),
        "seconds": took.compute + took.rows * wide + took.weights + took.exchanges,
    }


def measured(experts: int, data: int, is_sharded: bool) -> dict[str, float]:
    count = experts * data
    begin = [sys.executable]
    if count > 1:
        begin += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "rank.py"
        script.write_text(
            f"from benchmarks.ranks import work\nwork({experts}, {data}, {is_sharded})\n"
        )
        paths = os.pathsep.join((str(Path.cwd()), os.environ.get("PYTHONPATH", "")))
        done = subprocess.run(
            [*begin, str(script)], capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compared(layout: tuple[int, int, bool], rounds: list[Figures]) -> dict[str, Any]:
    """The last round's figures, and the planned time as a share of the measured one in each."""
    mesh = Mesh(experts=layout[0], data=layout[1], is_sharded=layout[2])
    shares = []
    for one in rounds:
        alone, ours = one[LAYOUTS[0]], one[layout]
        efficiency = planned(Mesh(), alone, 1.0)["seconds"] / alone["seconds"]
        plan = planned(mesh, ours, efficiency)
        shares.append(plan["seconds"] / ours["seconds"])
    return {**asdict(mesh), "measured": ours, "planned": plan, "time": sorted(shares)}


def line(found: dict[str, Any]) -> str:
    ours, plan, time_ = found["measured"], found["planned"], found["time"]
    # the sums into shards are torch's own, which are not counted
    names = ("rows", "weights") if found["is_sharded"] else ("rows", "sums", "weights")
    said = ", ".join(f"{n} {ours[n] / 1e6:.3f} and {plan[n] / 1e6:.3f}" for n in names)
    return (
        f"{found['experts']:>7} {found['data']:>4}{' in shards' if found['is_sharded'] else ''}: "
        f"{said}; {1e3 * ours['seconds']:.0f} and {1e3 * plan['seconds']:.0f} "
        f"({statistics.median(time_):.2f} of it, {time_[0]:.2f} to {time_[-1]:.2f})"
    )


def main() -> None:
    print("experts data: measured and planned megabytes a rank, milliseconds a step")
    # in rounds, as a machine's speed drifts
    rounds = [{layout: measured(*layout) for layout in LAYOUTS} for _ in range(ROUNDS)]
    found = [compared(layout, rounds) for layout in LAYOUTS]
    print("\n".join(map(line, found)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
