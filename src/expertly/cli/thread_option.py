"""The option of every verb that computes."""

from typing import Annotated

import typer

Threads = Annotated[
    int | None, typer.Option(min=1, help="Processor threads.", show_default="all cores")
]
