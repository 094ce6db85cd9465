"""Does the reader of packed folders survive? Reads mutants of shards and manifests.

    python tools/fuzz_packed.py [--mutants 10000000] [--minutes 30] [--jobs 2] [--salt 0]

Half of them are bytes changed anywhere, half JSON changed value by value inside a header that is
otherwise in order. A find is what `fuzz_gguf.py` calls one. Ends with one line of JSON; exit code 1
if anything was found.
"""

import copy
import json
import random
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from fuzz_command import run
from fuzz_mutate import Mutator

from expertly.errors import CheckpointError
from expertly.formats.packed import MANIFEST, expert_key, parse_manifest, read_head
from expertly.formats.packed_header import ALIGNMENT, DOCUMENT, METADATA, PAGE, parse_head
from expertly.formats.packed_writer import Content, laid_out, write

SHARD = Path("packed-00001.safetensors")
# what numbers, texts and lists are wrong with
_VALUES: list[Any] = [
    0, 1, -1, 2, 63, 64, 4095, 4096, 4097, 8192, 1 << 31, 1 << 48, 1 << 63, (1 << 64) - 1, 10**400,
    0.0, 4096.0, 1e308, True, False, None, "", "0", "U8", "I8", "i4", "q4_k", "\ud800", "é",
    "a" * 300, "../x", "packed-00002.safetensors", "0" * 16, [], [0], [0, 0], [[[]]], {}, {"a": 1},
]  # fmt: skip


def check(data: bytes) -> bool:
    """Reads these bytes as a manifest or else as a shard; whether they are one. AssertionError:
    accepted and wrong."""
    try:
        if data[:1] == b"{":
            manifest = parse_manifest(Path(MANIFEST), data)
            assert manifest.shards and all(shard.num_bytes > 0 for shard in manifest.shards)
            assert all(Path(shard.name).name == shard.name for shard in manifest.shards)
            return True
        head = read_head(SHARD, len(data), lambda at, count: data[at : at + count])
        _check_blobs(parse_head(SHARD, len(data), head), len(head), len(data))
    except CheckpointError as error:
        assert error.message and error.hint and error.message.isascii()
        return False
    return True


def _check_blobs(blobs: dict[str, Any], begin: int, size: int) -> None:
    spans = [(b.offset, b.offset + b.blob.padded_bytes) for b in blobs.values()]
    assert [end for _, end in [(0, begin), *spans]][:-1] == [at for at, _ in spans], "holes"
    assert (spans[-1][1] if spans else begin) == size, "the file is not filled"
    for stored in blobs.values():
        pieces = stored.blob.pieces
        assert stored.offset % PAGE == 0 and len(stored.checksum) == 16
        assert all(one.offset + one.num_bytes <= two.offset for one, two in pairwise(pieces))
        assert all(piece.offset % ALIGNMENT == 0 for piece in pieces)
        assert pieces[-1].offset + pieces[-1].num_bytes == stored.blob.num_bytes


def packed_seeds() -> list[bytes]:
    """Three shards and their manifest: experts of several formats, a vector, one blob alone."""
    sizes = [
        ("gate", "i4", 16, 64, 1088),
        ("up", "i4", 16, 64, 1088),
        ("down", "q8_0", 64, 16, 2112),
    ]
    blobs = [laid_out(expert_key(0, e), sizes) for e in range(3)]
    blobs += [laid_out("norm.scale_D", [("scale_D", "f32", 1, 64, 256)])]
    blobs += [laid_out("head_VD", [("head_VD", "bf16", 32, 64, PAGE)])]
    contents = [Content(blob, lambda n=blob.num_bytes: [bytes(n)]) for blob in blobs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, {}, contents, bits=4, unreached=[(0, 2)], max_shard_bytes=3 * PAGE)
        files = [*sorted(folder.glob("*.safetensors")), folder / MANIFEST]
        return [file.read_bytes() for file in files]


class PackedMutator:
    """`mutant(n)` is always the same for the same `salt`."""

    def __init__(self, seeds: list[bytes], salt: int = 0) -> None:
        self._bytes = Mutator(seeds, salt)
        self._seeds = seeds
        self._salt = salt
        self._random = random.Random()

    def mutant(self, number: int) -> bytes:
        if number % 2:
            return self._bytes.mutant(number)
        self._random.seed(self._salt << 40 | number)
        seed = self._random.choice(self._seeds)
        if seed[:1] == b"{":
            return json.dumps(self._changed(json.loads(seed))).encode()
        length = int.from_bytes(seed[:8], "little")
        header = json.loads(seed[8 : 8 + length])
        return self._shard(header, seed[8 + length :])

    def _shard(self, header: dict[str, Any], data: bytes) -> bytes:
        """Changes in the header, or in the document inside it; lengths in order."""
        inner = json.loads(header[METADATA][DOCUMENT])
        if self._random.random() < 0.6:
            header[METADATA][DOCUMENT] = json.dumps(self._changed(inner))
        else:
            header = self._changed(header)
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % PAGE)
        data += bytes(PAGE * self._random.choice((0, 0, 0, 0, 0, 0, 0, 1)))
        return len(text).to_bytes(8, "little") + text + data

    def _changed(self, document: Any) -> Any:
        document = copy.deepcopy(document)
        changes: list[Callable[[Any, Any], None]] = [self._replace, self._nudge, self._nudge]
        changes += [self._remove, self._rename, self._swap]
        for _ in range(self._random.choice((1, 1, 2, 3))):
            places = [*_places(document)]
            if places:
                self._random.choice(changes)(*self._random.choice(places))
        return document

    def _replace(self, parent: Any, key: Any) -> None:
        parent[key] = self._random.choice(_VALUES)

    def _nudge(self, parent: Any, key: Any) -> None:
        if isinstance(parent[key], int):
            parent[key] += self._random.choice((-PAGE, -64, -1, 1, 64, PAGE))
        else:
            self._replace(parent, key)

    def _remove(self, parent: Any, key: Any) -> None:
        del parent[key]

    def _rename(self, parent: Any, key: Any) -> None:
        if isinstance(parent, dict):
            parent[self._random.choice(("x", "", "é\ud800", f"{key}0", "gate"))] = parent.pop(key)

    def _swap(self, parent: Any, key: Any) -> None:
        other = self._random.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]


def _places(value: Any) -> Any:
    """Every (parent, key) in a document."""
    keys = (
        [*value] if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutants(salt: int) -> PackedMutator:
    return PackedMutator(packed_seeds(), salt)


def main() -> int:
    return run("packed", __doc__, check, packed_seeds(), mutants)


if __name__ == "__main__":
    sys.exit(main())
