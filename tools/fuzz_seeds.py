"""Small valid GGUF files that mutants are made of: every type of value and of tensor is in one."""

import struct
import tempfile
from pathlib import Path
from typing import Any

from expertly.formats.blocks import BLOCKS, BY_ID
from expertly.formats.gguf_writer import Tensor, Typed, write

_KINDS = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"]


def gguf_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.gguf"
        return [*_written(path), _nested(), *_of_version_2(path)]


def _written(path: Path) -> list[bytes]:
    made = [
        (_values(), [_zeros("w", "f32", 2, 3)]),
        (_tokens(), []),
        ({"general.alignment": 64}, [_zeros(b.name, b.name, b.size) for b in BY_ID.values()]),
        (_split(), [_zeros("blk.0.ffn_gate_exps.weight", "q4_0", 2, 3, 32)]),
    ]
    return [_file(path, keys, tensors) for keys, tensors in made]


def _file(path: Path, keys: dict[str, Any], tensors: list[Tensor]) -> bytes:
    write(path, keys, tensors)
    return path.read_bytes()


def _zeros(name: str, block: str, *shape: int) -> Tensor:
    return name, BLOCKS[block], shape, lambda: [bytes(BLOCKS[block].num_bytes_of(shape))]


def _values() -> dict[str, Any]:
    scalars = {kind: Typed(kind, 1) for kind in _KINDS}
    lists = {f"{kind}s": Typed(kind, [1, 2, 3]) for kind in _KINDS}
    others = {"f32": 0.5, "f64": Typed("f64", 0.1), "bool": True, "bools": [True, False]}
    return {"general.architecture": "olmoe", **scalars, **lists, **others}


def _tokens() -> dict[str, Any]:
    tokens = ["<s>", "", "é", "日本", "🙂", *(f"t{n}" for n in range(12))]
    return {"tokens": tokens, "types": [1] * len(tokens), "scores": [0.0] * len(tokens)}


def _split() -> dict[str, Any]:
    return {
        "split.no": Typed("u16", 0),
        "split.count": Typed("u16", 2),
        "split.tensors.count": Typed("i32", 1),
    }


def _nested() -> bytes:
    """An array of arrays, which our writer has no need of."""
    inner = struct.pack("<IQ3B", 0, 3, 1, 2, 3)
    value = (
        struct.pack("<IQ", 9, 2) + inner + struct.pack("<IQ", 8, 1) + struct.pack("<Q1s", 1, b"x")
    )
    key = struct.pack("<Q1sI", 1, b"n", 9)
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + value


def _of_version_2(path: Path) -> list[bytes]:
    data = _file(path, {"a": 1}, [_zeros("w", "q8_0", 32)])
    return [data[:4] + struct.pack("<I", 2) + data[8:]]
