"""What only a GPU can show: `pytest -m gpu`, where torch has one; the last ones need two."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import router_rules
import torch
from rich.console import Console

from expertly import kernels
from expertly.config import Glu
from expertly.kernels import reference
from expertly.train.loop import train
from expertly.train.recipe import Recipe
from tests.kernels.test_expert_rows import SHAPES, Case, error
from tests.parallel.launching import command_of, environment, losses, recipe_of
from tests.parallel.launching import train as launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU here"),
]
with_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed")
MakeRecipe = Callable[..., Recipe]
ALIGNED = [(50, 16, 24, 5, 2), (700, 64, 128, 16, 4)]
GPU = torch.device("cuda", 0)


def moved(case: Case, device: torch.device) -> Case:
    """The same operands there."""
    for name in ("weight_TK", "grad_TD", "order_R", "counts_E"):
        setattr(case, name, getattr(case, name).to(device))
    case.parts = tuple(part.to(device) for part in case.parts)
    return case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [*ALIGNED, SHAPES["odd_widths"], SHAPES["many_experts"]])
@pytest.mark.parametrize("is_dropped", [False, True])
def test_experts_on_a_gpu_are_the_definitions(shape, dtype, is_dropped) -> None:
    kept = torch.rand(shape[0], shape[4], generator=torch.Generator().manual_seed(1)) < 0.6
    kept = kept if is_dropped else None
    exact = Case(shape, dtype, kept=kept).run(reference.expert_rows, Glu(), torch.float64)
    found = moved(Case(shape, dtype, kept=kept), GPU).run(kernels.expert_rows)
    tolerance = 1.5e-2 if dtype == torch.bfloat16 else 3e-6
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.device == GPU
        assert error(ours.cpu(), theirs) <= tolerance


@pytest.mark.parametrize("num_rows", [0, 1])
def test_experts_with_hardly_a_row_on_a_gpu(num_rows) -> None:
    kept = torch.zeros(5, 2, dtype=torch.bool)
    kept[0, :num_rows] = True
    case = moved(Case((5, 16, 8, 4, 2), torch.bfloat16, kept=kept), GPU)
    y_TD, *grads = case.run(kernels.expert_rows)
    assert (y_TD[1:] == 0).all() and all(grad.isfinite().all() for grad in grads)


def test_experts_on_a_gpu_give_the_same_bits_each_time() -> None:
    case = moved(Case(ALIGNED[1], torch.bfloat16), GPU)
    first, second = case.run(kernels.expert_rows), case.run(kernels.expert_rows)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["kind"] == "step"]


# those that draw from a generator draw other numbers there
@pytest.mark.parametrize(
    "name", sorted({*router_rules.NAMES} - {"noisy", "switch", "sparsemixer", "emo"})
)
def test_a_run_on_a_gpu_is_the_run_on_the_processor(
    name: str, make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    for device in ("cpu", "cuda"):
        recipe = make_recipe(('device = "cpu"', f'device = "{device}"'))
        rules = {k: v for k, v in router_rules.spelled(name).items() if k != "vocab_size"}
        object.__setattr__(recipe, "model", rules)
        train(recipe, tmp_path / device, stop_after=4, console=quiet)
        train(recipe, tmp_path / device, resume=True, console=quiet)
    ours, theirs = _losses(tmp_path / "cuda"), _losses(tmp_path / "cpu")
    # Adam's step is as long for a gradient that is all rounding as for any other
    assert ours == pytest.approx(theirs, abs=5e-3)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)


def test_a_run_in_bfloat16_on_a_gpu_learns(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = make_recipe(
        ('device = "cpu"', 'device = "cuda"'),
        ('"float32"', '"bfloat16"'),
        ("steps = 8", "steps = 60"),
    )
    train(recipe, tmp_path / "run", console=quiet)
    found = _losses(tmp_path / "run")
    assert sum(found[-5:]) / 5 < found[0] - 1


@with_two
@pytest.mark.parametrize(("experts", "data", "shard"), [(2, 1, False), (1, 2, False), (1, 2, True)])
def test_two_ranks_by_nccl_reproduce_one_process(experts, data, shard, tmp_path) -> None:
    single = launch(recipe_of(tmp_path, device="cuda"), tmp_path / "one", 1)
    assert single.returncode == 0, single.stderr
    recipe = recipe_of(tmp_path, experts, data, shard=shard, device="cuda")
    both = launch(recipe, tmp_path / "two", 2)
    assert both.returncode == 0, both.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)


@with_two
def test_when_a_rank_on_a_gpu_is_killed_the_other_ends_with_one_line(tmp_path) -> None:
    recipe = recipe_of(tmp_path, 2, 1, steps=4000, every=5, device="cuda")
    process = subprocess.Popen(
        command_of(2, str(recipe), "--out", str(tmp_path / "run")),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.1)
    time.sleep(2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[1]), 9)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("ends: another one is gone or silent") == 1
