"""Does the GGUF reader survive? Reads mutants of small files, as many as there is time for.

    python tools/fuzz_gguf.py [--mutants 10000000] [--minutes 30] [--jobs 2] [--salt 0]

A find is a mutant that ends in anything but our own error, that takes over a second, more memory
than four times its header and 16 MiB, or that is accepted and then not what it says. Finds are kept
in the folder --keep. Ends with one line of JSON; exit code 1 if anything was found.
"""

import sys
from itertools import pairwise
from pathlib import Path

from fuzz_command import run
from fuzz_mutate import Mutator
from fuzz_seeds import gguf_seeds

from expertly.errors import CheckpointError
from expertly.formats import gguf_splits
from expertly.formats.gguf import Gguf, Stamp, joined, parse

PART = Path("seed-00001-of-00002.gguf")


def check(data: bytes) -> bool:
    """Reads these bytes as a file; whether they are one. AssertionError: accepted and wrong."""
    try:
        found = parse(PART, Stamp(len(data), 0), lambda at, count: data[at : at + count])
    except CheckpointError as error:
        assert "(at byte " in error.message and error.hint, error.message
        return False
    _check_tensors(found)
    for value in found.metadata.values():
        assert isinstance(value, int | float | str | list), type(value)
    _join(found)
    return True


def _check_tensors(found: Gguf) -> None:
    spans = sorted((t.offset, t.offset + t.num_bytes) for t in found.tensors.values())
    assert all(one[1] <= other[0] for one, other in pairwise(spans)), "overlap"
    assert not spans or spans[-1][1] <= found.size, "outside"
    for tensor in found.tensors.values():
        assert tensor.num_bytes == tensor.block.num_bytes_of(tensor.shape) > 0
        assert tensor.offset % found.alignment == 0


def _join(found: Gguf) -> None:
    """What `read` does with a file that says it is one of several, beside another like it."""
    try:
        count = gguf_splits.count_of(PART, found.metadata)
        if count > 1:
            joined(PART, [found] * min(count, 3))
    except CheckpointError:
        pass


def mutants(salt: int) -> Mutator:
    return Mutator(gguf_seeds(), salt)


def main() -> int:
    return run("gguf", __doc__, check, gguf_seeds(), mutants)


if __name__ == "__main__":
    sys.exit(main())
