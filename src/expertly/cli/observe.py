"""`expertly observe`: what the experts of a model do on texts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expertly.checkpoint import load
from expertly.checkpoint.locating import bundled
from expertly.cli.observe_trace import observe_trace
from expertly.errors import InputError, OutputError
from expertly.observe import Report, observe
from expertly.observe.page import page
from expertly.observe.sample import read
from expertly.observe.texts import domains, read_texts
from expertly.text import corpora

# of each text, with its experts
_TOKENS_READ = 240

if TYPE_CHECKING:
    from expertly.model import Decoder


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder or a hub id; or trace, then FILE is what `expertly run --trace` wrote.",
            show_default="the bundled model",
        ),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More files after --text.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help="Text files, each a domain named by its stem.",
            show_default="the bundled model's held-out texts",
        ),
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--domains", metavar="NAME=FILE", help="A text file and its domain's name."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Lines a table.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each text.")] = 4096,
    disk: Annotated[
        str, typer.Option(metavar="SIZE", help="With trace: what the disk reads in a second.")
    ] = "1GB",
    ram: Annotated[
        str, typer.Option(metavar="SIZE", help="With trace: what memory reads in a second.")
    ] = "20GB",
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report as one HTML file, pictures and all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what the experts of a model do on texts."""
    if model == "trace":
        return observe_trace(more or [], disk, ram, as_json)
    files = domains([*(text or []), *(more or [])], named or [])
    if not files and model is not None:
        raise InputError("no text to observe", hint="give one with --text FILE")
    # files first: a typing slip should not wait for a model to load
    texts = read_texts(files, max_tokens) if files else _packaged(max_tokens)
    if html is not None:
        check_new(html)
    watched = load(bundled() if model is None else model, "float32")
    report = _watch(watched, texts, max_tokens)
    if html is not None:
        readings = read(watched, texts, _TOKENS_READ)
        write_text(html, page(report, readings, model or "the bundled model"))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        print(report.to_text(top), end="")


def check_new(path: Path) -> None:
    if path.exists():
        raise OutputError(f"{path} exists already", hint="give another name or remove that file")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written: {error.strerror}", hint="choose another place"
        ) from error


def _packaged(max_tokens: int) -> dict[str, str]:
    # no token is shorter than a character and few are longer than 16
    return {name: corpora.held_out_text(name)[: 16 * max_tokens] for name in corpora.domains()}


def _watch(model: "Decoder", texts: dict[str, str], max_tokens: int) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("observing", total=None)
        return observe(
            model,
            texts,
            max_tokens=max_tokens,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
