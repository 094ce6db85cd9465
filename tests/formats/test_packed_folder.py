"""A packed folder comes back as it was written, streamed, aligned, and readable by others."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from made_packed import CONFIG, MATRICES, NUM_EXPERTS, content, made
from safetensors import safe_open
from xxhash import xxh3_64_hexdigest

from expertly.errors import CheckpointError
from expertly.formats.packed import MANIFEST, expert_key, is_packed, read
from expertly.formats.packed_header import PAGE, Blob, Piece
from expertly.formats.packed_reader import reader, verify
from expertly.formats.packed_writer import Content, laid_out, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "packed"


def test_every_blob_comes_back_as_it_was_written(folder: Path) -> None:
    data = made(folder)
    packed = read(folder)
    assert list(packed.blobs) == list(data)
    with reader(packed) as source:
        for key, stored in packed.blobs.items():
            found = source.read(stored)
            verify(stored, found)
            assert found.tobytes() == data[key]


def test_the_manifest_says_bits_and_experts_without_calibration(folder: Path) -> None:
    made(folder)
    manifest = read(folder).manifest
    assert (manifest.bits, manifest.unreached) == (4, ((1, 2),))
    assert [shard.name for shard in manifest.shards] == ["packed-00001.safetensors"]
    assert manifest.shards[0].num_bytes == (folder / manifest.shards[0].name).stat().st_size


def test_the_config_is_the_one_that_was_given(folder: Path) -> None:
    made(folder)
    assert json.loads((folder / "config.json").read_text()) == CONFIG


def test_matrices_of_an_expert_are_adjacent_and_aligned_to_64_bytes() -> None:
    blob = laid_out("layers.0.feed_forward.experts.7", MATRICES)
    # 1088 is a multiple of 64; 1088 + 1100 = 2188, the next multiple is 2240
    assert [piece.offset for piece in blob.pieces] == [0, 1088, 2240]
    assert blob.num_bytes == 2240 + 2112
    assert blob.padded_bytes == 2 * PAGE
    assert blob.piece("down") == Piece("down", "q8_0", 64, 16, 2240, 2112)


def test_a_blob_of_whole_pages_is_not_padded() -> None:
    assert Blob("a", (), 2 * PAGE).padded_bytes == 2 * PAGE


def test_every_blob_begins_at_a_page_and_fills_whole_ones(folder: Path) -> None:
    made(folder)
    packed = read(folder)
    ends = [stored.offset + stored.blob.padded_bytes for stored in packed.blobs.values()]
    starts = [stored.offset for stored in packed.blobs.values()]
    assert all(start % PAGE == 0 for start in starts)
    assert starts[1:] == ends[:-1] and starts[0] >= PAGE
    assert ends[-1] == (folder / "packed-00001.safetensors").stat().st_size


def test_a_shard_is_a_safetensors_file_of_bytes(folder: Path) -> None:
    data = made(folder)
    with safe_open(folder / "packed-00001.safetensors", framework="np") as file:
        assert set(file.keys()) == set(data)
        assert set(file.metadata()) == {"expertly"}
        for key, expected in data.items():
            tensor = file.get_tensor(key)
            assert tensor.dtype == np.uint8 and tensor.size % PAGE == 0
            assert tensor[: len(expected)].tobytes() == expected
            assert not tensor[len(expected) :].any()


def test_checksums_are_xxh3_of_the_bytes_without_padding(folder: Path) -> None:
    data = made(folder)
    for key, stored in read(folder).blobs.items():
        assert stored.checksum == xxh3_64_hexdigest(data[key])


@pytest.mark.parametrize(("most", "shards"), [(1, 5), (2 * PAGE, 4), (4 * PAGE, 2), (9 * PAGE, 1)])
def test_shards_hold_as_many_blobs_as_fit(folder: Path, most: int, shards: int) -> None:
    # pages of the blobs: 2 2 2 1 1
    data = made(folder, max_shard_bytes=most)
    packed = read(folder)
    assert len(packed.manifest.shards) == shards == len(packed.files)
    assert len({stored.file for stored in packed.blobs.values()}) == shards
    with reader(packed) as source:
        assert all(source.read(packed.blobs[key]).tobytes() == data[key] for key in data)


def test_whole_pages_can_be_read_for_direct_input(folder: Path) -> None:
    data = made(folder)
    packed = read(folder)
    stored = packed.blobs[expert_key(1, 0)]
    target = np.full(stored.blob.padded_bytes, 7, np.uint8)
    with reader(packed) as source:
        source.read_into(target, stored)
    assert target.tobytes() == data[expert_key(1, 0)].ljust(2 * PAGE, b"\0")
    verify(stored, target)


def test_a_buffer_of_another_size_is_our_own_mistake(folder: Path) -> None:
    made(folder)
    packed = read(folder)
    with reader(packed) as source, pytest.raises(AssertionError):
        source.read_into(np.zeros(5, np.uint8), packed.blobs["head_VD"])


def test_several_threads_read_through_one_reader(folder: Path) -> None:
    data = made(folder, max_shard_bytes=1)
    packed = read(folder)
    found: dict[str, bytes] = {}

    def fetch(key: str) -> None:
        found[key] = source.read(packed.blobs[key]).tobytes()

    with reader(packed) as source:
        threads = [threading.Thread(target=fetch, args=(key,)) for key in data]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == data


def test_a_writer_holds_one_piece_at_a_time(folder: Path) -> None:
    folder.mkdir()
    blobs = [laid_out(f"b{i}", [("m", "f32", 1, 1024, PAGE)]) for i in range(3)]
    alive: list[str] = []

    def chunks(key: str) -> list[bytes]:
        alive.append(key)
        # earlier blobs are on their way to the file when the next one is asked for
        return [bytes(1000), bytearray(3096)]

    contents = [Content(blob, lambda key=blob.key: chunks(key)) for blob in blobs]
    assert alive == []
    write(folder, CONFIG, contents, bits=8)
    assert alive == ["b0", "b1", "b2"]


def test_arrays_of_any_shape_are_pieces_of_a_blob(folder: Path) -> None:
    folder.mkdir()
    values = np.arange(1024, dtype=np.float32).reshape(32, 32)
    blob = laid_out("w", [("w", "f32", 32, 32, PAGE)])
    write(folder, CONFIG, [Content(blob, lambda: [values])], bits=32)
    packed = read(folder)
    with reader(packed) as source:
        assert np.array_equal(source.read(packed.blobs["w"]).view(np.float32), values.ravel())


@pytest.mark.parametrize("size", [PAGE - 1, PAGE + 1])
def test_pieces_that_are_not_the_blob_are_our_own_mistake(folder: Path, size: int) -> None:
    folder.mkdir()
    blob = laid_out("w", [("w", "f32", 32, 32, PAGE)])
    with pytest.raises(AssertionError):
        write(folder, CONFIG, [Content(blob, lambda: [bytes(size)])], bits=32)
    assert not (folder / MANIFEST).exists()


def test_the_manifest_is_written_last(folder: Path) -> None:
    folder.mkdir()
    seen: list[list[str]] = []

    def chunks() -> list[bytes]:
        seen.append(sorted(path.name for path in folder.iterdir()))
        return [bytes(PAGE)]

    blob = laid_out("w", [("w", "f32", 32, 32, PAGE)])
    write(folder, CONFIG, [Content(blob, chunks)], bits=32)
    assert seen == [["config.json", "packed-00001.safetensors"]]
    assert is_packed(folder)


def test_a_full_disk_is_told_as_the_system_tells_it(folder: Path) -> None:
    folder.mkdir()

    def chunks() -> list[bytes]:
        raise OSError(28, "No space left on device")

    blob = laid_out("w", [("w", "f32", 32, 32, PAGE)])
    with pytest.raises(OSError, match="No space left"):
        write(folder, CONFIG, [Content(blob, chunks)], bits=32)
    assert not is_packed(folder)


def test_a_folder_of_other_files_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not is_packed(tmp_path)
    with pytest.raises(CheckpointError, match=r"expertly\.json: cannot be read: No such file"):
        read(tmp_path)


def test_keys_of_experts_are_our_parameter_names() -> None:
    assert expert_key(12, 127) == "layers.12.feed_forward.experts.127"


def test_a_header_of_many_experts_is_read_in_a_moment(folder: Path) -> None:
    folder.mkdir()
    blobs = [laid_out(expert_key(e // 64, e % 64), MATRICES) for e in range(1024)]
    contents = [Content(blob, lambda: [bytes(blobs[0].num_bytes)]) for blob in blobs]
    write(folder, CONFIG, contents, bits=4)
    packed = read(folder)
    assert len(packed.blobs) == 1024 > NUM_EXPERTS
    assert packed.blobs[expert_key(15, 63)].blob.pieces == blobs[-1].pieces
    with reader(packed) as source:
        verify(packed.blobs[expert_key(3, 5)], source.read(packed.blobs[expert_key(3, 5)]))


def test_contents_are_those_of_their_seeds() -> None:
    blob = laid_out("w", [("w", "f32", 1, 4, 16)])
    assert content(blob, 1) == content(blob, 1) != content(blob, 2)
