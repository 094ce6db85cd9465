"""Every way in which a GGUF file is known to be wrong: each is one clear error with its offset."""

import os
import re
from pathlib import Path

import pytest
from made_gguf import (
    ARRAY,
    BOOL,
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
    u64,
)

from expertly.errors import CheckpointError
from expertly.formats.gguf import MAX_KEYS, MAX_TENSORS, read
from expertly.formats.gguf_cursor import MAX_HEADER_BYTES, MAX_STRING_BYTES, MAX_STRINGS
from expertly.formats.gguf_values import MAX_ARRAYS

HUGE = (1 << 64) - 1
HEAD = 4 + 4 + 8 + 8  # magic, version, number of tensors, number of keys


def refusal(data: bytes, size: int | None = None) -> tuple[str, int]:
    """What is said of a file, and the offset in it."""
    with pytest.raises(CheckpointError) as caught:
        parsed(data, size)
    assert caught.value.hint
    match = re.fullmatch(r"made\.gguf: (.*) \(at byte (\d+)\)", caught.value.message, re.DOTALL)
    assert match, caught.value.message
    return match[1], int(match[2])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "4 bytes are wanted where 0 remain"),
        (b"GG", "4 bytes are wanted where 2 remain"),
        (b"ggml" + bytes(60), "this is no GGUF file: it begins with b'ggml'"),
        (b"PK\3\4" + bytes(60), r"this is no GGUF file: it begins with b'PK\x03\x04'"),
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes, said: str) -> None:
    assert refusal(data) == (said, 0)


@pytest.mark.parametrize("version", [0, 1, 4, 1 << 31 | 1])
def test_versions_before_2_and_after_3_are_refused(version: int) -> None:
    said = f"the file is of GGUF version {version}; known are 2 and 3"
    assert refusal(gguf(version=version)) == (said, 4)


@pytest.mark.parametrize("version", [2, 3])
def test_a_big_endian_file_is_refused_as_one(version: int) -> None:
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    assert refusal(gguf(version=swapped)) == ("the file is big-endian", 4)


@pytest.mark.parametrize("count", [HUGE, 1 << 63, 1 << 40, 4])
def test_a_count_of_keys_is_held_against_what_remains(count: int) -> None:
    said, at = refusal(gguf(num_keys=count, alignment=1) + bytes(55))
    assert (said, at) == (f"{count} keys are announced where 55 bytes remain", HEAD)


@pytest.mark.parametrize("count", [HUGE, 1 << 63, 1 << 40, 3])
def test_a_count_of_tensors_is_held_against_what_remains(count: int) -> None:
    said, at = refusal(gguf(num_tensors=count, alignment=1) + bytes(74))
    assert (said, at) == (f"{count} tensors are announced where 74 bytes remain", HEAD)


def test_more_keys_or_tensors_than_any_model_has_are_refused() -> None:
    keys, tensors = gguf(num_keys=MAX_KEYS + 1), gguf(num_tensors=MAX_TENSORS + 1)
    assert refusal(keys, 1 << 40)[0] == "65537 keys are announced; no model has more than 65536"
    assert "32769 tensors are announced" in refusal(tensors, 1 << 40)[0]


def test_a_file_that_ends_at_any_byte_of_its_header_is_refused() -> None:
    keys = [key("a", U32, u32(1)), key("b", ARRAY, array(STRING, 2, text("x") + text("yz")))]
    whole = gguf(keys, [tensor("w", [4])], bytes(16))
    assert set(parsed(whole).tensors) == {"w"}
    for end in range(len(whole)):
        refusal(whole[:end])


def test_a_file_that_gives_fewer_bytes_than_its_size_is_refused() -> None:
    whole = gguf([key("a", U32, u32(1))], [tensor("w", [4])], bytes(16))
    said, _ = refusal(whole[:40], len(whole))
    assert said == f"the file ends where {len(whole)} bytes were promised"


@pytest.mark.parametrize("length", [HUGE, 1 << 63, 1 << 16, 0])
def test_the_length_of_a_name_is_not_trusted(length: int) -> None:
    said = f"is announced with {length} bytes"
    bad_key = gguf([text("", length) + u32(U32) + u32(1)])
    assert refusal(bad_key) == (f"a key {said}", HEAD)
    bad_tensor = gguf(tensors=[text("", length) + tensor("w", [4])[9:]])
    assert refusal(bad_tensor) == (f"a tensor's name {said}", HEAD)


def test_a_name_that_is_longer_than_the_file_is_refused() -> None:
    data = gguf([text("ab", 60) + u32(U32) + u32(1)], alignment=1)
    assert refusal(data) == ("60 bytes are wanted where 10 remain", HEAD + 8)


