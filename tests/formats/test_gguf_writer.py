"""What is written is read back, here and by the public package; a failure leaves nothing."""

import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertly.errors import OutputError
from expertly.formats.blocks import BLOCKS, BY_ID, Block
from expertly.formats.gguf import read
from expertly.formats.gguf_reader import reader
from expertly.formats.gguf_writer import Tensor, Typed, typed, write

RANGES = {f"{sign}{bits}": (sign, bits) for sign in "ui" for bits in (8, 16, 32, 64)}
CHARACTERS = st.characters(exclude_categories=["Cs"])
NAMES = st.text(CHARACTERS, min_size=1, max_size=12)


def whole_numbers(kind: str) -> st.SearchStrategy[int]:
    sign, bits = RANGES[kind]
    low, high = (0, 2**bits - 1) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(low, high)


ITEMS: dict[str, st.SearchStrategy[Any]] = {
    **{kind: whole_numbers(kind) for kind in RANGES},
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "str": st.text(CHARACTERS, max_size=20),
}
VALUES = st.sampled_from(sorted(ITEMS)).flatmap(
    lambda kind: st.builds(Typed, st.just(kind), ITEMS[kind] | st.lists(ITEMS[kind], max_size=6))
)
KEYS = st.dictionaries(NAMES.filter(lambda name: name != "general.alignment"), VALUES, max_size=6)


@st.composite
def tensor_lists(draw: st.DrawFn) -> list[tuple[str, Block, tuple[int, ...], bytes]]:
    found = []
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        block = draw(st.sampled_from(list(BY_ID.values())))
        outer = draw(st.lists(st.integers(1, 3), max_size=3))
        shape = (*outer, block.size * draw(st.integers(1, 3)))
        size = block.num_bytes_of(shape)
        found.append((name, block, shape, draw(st.binary(min_size=size, max_size=size))))
    return found


def in_chunks(data: bytes, size: int) -> Callable[[], Iterator[bytes]]:
    return lambda: (data[at : at + size] for at in range(0, len(data), size))


def of_zeros(name: str, block: str, *shape: int) -> Tensor:
    return name, BLOCKS[block], shape, lambda: [bytes(BLOCKS[block].num_bytes_of(shape))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    keys=KEYS,
    tensors=tensor_lists(),
    alignment=st.sampled_from([None, 8, 32, 256]),
    step=st.integers(1, 100),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    keys: dict[str, Typed],
    tensors: list[tuple[str, Block, tuple[int, ...], bytes]],
    alignment: int | None,
    step: int,
) -> None:
    path = tmp_path_factory.mktemp("written") / "model.gguf"
    wanted: Mapping[str, Any] = {} if alignment is None else {"general.alignment": alignment}
    write(path, {**keys, **wanted}, [(n, b, s, in_chunks(data, step)) for n, b, s, data in tensors])
    found = read(path)
    assert dict(found.metadata) == {**{key: v.value for key, v in keys.items()}, **wanted}
    assert found.alignment == alignment or alignment is None
    assert [(t.name, t.block, t.shape) for t in found.tensors.values()] == [
        (name, block, shape) for name, block, shape, _ in tensors
    ]
    with reader(found) as bytes_of:
        for name, _, _, data in tensors:
            assert bytes_of.read(found.tensors[name]).tobytes() == data
            assert found.tensors[name].offset % found.alignment == 0
    assert os.listdir(path.parent) == ["model.gguf"]


def test_the_public_package_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys: dict[str, Any] = {
        "general.architecture": "some-arch",
        "text": "größe 🙂",
        "count": 7,
        "eps": 1e-5,
        "yes": True,
        "tokens": ["", "a", "日本"],
        "types": [3, -1, 1],
        "scores": [0.5, -1.25],
        **{kind: Typed(kind, 100) for kind in RANGES},
        "f64": Typed("f64", 0.1),
    }
    rng = np.random.default_rng(0)
    tensors: dict[str, tuple[Block, tuple[int, ...], bytes]] = {
        block.name: (block, (2, 3, block.size), rng.bytes(6 * block.num_bytes))
        for block in BY_ID.values()
    }
    write(path, keys, [(n, b, s, in_chunks(data, 64)) for n, (b, s, data) in tensors.items()])
    theirs = oracle.GGUFReader(path)
    for key, value in keys.items():
        field = theirs.get_field(key)
        assert field is not None
        wanted = value.value if isinstance(value, Typed) else value
        assert field.contents() == (np.float32(wanted) if key == "eps" else wanted)
        if isinstance(value, Typed):
            names = {"u": "UINT", "i": "INT", "f": "FLOAT"}
            assert field.types[0].name == f"{names[value.kind[0]]}{value.kind[1:]}"
    assert [tensor.name for tensor in theirs.tensors] == list(tensors)
    for tensor in theirs.tensors:
        block, shape, data = tensors[tensor.name]
        assert tensor.tensor_type.value == block.ggml_id
        assert tensor.shape.tolist() == list(shape)[::-1]
        assert tensor.data.tobytes() == data


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0, "u32"),
        (2**32 - 1, "u32"),
        (2**32, "u64"),
        (-1, "i32"),
        (-(2**31), "i32"),
        (-(2**31) - 1, "i64"),
        (2**64 - 1, "u64"),
        (0.5, "f32"),
        (True, "bool"),
        ("1", "str"),
        ([1, 2], "i32"),
        ([-1, 2], "i32"),
        ([2**31], "u32"),
        ([-1, 2**31], "i64"),
        ([2**63], "u64"),
        ([0.5], "f32"),
        ([True], "bool"),
        (["a"], "str"),
    ],
)
def test_values_get_the_types_that_llama_cpp_expects(value: Any, kind: str) -> None:
    assert typed(value) == Typed(kind, value)


