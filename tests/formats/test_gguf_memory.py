"""Reading costs at most four times the header and 16 MiB, whatever the header is made of."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from made_gguf import (
    ARRAY,
    STRING,
    U8,
    array,
    gguf,
    key,
    tensor,
    text,
)

from expertly.formats.gguf import MAX_KEYS, MAX_TENSORS, Gguf, read
from expertly.formats.gguf_cursor import MAX_STRING_BYTES
from expertly.formats.gguf_values import MAX_ARRAYS


def few_long_strings() -> bytes:
    # one wide character makes four bytes of each
    long = text("a" * (MAX_STRING_BYTES - 4) + "🙂")
    return gguf([key(str(n), STRING, long) for n in range(4)])


def many_short_strings() -> bytes:
    return gguf([key("k", ARRAY, array(STRING, 500_000, text("é") * 500_000))])


def many_small_numbers() -> bytes:
    return gguf([key("k", ARRAY, array(U8, 1 << 24, bytes(range(256)) * (1 << 16)))])


def many_keys() -> bytes:
    return gguf([key(f"{n:x}", ARRAY, array(U8, 0)) for n in range(MAX_KEYS)])


def many_tensors() -> bytes:
    tensors = [tensor(f"{n:x}", [1], offset=32 * n) for n in range(MAX_TENSORS)]
    return gguf(tensors=tensors, data=bytes(32 * MAX_TENSORS))


def many_arrays() -> bytes:
    return gguf([key("k", ARRAY, array(ARRAY, MAX_ARRAYS - 1, array(U8, 0) * (MAX_ARRAYS - 1)))])


def no_header() -> bytes:
    return gguf(tensors=[tensor("w", [1 << 23])], data=bytes(1 << 25))


@pytest.mark.parametrize(
    "make",
    [
        few_long_strings,
        many_short_strings,
        many_small_numbers,
        many_keys,
        many_tensors,
        many_arrays,
        no_header,
    ],
)
def test_memory_stays_within_four_headers_and_16_mib(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "made.gguf"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        found = read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 4 * header_bytes(found) + (16 << 20)


def header_bytes(found: Gguf) -> int:
    return min([tensor.offset for tensor in found.tensors.values()], default=found.size)
