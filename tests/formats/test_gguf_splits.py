"""Models in several files: read as one, and every way in which a set can be wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from expertly.errors import CheckpointError
from expertly.formats.blocks import BLOCKS
from expertly.formats.gguf import read
from expertly.formats.gguf_reader import reader
from expertly.formats.gguf_writer import Typed, write


def part_keys(number: int, count: int, tensors: int) -> dict[str, Any]:
    return {
        "split.no": Typed("u16", number),
        "split.count": Typed("u16", count),
        "split.tensors.count": Typed("i32", tensors),
    }


def part_name(folder: Path, number: int, count: int) -> Path:
    return folder / f"model-{number + 1:05}-of-{count:05}.gguf"


def write_part(path: Path, keys: Mapping[str, Any], *names: str) -> Path:
    tensors = [(name, BLOCKS["f32"], (2,), lambda name=name: [name.encode() * 8]) for name in names]
    write(path, keys, tensors)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files; the first holds the metadata and no tensors."""
    names: list[list[str]] = [[], ["a", "b"], ["c"]]
    return [
        write_part(
            part_name(tmp_path, number, 3),
            {"general.name": f"part {number}", **part_keys(number, 3, 3)},
            *names[number],
        )
        for number in range(3)
    ]


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_set_is_read_as_one_by_any_of_its_files(files: list[Path], given: int) -> None:
    whole = read(files[given])
    assert whole.path == files[given]
    assert whole.metadata["general.name"] == "part 0"
    assert {name: t.file for name, t in whole.tensors.items()} == {
        "a": files[1], "b": files[1], "c": files[2],
    }  # fmt: skip
    assert whole.size == sum(file.stat().st_size for file in files)
    assert whole.mtime_ns == max(file.stat().st_mtime_ns for file in files)
    with reader(whole) as bytes_of:
        for name, tensor in whole.tensors.items():
            assert bytes_of.read(tensor).tobytes() == name.encode() * 8


def test_a_missing_file_is_named(files: list[Path]) -> None:
    files[2].unlink()
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003\.gguf is missing") as caught:
        read(files[0])
    assert "all files of one download" in caught.value.hint


@pytest.mark.parametrize("name", ["renamed.gguf", "model-00001-of-00002.gguf", "-00001-of-00003"])
def test_a_file_of_a_set_under_another_name_is_refused(files: list[Path], name: str) -> None:
    renamed = files[0].rename(files[0].with_name(name))
    with pytest.raises(CheckpointError, match="is one of 3 files, but its name does not end as"):
        read(renamed)


def test_files_in_the_wrong_order_are_refused(files: list[Path]) -> None:
    files[1].rename(spare := files[1].with_name("spare"))
    files[2].rename(files[1])
    spare.rename(files[2])
    with pytest.raises(CheckpointError, match=r"it is file 2 \(from 0\) of 3, not 1 of 3"):
        read(files[0])


def test_a_file_of_another_set_is_refused(files: list[Path]) -> None:
    write_part(files[1], part_keys(1, 4, 3), "a", "b")
    with pytest.raises(CheckpointError, match=r"it is file 1 \(from 0\) of 4, not 1 of 3"):
        read(files[0])


def test_a_file_without_split_keys_does_not_belong_to_a_set(files: list[Path]) -> None:
    write_part(files[1], {}, "a", "b")
    with pytest.raises(CheckpointError, match="it is file None"):
        read(files[0])


def test_a_tensor_in_two_files_is_refused(files: list[Path]) -> None:
    write_part(files[2], part_keys(2, 3, 3), "a")
    with pytest.raises(CheckpointError, match=r"'a' is in both model-00002-of-00003\.gguf"):
        read(files[0])


def test_the_number_of_tensors_must_be_the_promised_one(files: list[Path]) -> None:
    write_part(files[2], part_keys(2, 3, 3), "c", "d")
    with pytest.raises(CheckpointError, match=r"hold 4 tensors, split.tensors.count is 3"):
        read(files[0])


@pytest.mark.parametrize("count", [0, 4097, Typed("i32", -1), "3", True, 3.0])
def test_a_count_of_files_that_cannot_be_is_refused(tmp_path: Path, count: Any) -> None:
    path = write_part(part_name(tmp_path, 0, 3), {"split.count": count}, "a")
    with pytest.raises(CheckpointError, match=r"split\.count is"):
        read(path)


def test_a_single_file_may_say_that_it_is_one_of_one(tmp_path: Path) -> None:
    path = write_part(tmp_path / "model.gguf", part_keys(0, 1, 1), "a")
    assert set(read(path).tensors) == {"a"}


def test_a_damaged_file_of_a_set_is_the_one_that_is_named(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.gguf: .* \(at byte \d+\)"):
        read(files[2])
