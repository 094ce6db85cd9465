"""The options of every verb that runs a model larger than memory."""

from typing import Annotated

import typer

Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the whole process may take, as 8GB, or auto: experts that do not fit stay in "
        "the packed folder or GGUF file and are read as they are chosen.",
        show_default="all weights in memory",
    ),
]
Context = Annotated[
    int,
    typer.Option(min=1, help="With --memory: tokens, prompt and answer, that room is kept for."),
]
ReadAhead = Annotated[
    bool,
    typer.Option(
        help="With --memory: read experts before they are asked for, in what time the disk has."
    ),
]
Approximate = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Quicker answers that are not quite the model's own: top:K, ser:K,T, naee:Q, top-p:P, "
        "cold:F or cached:L (docs/budgeted.md).",
        show_default="the model's own",
    ),
]
