"""Runs of tiny recipes on several local processes, begun as a user would, by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

RECIPE = """
[model]
model_type = "qwen3_moe"
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
intermediate_size = 64
num_experts = 8
num_experts_per_tok = 2
moe_intermediate_size = 16
norm_topk_prob = true
max_position_embeddings = 64
tie_word_embeddings = true
[tokenizer]
vocab_size = 512
[data]
texts = ["{text}"]
sequence = 32
[optimiser]
peak_lr = 1e-3
eps = 1e-6
warmup_steps = 5
{optimiser}
[run]
steps = {steps}
batch = 8
device = "{device}"
dtype = "float32"
statistics_every = 5
checkpoint_every = {every}
seed = 3
[balance]
{balance}
"""


def recipe_of(
    folder: Path,
    experts: int = 1,
    data: int = 1,
    *,
    shard: bool = False,
    steps: int = 12,
    balance: str = 'rule = "switch"',
    optimiser: str = "",
    every: int = 0,
    device: str = "cpu",
) -> Path:
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(
            "".join(f"line {n}: {n * n} sheep went by, and {n} stayed.\n" for n in range(900))
        )
    filled = RECIPE.format(
        text=text, steps=steps, balance=balance, optimiser=optimiser, every=every, device=device
    )
    if experts * data > 1:
        filled += f"[ranks]\nexperts = {experts}\ndata = {data}\nshard = {str(shard).lower()}\n"
    path = folder / f"recipe-{experts}-{data}-{shard}.toml"
    path.write_text(filled)
    return path


def command_of(count: int, *arguments: str) -> list[str]:
    run = ["-m", "expertly", "train", *arguments]
    if count == 1:
        return [sys.executable, *run]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(count), *run]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def train(recipe: Path, out: Path, count: int, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_of(count, str(recipe), "--out", str(out), *more),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )


def rows(out: Path, kind: str) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in rows(out, "step")]
