"""Writes docs/cli.md: the help of every verb, 100 columns wide and without colour."""

from pathlib import Path

from expertly.cli.verbs import VERBS, group, load_verb

PATH = Path(__file__).parents[1] / "docs" / "cli.md"
_WIDTH = 100

_START = """# The command line

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 a fault of expertly,
2 something you can mend (an `error:` line and a `hint:` line say what), 130 interrupted,
141 the reader of a pipe went away.
`NO_COLOR` and output that is no terminal give plain text.

This page is written by `python tools/write_cli_docs.py`.
"""


def cli_docs() -> str:
    commands = {"expertly": group(), **{f"expertly {verb}": load_verb(verb) for verb in VERBS}}
    return _START + "".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: object) -> str:
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=_WIDTH, obj={})
    with context:
        text = "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    return f"\n## {name}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    PATH.write_text(cli_docs(), encoding="utf-8")
