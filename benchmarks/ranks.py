"""What a planned step says against what local processes do: `python -m benchmarks.ranks`.

Steps of a small mixture on 1, 2 and 4 processes; the bytes that torch.distributed was asked to
move and the weights that a rank holds, beside `planner.training`'s figures for the same layout.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from expertly.families import read_config
from expertly.model import Decoder, initialise
from expertly.parallel import joined, place
from expertly.planner.training import FACTOR_BYTES, WEIGHT_BYTES, Mesh, rank_params, traffic
from expertly.train.recipe import parse_recipe
from expertly.train.state import State, make_optimisers
from expertly.train.step import take_step

MODEL = {
    "model_type": "qwen3_moe",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 64,
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
LAYOUTS = [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]


class Counted:
    """Bytes of this rank's exchanges of rows and sums, as they are asked for."""

    def __init__(self) -> None:
        self.rows = self.sums = 0
        self._rows, self._sum = dist.all_to_all_single, dist.all_reduce

    def all_to_all_single(self, out, given, coming=None, leaving=None, group=None, **more):  # type: ignore[no-untyped-def]
        if given.is_floating_point():
            kept = leaving[dist.get_rank(group)]
            self.rows += (given.shape[0] - kept) * given[0].nbytes if len(given) else 0
        return self._rows(out, given, coming, leaving, group=group, **more)

    def all_reduce(self, x, *others, group=None, **more):  # type: ignore[no-untyped-def]
        size = dist.get_world_size(group)
        self.sums += 2 * x.nbytes * (size - 1) // size if x.numel() > 1000 else 0
        return self._sum(x, *others, group=group, **more)


def work(experts: int, data: int) -> None:
    """One rank: its figures as a line of JSON, from the first one."""
    torch.set_num_threads(1)
    recipe = parse_recipe(RECIPE, name="ranks", folder=Path())
    with joined(experts, data, is_sharded=False) as ranks:
        config = read_config(MODEL)
        model = Decoder(config, dtype=torch.float32)
        initialise(model, 1, std=0.02)
        place(model, ranks)
        state = State(model=model.train(), optimisers=make_optimisers(model, recipe.optimiser))
        counted = Counted()
        dist.all_to_all_single, dist.all_reduce = counted.all_to_all_single, counted.all_reduce
        generator = torch.Generator().manual_seed(1)
        ids_BS = torch.randint(1024, (BATCH, SEQUENCE + 1), generator=generator)
        take_step(state, recipe, [ids_BS], torch.float32, read=False, ranks=ranks)
        dist.all_to_all_single, dist.all_reduce = counted._rows, counted._sum
        held = sum(parameter.nbytes for parameter in model.parameters())
        rows = float(ranks.sum(torch.tensor(float(counted.rows)))) / ranks.count
        if ranks.is_first:
            print(json.dumps({"rows": rows, "sums": counted.sums, "weights": held}))


def planned(experts: int, data: int) -> dict[str, float]:
    config, mesh = read_config(MODEL), Mesh(experts=experts, data=data)
    sent = traffic(config, mesh, BATCH * SEQUENCE // mesh.count)
    # rows are bfloat16 in the plan, float32 here
    rows = sent.rows * WEIGHT_BYTES / FACTOR_BYTES
    return {
        "rows": rows,
        "sums": sent.gradients,
        "weights": WEIGHT_BYTES * rank_params(config, mesh),
    }


def measured(experts: int, data: int) -> dict[str, float]:
    count = experts * data
    begin = [sys.executable]
    if count > 1:
        begin += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "rank.py"
        script.write_text(f"from benchmarks.ranks import work\nwork({experts}, {data})\n")
        paths = os.pathsep.join((str(Path.cwd()), os.environ.get("PYTHONPATH", "")))
        done = subprocess.run(
            [*begin, str(script)], capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    print("experts data: measured and planned megabytes a rank")
    found = []
    for experts, data in LAYOUTS:
        ours, plan = measured(experts, data), planned(experts, data)
        found.append({"experts": experts, "data": data, "measured": ours, "planned": plan})
        said = ", ".join(f"{k} {ours[k] / 1e6:.3f} and {plan[k] / 1e6:.3f}" for k in ours)
        print(f"{experts:>7} {data:>4}: {said}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
