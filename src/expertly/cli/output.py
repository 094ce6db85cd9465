"""What goes to which stream, and how: data to stdout, notes and errors to stderr."""

import os
import sys
from typing import TextIO


def has_colour(stream: TextIO) -> bool:
    """Whether colours belong there: a terminal that knows them, and no NO_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def one_line(text: str) -> str:
    """Line breaks as spaces, other control characters spelled out."""
    return "".join(c if c.isprintable() else _spelled(c) for c in " ".join(text.split()))


def safe(text: str) -> str:
    """A model's text for a terminal: control characters but tab and newline spelled out, so that
    no text can steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


def print_error(label: str, message: str, hint: str) -> int:
    """Two lines on stderr; returns 2, the exit code of what a user can mend."""
    if has_colour(sys.stderr):
        label = f"\x1b[1;31m{label}\x1b[0m"
    print(f"{label}: {one_line(message)}", file=sys.stderr)
    print(f"hint: {one_line(hint)}", file=sys.stderr)
    return 2


def note(text: str) -> None:
    print(one_line(text), file=sys.stderr)
