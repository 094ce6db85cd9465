"""GGUF models in several files: which files belong together, and whether they do."""

import re
from collections.abc import Mapping
from pathlib import Path

from expertly.errors import CheckpointError
from expertly.formats.gguf_values import Value

NUMBER_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"
MAX_FILES = 4096

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_AGAIN = "put all files of one download into one folder, under the names that they came with"


def count_of(path: Path, metadata: Mapping[str, Value]) -> int:
    """How many files the model has, by one file's metadata."""
    count = metadata.get(COUNT_KEY, 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MAX_FILES:
        raise CheckpointError(f"{path}: {COUNT_KEY} is {count!r}", hint=_AGAIN)
    return count


def files_of(path: Path, count: int) -> list[Path]:
    """The set that a file belongs to, in order; CheckpointError if one of them is missing."""
    match = _NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise CheckpointError(
            f"{path} is one of {count} files, but its name does not end as "
            f"-00001-of-{count:05}.gguf does",
            hint=_AGAIN,
        )
    files = [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(
            f"{path} is one of {count} files; of the others {missing[0]} is missing", hint=_AGAIN
        )
    return files


def check_part(path: Path, metadata: Mapping[str, Value], index: int, count: int) -> None:
    """Raises unless the file says of itself what its name says."""
    said = [metadata.get(NUMBER_KEY), metadata.get(COUNT_KEY)]
    if said != [index, count]:
        raise CheckpointError(
            f"{path} says that it is file {said[0]} (from 0) of {said[1]}, not {index} of {count}",
            hint=_AGAIN,
        )


def check_total(path: Path, metadata: Mapping[str, Value], num_tensors: int) -> None:
    said = metadata.get(TENSORS_KEY)
    if said != num_tensors:
        raise CheckpointError(
            f"{path}: the files hold {num_tensors} tensors, {TENSORS_KEY} is {said!r}", hint=_AGAIN
        )


def in_two_files(name: str, one: Path, other: Path) -> CheckpointError:
    return CheckpointError(
        f"the tensor {name!r} is in both {one.name} and {other.name}", hint=_AGAIN
    )
