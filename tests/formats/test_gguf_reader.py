"""Bytes of tensors: whole, in ranges, and out of files that change meanwhile."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from expertly.errors import CheckpointError
from expertly.formats.blocks import BLOCKS
from expertly.formats.gguf import Gguf, read
from expertly.formats.gguf_reader import reader
from expertly.formats.gguf_writer import write

DATA = np.random.default_rng(0).integers(0, 256, 34 * 8 * 4, np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Gguf:
    path = tmp_path / "model.gguf"
    small = ("small", BLOCKS["f32"], (1,), lambda: [bytes(4)])
    write(path, {}, [small, ("w", BLOCKS["q8_0"], (8, 128), lambda: [DATA])])
    return read(path)


def test_a_tensor_is_read_whole(model: Gguf) -> None:
    with reader(model) as bytes_of:
        np.testing.assert_array_equal(bytes_of.read(model.tensors["w"]), DATA)


@pytest.mark.parametrize(("start", "count"), [(0, 1), (34, 68), (1087, 1), (1088, 0), (0, 1088)])
def test_a_range_of_a_tensor_is_read(model: Gguf, start: int, count: int) -> None:
    with reader(model) as bytes_of:
        found = bytes_of.read(model.tensors["w"], start, count)
    np.testing.assert_array_equal(found, DATA[start : start + count])


def test_bytes_arrive_in_the_buffer_that_was_given_and_nowhere_else(model: Gguf) -> None:
    target = np.full((4, 100), 7, np.uint8)
    with reader(model) as bytes_of:
        bytes_of.read_into(target[1:3], model.tensors["w"], 5)
    np.testing.assert_array_equal(target[1:3].reshape(-1), DATA[5:205])
    assert (target[[0, 3]] == 7).all()


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (1000, 89), (0, 1089)])
def test_ranges_outside_the_tensor_are_our_own_mistake(model: Gguf, start: int, count: int) -> None:
    with reader(model) as bytes_of, pytest.raises(AssertionError):
        bytes_of.read(model.tensors["w"], start, count)


def test_a_file_that_was_cut_while_it_is_open_is_one_clear_error(model: Gguf) -> None:
    with reader(model) as bytes_of:
        bytes_of.read(model.tensors["small"])
        os.truncate(model.path, model.size - 100)
        with pytest.raises(CheckpointError, match="ends inside the tensor 'w'") as caught:
            bytes_of.read(model.tensors["w"])
        assert "load the model again" in caught.value.hint
        with pytest.raises(CheckpointError, match=f"{model.size} bytes then"):
            bytes_of.read(model.tensors["small"])


def test_a_file_that_was_written_to_while_it_is_open_is_refused(model: Gguf) -> None:
    with reader(model) as bytes_of:
        bytes_of.read(model.tensors["w"])
        with model.path.open("r+b") as file:
            file.write(b"GGUF")
        os.utime(model.path, ns=(0, model.mtime_ns + 1))
        with pytest.raises(CheckpointError, match="changed while it was read"):
            bytes_of.read(model.tensors["w"])


def test_a_file_that_was_replaced_before_it_is_opened_is_refused(model: Gguf) -> None:
    write(model.path, {}, [("other", BLOCKS["f32"], (2,), lambda: [bytes(8)])])
    with reader(model) as bytes_of, pytest.raises(CheckpointError, match="changed"):
        bytes_of.read(model.tensors["w"])


def test_a_file_that_was_replaced_while_it_is_open_is_still_the_old_one(model: Gguf) -> None:
    with reader(model) as bytes_of:
        bytes_of.read(model.tensors["small"])
        write(model.path, {}, [("other", BLOCKS["f32"], (2,), lambda: [bytes(8)])])
        np.testing.assert_array_equal(bytes_of.read(model.tensors["w"]), DATA)


def test_a_file_that_is_gone_is_named(model: Gguf) -> None:
    model.path.unlink()
    with reader(model) as bytes_of, pytest.raises(CheckpointError, match=r"model\.gguf cannot be"):
        bytes_of.read(model.tensors["w"])


def test_threads_read_at_once_through_one_open_file(model: Gguf) -> None:
    def row(number: int) -> bytes:
        return bytes_of.read(model.tensors["w"], 136 * (number % 8), 136).tobytes()

    before = len(os.listdir("/proc/self/fd"))
    with reader(model) as bytes_of, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(row, range(64)))
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert found == [DATA.reshape(8, 136)[number % 8].tobytes() for number in range(64)]
    assert len(os.listdir("/proc/self/fd")) == before