@pytest.mark.parametrize("length", [HUGE, HUGE - 7, 1 << 63, MAX_STRING_BYTES + 1])
def test_the_length_of_a_string_is_not_trusted(length: int) -> None:
    said = f"the value of 'k' is announced with {length} bytes"
    assert refusal(gguf([key("k", STRING, text("abc", length))])) == (said, HEAD + 13)


def test_a_string_that_is_longer_than_the_file_is_refused() -> None:
    data = gguf([key("k", STRING, text("abc", 4))], alignment=1)
    assert refusal(data) == ("12 bytes are wanted where 11 remain", HEAD + 13)


@pytest.mark.parametrize("count", [HUGE, 1 << 63, 1 << 61, 1 << 40, 2])
@pytest.mark.parametrize("kind", [U8, I32, BOOL, STRING, ARRAY, 12])
def test_the_count_of_an_array_is_not_trusted(kind: int, count: int) -> None:
    said, at = refusal(gguf([key("k", ARRAY, array(kind, count, b"\1"))], alignment=1))
    assert said.startswith(f"{count} ") and said.endswith("are announced where 1 bytes remain")
    assert at == HEAD + 25


def test_more_strings_than_any_vocabulary_has_are_refused_before_they_are_read() -> None:
    data = gguf([key("k", ARRAY, array(STRING, MAX_STRINGS + 1))])
    assert refusal(data, 1 << 40)[0] == f"the file holds more than {MAX_STRINGS} strings"


def test_arrays_may_be_nested_four_deep_and_no_deeper() -> None:
    def nested(depth: int) -> bytes:
        return array(ARRAY, 1, nested(depth - 1)) if depth > 1 else array(U8, 2, b"\1\2")

    assert parsed(gguf([key("k", ARRAY, nested(4))])).metadata["k"] == [[[[1, 2]]]]
    for depth in (5, 6, 2000):
        # the innermost of them is never reached
        data = array(ARRAY, 1) * (depth - 1) + array(U8, 2, b"\1\2")
        said, _ = refusal(gguf([key("k", ARRAY, data)]))
        assert said == "the arrays of 'k' are nested deeper than 4"


def test_arrays_without_elements_cannot_be_announced_without_end() -> None:
    inner = array(U8, 0) * (MAX_ARRAYS + 1)
    said, _ = refusal(gguf([key("k", ARRAY, array(ARRAY, MAX_ARRAYS + 1, inner))]))
    assert said == f"the file holds more than {MAX_ARRAYS} arrays"


@pytest.mark.parametrize("kind", [13, 255, 0xFFFFFFFF])
def test_unknown_value_types_are_refused_by_their_key(kind: int) -> None:
    said = f"'k' is of unknown value type {kind}"
    assert refusal(gguf([key("k", kind, bytes(8))])) == (said, HEAD + 13)
    said = f"'k' is an array of unknown value type {kind}"
    assert refusal(gguf([key("k", ARRAY, array(kind, 1, bytes(8)))])) == (said, HEAD + 25)


@pytest.mark.parametrize("byte", [2, 0x80, 0xFF])
def test_a_bool_that_is_neither_0_nor_1_is_refused(byte: int) -> None:
    said = ("'k' holds a bool that is neither 0 nor 1", HEAD + 13)
    assert refusal(gguf([key("k", BOOL, bytes([byte]))])) == said
    said = (said[0], HEAD + 25)
    assert refusal(gguf([key("k", ARRAY, array(BOOL, 3, bytes([1, byte, 0])))])) == said


