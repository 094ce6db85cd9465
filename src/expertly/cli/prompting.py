"""Which model, and which prompt: from the arguments, from standard input, or none."""

import os
import select
import sys
from difflib import get_close_matches

from expertly.errors import InputError

# what the bundled model continues when nobody gives it a prompt
DEFAULT_PROMPT = "Question:"


def split(words: tuple[str, ...]) -> tuple[str, str | None]:
    """The model ("" is the bundled one) and the prompt. A single word is the model if it exists
    as a path, or has no white space and a slash or a file's ending, .gguf."""
    if len(words) != 1:
        return (words[0], words[1]) if words else ("", None)
    [word] = words
    is_one_word = not any(map(str.isspace, word))
    looks_like_one = is_one_word and ("/" in word or word.endswith(".gguf"))
    if word == "" or looks_like_one or os.path.exists(word):
        return word, None
    return "", word


def near_path(word: str) -> str | None:
    """A folder or GGUF file here that is called nearly so."""
    try:
        with os.scandir() as entries:
            names = [each.name for each in entries if each.is_dir() or each.name.endswith(".gguf")]
    except OSError:
        # a question is not worth an error: this folder may be gone, or closed to us
        return None
    return next(iter(get_close_matches(word, names, n=1, cutoff=0.75)), None)


def find_prompt(prompt: str | None, *, is_bundled: bool, needs_text: bool) -> str | None:
    """The prompt: the one given, standard input for "-", what was piped in, the default of the
    bundled model. None: talk with the terminal, which `needs_text` forbids for that model."""
    if prompt == "-":
        return _read_input()
    if prompt is not None:
        return prompt
    if sys.stdin is not None and sys.stdin.isatty():
        return DEFAULT_PROMPT if is_bundled and needs_text else None
    if piped := _piped():
        return piped
    if is_bundled:
        return DEFAULT_PROMPT
    raise InputError(
        "there is no prompt", hint="give one after the model, or - to wait for standard input"
    )


def _piped() -> str:
    # an open pipe without text may never end, so only what is there by now counts
    try:
        is_there = bool(select.select([sys.stdin], [], [], 0)[0])
    except (OSError, ValueError, TypeError):
        # not a file of the system's: none, closed, or one in memory
        is_there = sys.stdin is not None and not sys.stdin.closed
    return _read_input() if is_there else ""


def _read_input() -> str:
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8 at byte {error.start}", hint="convert it to UTF-8"
        ) from None
