"""Small packed folders, and shards whose headers are taken apart, changed and put together."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from expertly.formats.packed import MANIFEST, expert_key
from expertly.formats.packed_header import PAGE, Blob
from expertly.formats.packed_writer import Content, laid_out, write

CONFIG = {"model_type": "olmoe", "num_experts": 3}
# gate, up and down of an expert: bytes as kernels might lay them out
MATRICES = [
    ("gate", "i4", 16, 64, 1088),
    ("up", "i4", 16, 64, 1100),
    ("down", "q8_0", 64, 16, 2112),
]
NUM_EXPERTS = 3


def content(blob: Blob, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(blob.num_bytes)


def pieces_of(data: bytes, size: int = 1000) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[at : at + size] for at in range(0, len(data), size))


def made(folder: Path, max_shard_bytes: int = 1 << 30) -> dict[str, bytes]:
    """Writes three experts, a matrix and a vector; the bytes of each blob."""
    folder.mkdir(exist_ok=True)
    blobs = [laid_out(expert_key(1, e), MATRICES) for e in range(NUM_EXPERTS)]
    blobs.append(laid_out("head_VD", [("head_VD", "bf16", 32, 64, PAGE)]))
    blobs.append(laid_out("norm.scale_D", [("scale_D", "f32", 1, 64, 256)]))
    data = {blob.key: content(blob, seed) for seed, blob in enumerate(blobs)}
    contents = [Content(blob, lambda key=blob.key: pieces_of(data[key])) for blob in blobs]
    write(folder, CONFIG, contents, bits=4, unreached=[(1, 2)], max_shard_bytes=max_shard_bytes)
    return data


def head_of(file: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A shard's header, the document in it, and the data behind."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["expertly"]), data[8 + length :]


def shard_of(header: dict[str, Any], about: object, data: bytes) -> bytes:
    header = {**header, "__metadata__": {"expertly": json.dumps(about)}}
    return with_length(json.dumps(header).encode(), data)


def with_length(text: bytes, data: bytes) -> bytes:
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text + data


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
