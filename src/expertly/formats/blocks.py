"""The weight formats: their names, their ids in GGUF files and the sizes of their blocks.

The same table as `csrc/formats.h`. Block types as in the GGUF specification; `i4` is our own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Block:
    """A format: a row is `row_bytes`, then a block for every `size` of its weights."""

    name: str
    ggml_id: int | None  # None: not a type of GGUF
    size: int  # weights a block
    num_bytes: int  # bytes a block
    row_bytes: int = 0  # bytes that a row begins with, before its blocks

    def num_bytes_of(self, shape: Sequence[int]) -> int:
        """Bytes of a tensor, rows last in `shape`; a row is padded to whole blocks."""
        columns = shape[-1] if shape else 1
        row = self.row_bytes + -(-columns // self.size) * self.num_bytes
        return math.prod(shape[:-1]) * row


_TABLE = (
    Block("f32", 0, 1, 4),
    Block("f16", 1, 1, 2),
    Block("bf16", 30, 1, 2),
    Block("q8_0", 8, 32, 34),
    Block("q4_0", 2, 32, 18),
    Block("q4_1", 3, 32, 20),
    Block("q5_0", 6, 32, 22),
    Block("q5_1", 7, 32, 24),
    Block("q4_k", 12, 256, 144),
    Block("q5_k", 13, 256, 176),
    Block("q6_k", 14, 256, 210),
    Block("q3_k", 11, 256, 110),
    Block("q2_k", 10, 256, 84),
    Block("iq4_nl", 20, 32, 18),
    Block("mxfp4", 39, 32, 17),
    Block("i4", None, 32, 18, row_bytes=8),
)

BLOCKS: Mapping[str, Block] = MappingProxyType({block.name: block for block in _TABLE})
BY_ID: Mapping[int, Block] = MappingProxyType(
    {block.ggml_id: block for block in _TABLE if block.ggml_id is not None}
)

# types of GGUF that are not read, for messages that name them
OTHER_TYPES: Mapping[int, str] = MappingProxyType(
    {
        9: "q8_1",
        15: "q8_k",
        16: "iq2_xxs",
        17: "iq2_xs",
        18: "iq3_xxs",
        19: "iq1_s",
        21: "iq3_s",
        22: "iq2_s",
        23: "iq4_xs",
        24: "i8",
        25: "i16",
        26: "i32",
        27: "i64",
        28: "f64",
        29: "iq1_m",
        34: "tq1_0",
        35: "tq2_0",
        40: "nvfp4",
        41: "q1_0",
    }
)
