"""Texts to observe, read from files: UTF-8 or refused, and no more of a file than is needed."""

import codecs
from pathlib import Path

from expertly.errors import InputError

# a longer token is rare: enough bytes for the tokens that were asked for
_BYTES_PER_TOKEN = 64


def read_text(path: Path, max_tokens: int) -> str:
    """The beginning of a text file, long enough for `max_tokens`.

    InputError: the file cannot be read, is empty, or is not UTF-8 (with the byte's offset).
    """
    limit = max_tokens * _BYTES_PER_TOKEN
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="give the path of a text file"
        ) from error
    is_whole = len(data) <= limit
    try:
        # a character cut at the limit is left out, one cut at the end of the file is an error
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:limit], final=is_whole)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            hint="convert it, for instance with iconv -t UTF-8",
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty", hint="give a text file with some text in it")
    return text


def read_texts(files: dict[str, Path], max_tokens: int) -> dict[str, str]:
    return {name: read_text(path, max_tokens) for name, path in files.items()}


def domains(files: list[Path], named: list[str]) -> dict[str, Path]:
    """Names of domains and their files: each file by its stem, each NAME=FILE by its name.

    InputError: NAME=FILE without a name or file, or two texts of one name.
    """
    pairs = [(path.stem, path) for path in files]
    for item in named:
        name, _, file = item.partition("=")
        if not (name and file):
            raise InputError(f"{item!r} names no domain and file", hint="write NAME=FILE")
        pairs.append((name, Path(file)))
    found: dict[str, Path] = {}
    for name, path in pairs:
        if name in found:
            raise InputError(
                f"two texts are named {name!r}: {found[name]} and {path}",
                hint="give one of them another name with --domains NAME=FILE",
            )
        found[name] = path
    return found
