"""`expertly upcycle`: a dense model into a mixture, or a mixture into a larger one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from expertly.cli.bar import bar
from expertly.cli.plan import human
from expertly.errors import InputError
from expertly.rewrite import Duplication, Rewritten, Upcycling, upcycle
from expertly.rewrite.methods import METHODS, Method

if TYPE_CHECKING:
    from collections.abc import Mapping

Experts = Annotated[int | None, typer.Option(min=1, help="Experts of each mixture.")]
Chosen = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Experts chosen for a token.",
        show_default="2, the parts of one whole, or all copies",
    ),
]
Named = Annotated[str, typer.Option("--method", help=f"One of {', '.join(METHODS)}.")]
Granularity = Annotated[
    int | None, typer.Option(min=2, help="Parts that a feed-forward is cut into.")
]
Shared = Annotated[
    int | None, typer.Option(min=0, help="Parts that go to a shared expert.", show_default="0")
]
Every = Annotated[
    int | None,
    typer.Option(min=1, help="Every so-many-th layer becomes a mixture.", show_default="1"),
]
Noise = Annotated[
    float, typer.Option(help="Added to experts, in standard deviations of each matrix: 0 to 1.")
]
Redraw = Annotated[
    float | None,
    typer.Option(
        help="Share of an expert's units that is drawn anew.",
        show_default="0.5 with drop and fine-grained, else 0",
    ),
]
Family = Annotated[
    str | None,
    typer.Option(help="model_type of the mixture.", show_default="the first that fits"),
]
Copies = Annotated[
    int | None, typer.Option("--duplicate", min=2, help="Copies of each expert of a mixture.")
]


def command(
    model: Annotated[str, typer.Argument(help="A folder or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    experts: Experts = None,
    chosen: Chosen = None,
    method: Named = "copy",
    granularity: Granularity = None,
    shared: Shared = None,
    every: Every = None,
    redraw: Redraw = None,
    noise: Noise = 0.0,
    duplicate: Copies = None,
    family: Family = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a mixture of a dense model, or copy the experts of one."""
    of_dense = {
        "--experts": experts,
        "--granularity": granularity,
        "--shared": shared,
        "--every": every,
        "--redraw": redraw,
        "--family": family,
    }
    how: Upcycling | Duplication
    if duplicate is not None:
        _refuse(of_dense, method)
        how = Duplication(copies=duplicate, num_chosen=chosen, noise=noise, seed=seed)
    elif experts is None:
        raise InputError(
            "nothing to make",
            hint="give --experts for a dense model, or --duplicate for a mixture",
        )
    else:
        how = Upcycling(
            num_experts=experts,
            num_chosen=chosen,
            method=_method(method),
            granularity=granularity or 1,
            shared=shared or 0,
            every=every or 1,
            redraw=redraw,
            noise=noise,
            seed=seed,
            family=family,
        )
    with bar("upcycling") as progress:
        told(upcycle(model, out, how, progress=progress), as_json)


def _refuse(options: "Mapping[str, object]", method: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    given += ["--method"] if method != "copy" else []
    if given:
        raise InputError(
            f"--duplicate together with {', '.join(given)}",
            hint="--duplicate copies the experts of a mixture as they are",
        )


def _method(name: str) -> Method:
    for method in get_args(Method):
        if name == method:
            known: Method = method
            return known
    raise InputError(f"method {name!r} is not known", hint=f"use one of {', '.join(METHODS)}")


def told(written: Rewritten, as_json: bool) -> None:
    """What was written, as data."""
    report = written.to_dict()
    if as_json:
        print(json.dumps(report))
        return
    mixture = written.mixture
    print(
        f"{written.folder}: {human(written.num_bytes)}, {written.config.family}, "
        f"{mixture.num_experts} experts of width {mixture.expert_size}, "
        f"{mixture.num_chosen} chosen"
    )
    print(f"{report['total_params']:,} parameters, {report['active_params']:,} active")
    print(
        "computes what its source computes, but for rounding"
        if written.is_exact
        else "computes something else than its source: train it"
    )