@pytest.mark.parametrize("bad", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_not_utf_8_is_refused_wherever_it_stands(bad: bytes) -> None:
    in_place = {
        "a key": gguf([key(bad, U32, u32(1))]),
        "the value of 'k'": gguf([key("k", STRING, text(bad))]),
        "an element of 'k'": gguf([key("k", ARRAY, array(STRING, 2, text("a") + text(bad)))]),
        "a tensor's name": gguf(tensors=[tensor(bad, [4])], data=bytes(16)),
    }
    for where, data in in_place.items():
        said, at = refusal(data)
        assert said == f"{where} is not valid UTF-8"
        assert data[at] == next(byte for byte in bad if byte >= 0x80)


def test_a_key_that_comes_twice_is_refused() -> None:
    one = key("k", U32, u32(1))
    assert refusal(gguf([one, one])) == ("the key 'k' comes twice", HEAD + len(one))


def test_a_tensor_that_comes_twice_is_refused() -> None:
    one, other = tensor("w", [4]), tensor("w", [4], offset=32)
    said = ("the tensor 'w' comes twice", HEAD + len(one))
    assert refusal(gguf(tensors=[one, other], data=bytes(64))) == said


@pytest.mark.parametrize("alignment", [0, 3, 24, 33, 0xFFFFFFFF])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    said, _ = refusal(gguf([key("general.alignment", U32, u32(alignment))]))
    assert said == f"general.alignment is {alignment}, no power of two"


def test_an_alignment_of_another_type_than_u32_is_refused() -> None:
    for kind, payload in [(10, u64(32)), (BOOL, b"\1"), (STRING, text("32")), (I32, u32(32))]:
        said, _ = refusal(gguf([key("general.alignment", kind, payload)]))
        assert said == f"general.alignment is of value type {kind}, not 4"


def test_an_alignment_that_puts_tensors_beyond_the_file_is_refused() -> None:
    keys = [key("general.alignment", U32, u32(1 << 31))]
    said, at = refusal(gguf(keys, [tensor("w", [4])], bytes(64)))
    assert "'w' of 16 bytes ends outside the file" in said
    assert at == 1 << 31


@pytest.mark.parametrize("num_dims", [5, 255, 0xFFFFFFFF])
def test_more_than_four_dimensions_are_refused(num_dims: int) -> None:
    said, at = refusal(gguf(tensors=[tensor("w", [1] * 5, num_dims=num_dims)], data=bytes(64)))
    assert (said, at) == (f"the tensor 'w' has {num_dims} dimensions", HEAD + 9)


@pytest.mark.parametrize("dims", [[0], [4, 0], [0, 1 << 63], [1, 1, 1, 0]])
def test_tensors_without_elements_are_refused(dims: list[int]) -> None:
    said, _ = refusal(gguf(tensors=[tensor("w", dims)], data=bytes(64)))
    assert said == f"the tensor 'w' of shape {dims[::-1]} is empty"


@pytest.mark.parametrize(
    "dims",
    [[1 << 62], [1 << 32, 1 << 32], [1 << 63, 2], [HUGE] * 4, [(1 << 62) + 4], [5], [4, 2]],
)
def test_products_of_dimensions_do_not_wrap(dims: list[int]) -> None:
    # in 64 bits each product of the first ones is small, or nothing
    said, _ = refusal(gguf(tensors=[tensor("w", dims)], data=bytes(16)))
    assert re.fullmatch(r"the tensor 'w' of \d+ bytes ends outside the file of \d+ bytes", said)


@pytest.mark.parametrize("offset", [HUGE - 31, 1 << 63, 1 << 40, 64])
def test_offsets_outside_the_file_are_refused_and_do_not_wrap(offset: int) -> None:
    said, at = refusal(gguf(tensors=[tensor("w", [4], offset=offset)], data=bytes(64)))
    assert "'w' of 16 bytes ends outside the file" in said
    assert at == len(gguf(tensors=[tensor("w", [4])])) + offset


@pytest.mark.parametrize("offset", [1, 16, 31, 33, HUGE])
def test_offsets_that_are_not_aligned_are_refused(offset: int) -> None:
    said, _ = refusal(gguf(tensors=[tensor("w", [4], offset=offset)], data=bytes(64)))
    assert said == f"the offset {offset} of 'w' is no multiple of 32"


def test_tensors_that_overlap_are_refused() -> None:
    tensors = [tensor("a", [12]), tensor("c", [4], offset=64), tensor("b", [4], offset=32)]
    said, at = refusal(gguf(tensors=tensors, data=bytes(128)))
    assert said == "the tensors 'a' and 'b' overlap"
    assert at == len(gguf(tensors=tensors)) + 32
    same = [tensor("a", [1]), tensor("b", [1])]
    assert refusal(gguf(tensors=same, data=bytes(64)))[0] == "the tensors 'a' and 'b' overlap"


@pytest.mark.parametrize(
    ("kind", "said"),
    [(4, "4"), (5, "5"), (23, "23 (iq4_xs)"), (26, "26 (i32)"), (31, "31"), (9999, "9999")],
)
def test_unknown_tensor_types_are_refused_by_tensor_and_id(kind: int, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parsed(gguf(tensors=[tensor("blk.0.w", [32], kind)], data=bytes(64)))
    assert f"the tensor 'blk.0.w' is of type {said} (at byte" in caught.value.message
    assert "q4_k" in caught.value.hint


@pytest.mark.parametrize(("kind", "columns"), [(Q4_0_TENSOR, 48), (12, 128), (39, 1)])
def test_rows_that_are_no_whole_blocks_are_refused(kind: int, columns: int) -> None:
    said, _ = refusal(gguf(tensors=[tensor("w", [columns, 512], kind)], data=bytes(1 << 20)))
    assert said.startswith(f"the tensor 'w' has rows of {columns} weights, which is no multiple")


def test_a_header_beyond_its_limit_is_refused_before_it_is_read() -> None:
    said, _ = refusal(gguf([key("k", ARRAY, array(U8, 1 << 36))]), 1 << 40)
    assert said == f"the header is longer than {MAX_HEADER_BYTES} bytes"


def test_a_folder_and_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(CheckpointError, match="is not a file"):
            read(path)
    with pytest.raises(CheckpointError, match=r"none\.gguf cannot be read: No such file"):
        read(tmp_path / "none.gguf")
