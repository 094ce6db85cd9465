"""The verbs by name, and the group that imports one when it is asked for."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import expertly
from expertly.cli.only import Only, check

# what `expertly --help` prints, so that it need not import them
VERBS: Mapping[str, str] = {
    "plan": "Count a model before downloading it: parameters, bytes, a step of training it.",
    "run": "Write text with a model or chat with it, its experts shown if asked.",
    "pack": "Quantise a model into a folder that loads at once, or into a GGUF file.",
    "train": "Train a model as a recipe says: tokenizer, data, checkpoints, final model.",
    "upcycle": "Make a mixture of a dense model, or copy the experts of one.",
    "merge": "Make one mixture of several fine-tuned copies of a dense model.",
    "observe": "Measure what the experts of a model do on texts.",
    "bench": "Measure how fast a model runs here, beside what limits it; ends with a line of JSON.",
}

_STYLE: Mapping[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


class _Verb(TyperCommand):
    conditions: Sequence[Only] = ()

    def invoke(self, ctx: Any) -> Any:
        check(ctx, self.conditions)
        return super().invoke(ctx)


def load_verb(name: str) -> Any:
    """The command of one verb, its module imported."""
    module = import_module(f"expertly.cli.{name}")
    app = typer.Typer(**_STYLE)
    app.command(name=name, cls=_Verb)(module.command)
    command: Any = get_command(app)
    command.conditions = getattr(module, "CONDITIONS", ())
    command.context_settings = dict(_STYLE["context_settings"])
    return command


class _LazyCommands(MutableMapping[str, Any]):
    """Looks like a dict of commands; each is made when it is read."""

    def __getitem__(self, name: str) -> Any:
        if name not in VERBS:
            raise KeyError(name)
        return load_verb(name)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError("verbs are listed in VERBS")

    def __delitem__(self, name: str) -> None:
        raise TypeError("verbs are listed in VERBS")


class VerbGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"expertly {expertly.__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error arose.")
    ] = False,
) -> None:
    """Runs, trains and looks inside Mixture-of-Experts language models."""
    context.obj["traceback"] = traceback


def group() -> Any:
    """The whole command line."""
    app = typer.Typer(cls=VerbGroup, subcommand_metavar="VERB [ARGS]...", **_STYLE)
    app.callback()(_options)
    return get_command(app)
