"""`expertly merge`: several fine-tuned dense models into one mixture."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from expertly.cli.bar import bar
from expertly.cli.upcycle import told
from expertly.errors import InputError
from expertly.rewrite import MergeExpert, MergeRecipe, merge
from expertly.rewrite.merge_recipe import Others, read_merge_recipe


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Folders or hub ids, the base first and then its experts; or one .toml recipe.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    chosen: Annotated[
        int | None, typer.Option(min=1, help="Experts chosen for a token.", show_default="2")
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(
            help="Whose all that is not a feed-forward is: the average of the experts, or base.",
            show_default="average",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="model_type of the mixture.", show_default="the first that fits"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random routers.", show_default="0")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make one mixture of several fine-tuned copies of a dense model."""
    options = {"--chosen": chosen, "--others": others, "--family": family, "--seed": seed}
    if len(models) == 1:
        recipe = _from_file(models[0], [name for name, v in options.items() if v is not None])
    else:
        recipe = MergeRecipe(
            base=models[0],
            experts=tuple(MergeExpert(source=model) for model in models[1:]),
            num_chosen=2 if chosen is None else chosen,
            others=_others(others or "average"),
            family=family,
            seed=seed or 0,
        )
    with bar("merging") as progress:
        told(merge(recipe, out, progress=progress), as_json)


def _from_file(path: str, given: list[str]) -> MergeRecipe:
    if not path.endswith(".toml"):
        raise InputError(
            f"{path} alone makes no mixture",
            hint="give a base and two or more experts, or a recipe: a .toml file",
        )
    if given:
        raise InputError(
            f"a recipe together with {', '.join(given)}", hint="write that into the recipe"
        )
    return read_merge_recipe(Path(path))


def _others(name: str) -> Others:
    for known in get_args(Others):
        if name == known:
            found: Others = known
            return found
    raise InputError(f"--others is {name!r}", hint=f"use {' or '.join(get_args(Others))}")
