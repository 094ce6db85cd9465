"""The table of formats against the public gguf package and against the kernels' own table."""

import re
from pathlib import Path

import gguf
import pytest

from expertly.formats.blocks import BLOCKS, BY_ID, Block

FORMATS_H = Path(__file__).parents[2] / "csrc" / "formats.h"


@pytest.mark.parametrize("block", BY_ID.values(), ids=lambda block: block.name)
def test_ids_and_sizes_are_those_of_the_gguf_package(block: Block) -> None:
    theirs = gguf.GGMLQuantizationType[block.name.upper()]
    assert block.ggml_id == theirs.value
    assert (block.size, block.num_bytes) == gguf.GGML_QUANT_SIZES[theirs]


def test_the_kernels_have_the_same_table_in_the_same_order() -> None:
    rows = re.findall(r'\{"(\w+)", (\d+), (\d+), (\d+)\}', FORMATS_H.read_text())
    ours = [(b.name, b.size, b.num_bytes, b.row_bytes) for b in BLOCKS.values()]
    assert [(name, int(size), int(n), int(row)) for name, size, n, row in rows] == ours


def test_fifteen_formats_are_of_gguf_and_one_is_ours() -> None:
    assert len(BLOCKS) == 16
    assert len(BY_ID) == 15
    assert set(BLOCKS) - {block.name for block in BY_ID.values()} == {"i4"}


@pytest.mark.parametrize(
    ("name", "shape", "num_bytes"),
    [
        ("f32", (5,), 20),
        ("f32", (), 4),
        ("bf16", (3, 5), 30),
        ("q4_0", (2, 64), 2 * 2 * 18),
        ("q4_k", (4, 3, 512), 4 * 3 * 2 * 144),
        ("q6_k", (0, 256), 0),
        ("i4", (1, 33), 8 + 2 * 18),
        ("i4", (3, 64), 3 * (8 + 2 * 18)),
    ],
)
def test_bytes_of_a_tensor_are_counted_by_rows_of_blocks(
    name: str, shape: tuple[int, ...], num_bytes: int
) -> None:
    assert BLOCKS[name].num_bytes_of(shape) == num_bytes


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        BLOCKS["f32"] = BLOCKS["f16"]  # type: ignore[index]
