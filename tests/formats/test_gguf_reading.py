"""Good GGUF files: what the public package writes is read here, and what it reads is the same."""

import struct
import time
from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest
from made_gguf import (
    ARRAY,
    I32,
    Q4_0_TENSOR,
    STRING,
    U8,
    U32,
    array,
    gguf,
    key,
    parsed,
    tensor,
    text,
    u32,
)

from expertly.formats.blocks import BY_ID, Block
from expertly.formats.gguf import read
from expertly.formats.gguf_reader import reader

SCALARS: dict[str, tuple[Any, str]] = {
    "u8": (255, "UINT8"),
    "i8": (-128, "INT8"),
    "u16": (65535, "UINT16"),
    "i16": (-32768, "INT16"),
    "u32": (4294967295, "UINT32"),
    "i32": (-2147483648, "INT32"),
    "u64": (18446744073709551615, "UINT64"),
    "i64": (-9223372036854775808, "INT64"),
    "f32": (1.5, "FLOAT32"),
    "f64": (0.1, "FLOAT64"),
    "yes": (True, "BOOL"),
    "no": (False, "BOOL"),
    "text": ("größe 🙂\0 end", "STRING"),
    "nothing": ("", "STRING"),
}
LISTS: dict[str, list[Any]] = {
    "ints": [-1, 0, 2147483647],
    "floats": [0.5, -2.0],
    "bools": [True, False, True],
    "texts": ["", "a", "日本", " b\n"],
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of the public package's with every type of value and some tensors."""
    path = tmp_path / "theirs.gguf"
    writer = oracle.GGUFWriter(path, "some-arch")
    for name, (value, kind) in SCALARS.items():
        writer.add_key_value(name, value, oracle.GGUFValueType[kind])
    for name, values in LISTS.items():
        writer.add_array(name, values)
    rng = np.random.default_rng(0)
    writer.add_tensor("matrix", rng.standard_normal((3, 5), np.float32))
    writer.add_tensor("cube", rng.standard_normal((2, 3, 4)).astype(np.float16))
    blocks = oracle.quants.quantize(
        rng.standard_normal((4, 64), np.float32), oracle.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("quants", blocks, raw_dtype=oracle.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_type_of_value_is_read_with_its_python_type(written: Path) -> None:
    metadata = read(written).metadata
    assert metadata["general.architecture"] == "some-arch"
    assert list(metadata) == ["general.architecture", *SCALARS, *LISTS]
    for name, (value, _) in SCALARS.items():
        assert metadata[name] == value and type(metadata[name]) is type(value)
    for name, values in LISTS.items():
        found = metadata[name]
        assert isinstance(found, list)
        assert found == values and {type(item) for item in found} == {type(values[0])}


def test_a_list_is_made_once(written: Path) -> None:
    metadata = read(written).metadata
    assert metadata["texts"] is metadata["texts"]
    with pytest.raises(KeyError):
        metadata["absent"]


def test_tensors_lie_where_the_public_reader_finds_them(written: Path) -> None:
    ours, theirs = read(written), oracle.GGUFReader(written)
    assert ours.version == 3 and ours.alignment == theirs.alignment == 32
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    with reader(ours) as bytes_of:
        for expected in theirs.tensors:
            found = ours.tensors[expected.name]
            assert found.block is BY_ID[expected.tensor_type.value]
            assert list(found.shape) == expected.shape.tolist()[::-1]
            assert (found.offset, found.num_bytes) == (expected.data_offset, expected.n_bytes)
            assert bytes_of.read(found).tobytes() == expected.data.tobytes()


def test_the_file_is_told_by_its_size_and_time(written: Path) -> None:
    found, status = read(written), written.stat()
    assert (found.path, found.size, found.mtime_ns) == (
        written, status.st_size, status.st_mtime_ns,
    )  # fmt: skip
    assert {tensor.file for tensor in found.tensors.values()} == {written} == set(found.files)


@pytest.mark.parametrize("block", BY_ID.values(), ids=lambda block: block.name)
def test_every_type_of_tensor_is_known(block: Block) -> None:
    data = bytes(3 * 2 * block.num_bytes)
    found = parsed(gguf(tensors=[tensor("w", [2 * block.size, 3], block.ggml_id or 0)], data=data))
    assert found.tensors["w"].block is block
    assert found.tensors["w"].shape == (3, 2 * block.size)
    assert found.tensors["w"].num_bytes == len(data)


def test_a_file_of_version_2_reads_like_one_of_version_3() -> None:
    keys = [key("a", U32, u32(7)), key("b", ARRAY, array(STRING, 1, text("x")))]
    for version in (2, 3):
        found = parsed(gguf(keys, [tensor("w", [4])], bytes(16), version=version))
        assert found.version == version
        assert dict(found.metadata) == {"a": 7, "b": ["x"]}
        assert found.tensors["w"].shape == (4,)


def test_values_by_hand_are_little_endian() -> None:
    numbers = struct.pack("<3i", 1, -2, 1 << 30)
    found = parsed(gguf([key("n", ARRAY, array(I32, 3, numbers))])).metadata["n"]
    assert found == [1, -2, 1 << 30]


def test_arrays_of_arrays_are_lists_of_lists() -> None:
    rows = array(U8, 2, b"\1\2") + array(U8, 0) + array(STRING, 1, text("x"))
    found = parsed(gguf([key("k", ARRAY, array(ARRAY, 3, rows)), key("after", U8, b"\5")]))
    assert dict(found.metadata) == {"k": [[1, 2], [], ["x"]], "after": 5}


def test_a_tensor_without_dimensions_is_one_weight() -> None:
    found = parsed(gguf(tensors=[tensor("w", [])], data=bytes(4))).tensors["w"]
    assert (found.shape, found.num_bytes) == ((), 4)


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_offsets_count_from_the_aligned_end_of_the_header(alignment: int) -> None:
    keys = [key("general.alignment", U32, u32(alignment))]
    tensors = [tensor("a", [1]), tensor("b", [32], Q4_0_TENSOR, max(alignment, 8))]
    head = gguf(keys, tensors, alignment=alignment)
    found = parsed(head + bytes(max(alignment, 8) + 18))
    assert found.alignment == alignment
    assert [t.offset for t in found.tensors.values()] == [
        len(head), len(head) + max(alignment, 8),
    ]  # fmt: skip


def test_tensors_may_come_in_any_order_with_gaps_between_them() -> None:
    tensors = [tensor("late", [4], offset=96), tensor("early", [4], offset=32)]
    found = parsed(gguf(tensors=tensors, data=bytes(96 + 16 + 5)))
    assert list(found.tensors) == ["late", "early"]


def test_a_file_without_tensors_may_end_after_its_keys() -> None:
    found = parsed(gguf([key("a", U8, b"\1")], alignment=1))
    assert (dict(found.metadata), found.tensors) == ({"a": 1}, {})


def test_a_header_of_200_000_tokens_is_read_in_under_a_second(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    tokens = b"".join(text(f"token {n}") for n in range(200_000))
    merges = b"".join(text(f"to ken{n}") for n in range(200_000))
    keys = [
        key("tokens", ARRAY, array(STRING, 200_000, tokens)),
        key("merges", ARRAY, array(STRING, 200_000, merges)),
        key("types", ARRAY, array(I32, 200_000, np.arange(200_000, dtype="<i4").tobytes())),
    ]
    path.write_bytes(gguf(keys))
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        found = read(path).metadata
        lists = [found["tokens"], found["merges"], found["types"]]
        best = min(best, time.perf_counter() - begun)
    assert [item[-1] for item in lists if isinstance(item, list)] == [
        "token 199999", "to ken199999", 199_999,
    ]  # fmt: skip
    assert best < 1.0
