"""A disk that really refuses: files beyond a size cannot be written any more."""

import io
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from expertly.errors import OutputError
from expertly.train import checkpoints
from expertly.train.loop import train
from expertly.train.recipe import Recipe

BIRTH = multiprocessing.get_context("forkserver")
BIRTH.set_forkserver_preload(["expertly.train.loop"])


def run_on_a_small_disk(recipe: Recipe, folder: Path, said: Path, limit_bytes: int) -> None:
    """Writes the error's message and hint to `said`."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        train(recipe, folder, resume=True, console=Console(file=io.StringIO()))
    except OutputError as error:
        said.write_text(f"{error.message}\n{error.hint}")


# metrics fit no more, the optimiser's file fits no more, the model's fits no more
@pytest.mark.parametrize("limit_bytes", [1000, 30_000, 60_000])
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(
    make_recipe: Callable[..., Recipe], tmp_path: Path, quiet: Console, limit_bytes: int
) -> None:
    recipe = make_recipe(("seed = 5", "seed = 5\ncheckpoint_every = 2"))
    folder, said = tmp_path / "run", tmp_path / "said"
    train(recipe, folder, stop_after=4, console=quiet)
    kept = checkpoints.listed(folder / "checkpoints")[-1]
    process = BIRTH.Process(target=run_on_a_small_disk, args=(recipe, folder, said, limit_bytes))
    process.start()
    process.join()
    assert process.exitcode == 0
    message, hint = said.read_text().split("\n")
    assert "cannot be written: " in message or "cannot write" in message
    assert "File too large" in message
    assert "free some space" in hint
    assert checkpoints.newest_verified(folder / "checkpoints") == (kept, [])
    assert not list(folder.rglob(".step-*"))
    train(recipe, folder, resume=True, console=quiet)
    train(recipe, tmp_path / "whole", console=quiet)
    ended = [path / "final" / "model.safetensors" for path in (folder, tmp_path / "whole")]
    assert ended[0].read_bytes() == ended[1].read_bytes()
