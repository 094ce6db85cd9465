"""Texts by the name of a data set, streamed by the library `datasets` into a file of the run."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from expertly.errors import InputError
from expertly.planner import parse_bytes
from expertly.train.files import writing

DATASETS = "datasets:"
_KNOWN = {"config": "", "split": "train", "column": "text", "files": "", "bytes": "64MB"}
_HINT = "write datasets:NAME?split=train&column=text&bytes=64MB; config and files may be given too"


def fetch(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """`names` with a file in `folder` for each data set: its documents, an empty line between, up
    to as many bytes as were asked for. A file that is there is not fetched again.

    Raises InputError for a data set that cannot be read, and where the library is missing.
    """
    return tuple(
        str(_file_of(name, folder).absolute()) if name.startswith(DATASETS) else name
        for name in names
    )


def _file_of(name: str, folder: Path) -> Path:
    source, options = parse(name)
    # another split, file or number of bytes is another text
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    path = folder / f"{source.replace('/', '--')}-{digest}.txt"
    if path.exists():
        return path
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            left = parse_bytes(options["bytes"])
            for text in _documents(name, source, options):
                file.write(text.strip() + "\n\n")
                left -= len(text.encode())
                if left <= 0:
                    break
        partial.replace(path)
    return path


def parse(name: str) -> tuple[str, dict[str, str]]:
    """The data set's name and the options after a question mark."""
    source, _, query = name.removeprefix(DATASETS).partition("?")
    options = dict(_KNOWN)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _KNOWN:
            raise InputError(f"{name}: {key!r} is no option of a data set", hint=_HINT)
        options[key] = value
    if not source:
        raise InputError(f"{name!r} names no data set", hint=_HINT)
    return source, options


def _documents(name: str, source: str, options: dict[str, str]) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name} needs the package datasets", hint="pip install datasets, or name a file"
        ) from None
    more: dict[str, Any] = {"data_files": options["files"]} if options["files"] else {}
    try:
        rows = datasets.load_dataset(
            source, options["config"] or None, split=options["split"], streaming=True, **more
        )
        for row in rows:
            yield _text_of(row, name, options["column"])
    except InputError:
        raise
    # the library raises what its file systems, formats and scripts raise
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} cannot be read: {said[:200]}",
            hint="check its name, split and files, and that the hub can be reached",
        ) from error


def _text_of(row: dict[str, Any], name: str, column: str) -> str:
    if not isinstance(row.get(column), str):
        raise InputError(
            f"{name}: {column!r} is no column of text",
            hint=f"add column= and one of {', '.join(sorted(row))}",
        )
    text: str = row[column]
    return text
