"""The options of every verb that runs a model larger than memory."""

from typing import Annotated

import typer

from expertly.cli.only import Only, beside
from expertly.errors import InputError

# what says something only with --memory
MEMORY_ONLY: Only = beside("--memory", "context", "read_ahead", hint="add --memory 8GB, or auto")

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
    int | None,
    typer.Option(
        min=1,
        help="With --memory: tokens, prompt and answer, that room is kept for; texts end there.",
        show_default="4096, or the model's context",
    ),
]
ReadAhead = Annotated[
    bool,
    typer.Option(
        help="With --memory: read experts before they are asked for, in what time the disk has."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="GPU",
        help="cuda or cuda:N: that GPU holds and computes as many experts as it has room for "
        "(docs/ladder.md).",
        show_default="the processor alone",
    ),
]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="With --device: what its experts may take there, as 6GB.",
        show_default="most of what is free",
    ),
]
Approximate = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Quicker answers that are not quite the model's own: top:K, ser:K,T, naee:Q, top-p:P, "
        "cold:F, cached:L or lower:F (docs/budgeted.md).",
        show_default="the model's own",
    ),
]
Lower = Annotated[
    str | None,
    typer.Option(
        metavar="SMALLER",
        help="With --memory and --approximate lower:F: the same model at fewer bits, a packed "
        "folder or GGUF file, from which experts of little weight are read.",
        show_default="none",
    ),
]


def check_approximate(approximate: str | None, lower: str | None, memory: str | None) -> None:
    """Raises InputError for a rule about experts in memory without a memory budget, and unless a
    lower copy, its rule and a budget come together."""
    rule = (approximate or "").partition(":")[0]
    if rule in ("cold", "cached") and memory is None:
        raise InputError(
            f"--approximate {approximate} without --memory, so that all experts are in memory",
            hint="add --memory 8GB, or auto; or leave experts out with top:K",
        )
    is_asked = rule == "lower"
    if is_asked and lower is None:
        raise InputError(
            f"--approximate {approximate} without --lower",
            hint="name the same model at fewer bits: --lower SMALLER",
        )
    if lower is not None and not is_asked:
        raise InputError(
            "--lower without --approximate lower:F", hint="add --approximate lower:1, or another F"
        )
    if lower is not None and memory is None:
        raise InputError(
            "--lower without --memory, so that nothing is read", hint="add --memory 8GB, or auto"
        )