@pytest.mark.parametrize("value", [[], [1, "a"], [1, 1.5], [True, 1], None, 2**64, -(2**63) - 1])
def test_values_without_one_type_are_our_own_mistake(value: Any) -> None:
    with pytest.raises((AssertionError, KeyError, StopIteration)):
        typed(value)


def test_arrays_of_numpy_are_written_as_their_bytes(tmp_path: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = ("w", BLOCKS["f32"], (3, 4), lambda: [weights[:1], weights[1:], weights[:0]])
    write(tmp_path / "m.gguf", {}, [tensor])
    found = read(tmp_path / "m.gguf")
    with reader(found) as bytes_of:
        data = bytes_of.read(found.tensors["w"])
    np.testing.assert_array_equal(data.view(np.float32).reshape(3, 4), weights)


def test_pieces_are_asked_for_one_after_the_other(tmp_path: Path) -> None:
    alive: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(8):
            alive.append(number)
            (part,) = tmp_path.glob(".m.gguf.*")
            assert part.stat().st_size == before + number * (1 << 16)
            yield bytes(1 << 16)

    before = 64  # header and padding
    write(tmp_path / "m.gguf", {}, [("w", BLOCKS["f32"], (1 << 17,), chunks)])
    assert alive == list(range(8))


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"what was there before")

    def chunks() -> Iterator[bytes]:
        assert path.read_bytes() == b"what was there before"
        yield bytes(8)

    write(path, {}, [("w", BLOCKS["f32"], (2,), chunks)])
    assert set(read(path).tensors) == {"w"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_a_failure_of_the_source_leaves_nothing_and_is_passed_on(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(4)
        raise error("of the source")

    with pytest.raises(error, match="of the source"):
        write(tmp_path / "m.gguf", {}, [("w", BLOCKS["f32"], (2,), chunks)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "said"), [(7, "lacks 1"), (9, "more than its 8"), (0, "lacks 8")]
)
def test_pieces_that_do_not_fill_the_tensor_are_our_own_mistake(
    tmp_path: Path, given: int, said: str
) -> None:
    with pytest.raises(AssertionError, match=f"w.*{said}"):
        write(tmp_path / "m.gguf", {}, [("w", BLOCKS["f32"], (2,), lambda: [bytes(given)])])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "tensors",
    [
        [of_zeros("w", "i4", 32)],
        [of_zeros("w", "q4_0", 33)],
        [of_zeros("w", "f32", 1, 1, 1, 1, 1)],
        [of_zeros("w", "f32", 0, 4)],
        [of_zeros("", "f32", 4)],
        [of_zeros("w", "f32", 4), of_zeros("w", "f32", 4)],
    ],
)
def test_tensors_that_no_reader_takes_are_our_own_mistake(
    tmp_path: Path, tensors: list[Tensor]
) -> None:
    with pytest.raises(AssertionError):
        write(tmp_path / "m.gguf", {}, tensors)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*none/m\.gguf: No such file") as caught:
        write(tmp_path / "none" / "m.gguf", {}, [])
    assert "choose another place" in caught.value.hint


def test_a_file_that_does_not_fit_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        raise AssertionError("asked for a piece")
        yield b""

    huge = ("w", BLOCKS["f32"], (1 << 60,), chunks)
    with pytest.raises(OutputError, match=r" 4611686018427387968 bytes are needed, \d+ are free"):
        write(tmp_path / "m.gguf", {}, [huge])
    assert os.listdir(tmp_path) == []


def write_on_a_small_disk(path: Path, said: Path, limit_bytes: int) -> None:
    # the soft limit: what this process says of it must fit afterwards
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
    chunks = [bytes(1000)] * 4
    try:
        write(path, {"general.name": "x"}, [("w", BLOCKS["f32"], (1000,), lambda: chunks)])
    except OutputError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        said.write_text(f"{os.listdir(path.parent)} {error.message}")


# the header fits no more, a part of a piece fits, all but the last piece fits
@pytest.mark.parametrize("limit_bytes", [100, 1500, 4000])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, limit_bytes: int
) -> None:
    folder, said = tmp_path / "out", tmp_path / "said"
    folder.mkdir()
    birth = multiprocessing.get_context("forkserver")
    process = birth.Process(
        target=write_on_a_small_disk, args=(folder / "m.gguf", said, limit_bytes)
    )
    process.start()
    process.join()
    assert said.read_text().startswith("[] cannot write ")
    assert said.read_text().endswith("m.gguf: File too large")
