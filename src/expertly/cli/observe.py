"""`expertly observe`: what the experts of a model do on texts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expertly.checkpoint import load
from expertly.checkpoint.locating import bundled, is_hub_id, locate
from expertly.cli.observe_trace import observe_trace
from expertly.cli.only import Only
from expertly.cli.output import note
from expertly.config import Mixture
from expertly.errors import InputError, OutputError
from expertly.observe import Report, observe
from expertly.observe.page import MAX_BYTES, sample_size, to_html
from expertly.observe.texts import domains, read_texts
from expertly.text import corpora
from expertly.train.files import write_whole, writing

if TYPE_CHECKING:
    from expertly.model import Decoder

CONDITIONS = (
    Only(
        frozenset({"disk", "ram"}),
        lambda given: given["model"] == "trace",
        "without a trace",
        "leave it out, or observe trace FILE",
    ),
    Only(
        frozenset({"text", "named", "top", "max_tokens", "html"}),
        lambda given: given["model"] != "trace",
        "with a trace, which has only numbers",
        "leave it out",
    ),
)


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
        typer.Option(metavar="FILE", help="Also write a page for a browser: one file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure what the experts of a model do on texts."""
    if model == "trace":
        return observe_trace(more or [], disk, ram, as_json)
    files = domains([*(text or []), *(more or [])], named or [])
    if not files and model is not None:
        _check_here(model)
        raise InputError("no text to observe", hint="give one with --text FILE")
    if html is not None:
        _check_place(html)
    # files first: a typing slip should not wait for a model to load
    texts = read_texts(files, max_tokens) if files else _packaged(max_tokens)
    opened = load(bundled() if model is None else model, "float32")
    report = _watch(opened, texts, max_tokens, 0 if html is None else _sample(opened, len(texts)))
    if html is not None:
        _write(html, to_html(report, model or "the bundled model"))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        print(report.to_text(top), end="")


def _check_here(model: str) -> None:
    # a slip in its name matters more than what else is missing; nothing is fetched for that
    if Path(model).exists() or not is_hub_id(model):
        locate(model)


def _packaged(max_tokens: int) -> dict[str, str]:
    # no token is shorter than a character and few are longer than 16
    return {name: corpora.held_out_text(name)[: 16 * max_tokens] for name in corpora.domains()}


def _check_place(path: Path) -> None:
    # hours may go by before it is written
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="give --html a file in it")
    if path.exists():
        raise OutputError(f"{path} exists already", hint="give another name or remove that file")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}", hint="give --html a file in a folder that exists")


def _sample(model: "Decoder", num_texts: int) -> int:
    chosen = [
        layer.feed_forward.num_chosen
        for layer in model.config.layers
        if isinstance(layer.feed_forward, Mixture)
    ]
    return sample_size(max(1, len(chosen)), max(chosen, default=1), num_texts)


def _write(path: Path, page: str) -> None:
    data = page.encode()
    with writing(path, hint="free some space or choose another --html"):
        write_whole(path, data)
    note(f"{path}: {len(data) / 1e6:.1f} MB, open it in a browser")
    if len(data) > MAX_BYTES:
        note(f"{path} is over {MAX_BYTES / 1e6:.0f} MB: fewer texts make it smaller")


def _watch(model: "Decoder", texts: dict[str, str], max_tokens: int, sample: int) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("observing", total=None)
        return observe(
            model,
            texts,
            max_tokens=max_tokens,
            sample=sample,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
