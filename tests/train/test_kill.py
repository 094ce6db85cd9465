"""kill -9 at random moments, inside saving too: whatever is left, a resumed run ends the same."""

import io
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from expertly.train import checkpoints
from expertly.train.loop import train
from expertly.train.recipe import Recipe
from expertly.train.state import fingerprint

EVERY = 4
STEPS = 24
# a server that has imported everything and started no thread gives birth to each run
BIRTH = multiprocessing.get_context("forkserver")
BIRTH.set_forkserver_preload(["expertly.train.loop"])


def run(recipe: Recipe, folder: Path, sync: int | None) -> None:
    """A run in a process of its own; `sync`: killed inside its so manieth write to the disk."""
    torch.set_num_threads(1)
    if sync is not None:
        real, left = os.fsync, sync

        def counted(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)

        os.fsync = counted
    train(recipe, folder, resume=True, console=Console(file=io.StringIO()))


def start(recipe: Recipe, folder: Path, *, sync: int | None = None, seconds: float = 0) -> int:
    """The run's exit code; killed after `seconds`, if any."""
    process = BIRTH.Process(target=run, args=(recipe, folder, sync))
    process.start()
    if seconds:
        process.join(seconds)
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    whole = [line for line in path.read_text().split("\n")[:-1] if line]
    return max((json.loads(line)["step"] for line in whole), default=0)


def check_what_is_left(folder: Path) -> None:
    """No folder that looks like a checkpoint is damaged, and no more than an interval is lost."""
    found, skipped = checkpoints.newest_verified(folder / "checkpoints")
    assert skipped == []
    kept = 0 if found is None else int(found.name.removeprefix("step-"))
    assert last_step(folder) - kept <= EVERY


def ended(recipe: Recipe, folder: Path) -> str:
    found, skipped = checkpoints.newest_verified(folder / "checkpoints")
    assert found is not None and found.name == f"step-{STEPS:08d}" and skipped == []
    model = (folder / "final" / "model.safetensors").read_bytes()
    return f"{fingerprint(checkpoints.read_checkpoint(found, recipe.optimiser))} {hash(model)}"


def survive(make_recipe: Callable[..., Recipe], folder: Path, kills: int, seed: int) -> None:
    recipe = make_recipe(
        ("steps = 8", f"steps = {STEPS}"), ("seed = 5", f"seed = 5\ncheckpoint_every = {EVERY}")
    )
    assert start(recipe, folder / "whole") == 0
    rng = random.Random(seed)
    killed = 0
    for number in range(kills):
        parts = folder / f"parts{number}"
        # in every run killed once or twice, half of the times while it writes
        for _ in range(rng.choice([1, 2])):
            if rng.random() < 0.5:
                code = start(recipe, parts, sync=rng.randrange(1, 130))
            else:
                code = start(recipe, parts, seconds=rng.uniform(0.05, 1.2))
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
            check_what_is_left(parts)
        assert start(recipe, parts) == 0
        assert ended(recipe, parts) == ended(recipe, folder / "whole")
        assert not [path for path in parts.rglob(".*") if path.name != ".lock"]
    assert killed >= kills // 2


def test_three_runs_that_were_killed_end_like_the_one_that_was_not(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    survive(make_recipe, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_a_hundred_runs_that_were_killed_end_like_the_one_that_was_not(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    survive(make_recipe, tmp_path, kills=100, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("sync", range(1, 74))
def test_a_kill_in_any_write_loses_nothing(
    make_recipe: Callable[..., Recipe], tmp_path: Path, sync: int
) -> None:
    recipe = make_recipe(("seed = 5", f"seed = 5\ncheckpoint_every = {EVERY}"))
    start(recipe, tmp_path / "run", sync=sync)
    check_what_is_left(tmp_path / "run")
    assert start(recipe, tmp_path / "run") == 0
    found, skipped = checkpoints.newest_verified(tmp_path / "run" / "checkpoints")
    assert found is not None and found.name == "step-00000008" and skipped == []
