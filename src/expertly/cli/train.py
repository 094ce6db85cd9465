"""`expertly train`: a model from a recipe and texts."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from expertly.errors import RecipeError
from expertly.train import Recipe, Summary, read_recipe, train


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a .toml file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/<recipe>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Steps in all, instead of the recipe's.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A file or folder to train on, instead of the recipe's; repeatable."),
    ] = None,
) -> None:
    """Train a model as a recipe says: tokenizer, data, checkpoints, final model."""
    chosen = _adapt(read_recipe(recipe), steps, text or [])
    # when a rank is gone NCCL is to fail, as gloo does, for one line to be said; left alone it ends
    # the process and says hundreds. Read when the ranks join
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    folder = out if out is not None else Path("runs") / chosen.name
    summary = train(chosen, folder, resume=resume)
    _conclude(summary, chosen.steps)


def _adapt(recipe: Recipe, steps: int | None, texts: list[Path]) -> Recipe:
    if steps is not None:
        if steps <= 0:
            raise RecipeError(f"--steps is {steps}", hint="give a positive number")
        recipe = replace(recipe, run=replace(recipe.run, steps=steps, tokens=None))
    if texts:
        names = tuple(str(path.absolute()) for path in texts)
        recipe = replace(recipe, data=replace(recipe.data, texts=names, weights=()))
    return recipe


def _conclude(summary: Summary, num_steps: int) -> None:
    if summary.final is not None:
        if summary.is_first:
            print(summary.final)
        return
    if summary.is_first:
        typer.echo(f"stopped at step {summary.step} of {num_steps}; go on with --resume", err=True)
    raise typer.Exit(128 + (summary.stopped_by or signal.SIGINT))
