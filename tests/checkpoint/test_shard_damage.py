"""Damaged safetensors files: every mutant is refused by a CheckpointError that names the file, or
loads. Nothing else comes out."""

import contextlib
import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import EMBEDDING, HEAD, header_of, write_header, write_tiny

from expertly.checkpoint import finding, load
from expertly.checkpoint.shards import Entry, Reader, find, reader
from expertly.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def shard(folder: Path) -> Path:
    return folder / "model.safetensors"


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert "model.safetensors" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kept", [0, 3, 8, 9, "half", "header", "some", "all but one"])
def test_a_truncated_shard_is_named(folder: Path, shard: Path, kept: int | str) -> None:
    _, start = header_of(shard)
    data = shard.read_bytes()
    sizes = {"half": start // 2, "header": start, "some": start + 999, "all but one": len(data) - 1}
    shard.write_bytes(data[: sizes.get(kept, kept)])
    assert "damaged" in refused(folder).message


@pytest.mark.parametrize("extra", [1, 8, 5000])
def test_bytes_after_the_last_tensor_are_damage(folder: Path, shard: Path, extra: int) -> None:
    shard.write_bytes(shard.read_bytes() + b"\0" * extra)
    assert "damaged" in refused(folder).message


@pytest.mark.parametrize("size", [0, 1, 7, 100_000_001, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_header_length_of_nonsense_is_damage(folder: Path, shard: Path, size: int) -> None:
    shard.write_bytes(size.to_bytes(8, "little") + shard.read_bytes()[8:])
    assert "damaged" in refused(folder).message


def test_a_header_of_deep_json_is_damage(folder: Path, shard: Path) -> None:
    text = b'{"a":' * 50_000
    shard.write_bytes(len(text).to_bytes(8, "little") + text)
    assert "damaged" in refused(folder).message


def test_a_shard_that_is_a_folder_is_damage(folder: Path, shard: Path) -> None:
    shard.unlink()
    shard.mkdir()
    assert "damaged" in refused(folder).message


@pytest.mark.parametrize(
    ("info", "num_bytes"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, 8),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, 8),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, 8),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, 12),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, 12),
        ({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}, 0),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, 8),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, 8),
        ({"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}, 8),
        ({"dtype": "F32", "data_offsets": [0, 8]}, 8),
        ({"dtype": "F32", "shape": [2.5], "data_offsets": [0, 8]}, 8),
        ("F32", 8),
        (None, 8),
    ],
    ids=[
        "short",
        "shape",
        "reversed",
        "hole",
        "tail",
        "wraps",
        "negative",
        "one offset",
        "type",
        "no shape",
        "fraction",
        "string",
        "null",
    ],
)
def test_a_header_that_contradicts_itself_is_damage(folder, shard, info, num_bytes) -> None:
    write_header(shard, {"a": info}, num_bytes)
    assert "damaged" in refused(folder).message


def test_tensors_that_overlap_are_damage(folder: Path, shard: Path) -> None:
    info = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    write_header(shard, {"a": info, "b": {**info, "data_offsets": [4, 12]}}, 12)
    assert "damaged" in refused(folder).message


def loads_or_is_refused(folder: Path) -> bool:
    """True if it loads; anything but a CheckpointError passes through and fails the test."""
    with contextlib.suppress(CheckpointError):
        load(folder)
        return True
    return False


def test_no_flipped_bit_of_a_header_does_anything_but_refuse(folder: Path, shard: Path) -> None:
    _, start = header_of(shard)
    whole = shard.read_bytes()
    chance = random.Random(0)
    num_refused = 0
    for _ in range(250):
        mutant = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            mutant[chance.randrange(start)] ^= 1 << chance.randrange(8)
        shard.write_bytes(mutant)
        num_refused += not loads_or_is_refused(folder)
    # a bit may fall into the padding or the metadata
    assert num_refused > 200
    shard.write_bytes(whole)
    assert loads_or_is_refused(folder)


def test_no_cut_or_doubled_piece_of_a_header_does_anything_but_refuse(folder, shard) -> None:
    header, start = header_of(shard)
    data = shard.read_bytes()[start:]
    text = json.dumps(header, separators=(",", ":")).encode()
    chance = random.Random(1)
    num_refused = 0
    for _ in range(150):
        low, high = sorted(chance.randrange(len(text)) for _ in range(2))
        high = min(high, low + 40)
        between = chance.choice([b"", text[low:high] * 2, b"-1", b"1e999", b"null", b"\xff", b"[]"])
        mutant = text[:low] + between + text[high:]
        shard.write_bytes(len(mutant).to_bytes(8, "little") + mutant + data)
        num_refused += not loads_or_is_refused(folder)
    assert num_refused > 120


def test_flipped_bits_of_the_data_load_as_other_numbers(folder: Path, shard: Path) -> None:
    header, start = header_of(shard)
    before = load(folder)
    data = bytearray(shard.read_bytes())
    low, high = header[HEAD]["data_offsets"]
    data[start + high - 1] ^= 1
    shard.write_bytes(data)
    after = load(folder)
    changed = (after.head_VD != before.head_VD).nonzero().tolist()
    assert changed == [[36, 23]]
    assert high - low == 37 * 24 * 4
    assert torch.equal(after.embed_VD, before.embed_VD)


def test_a_shard_that_shrinks_after_its_header_was_read_is_named(
    folder: Path, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = max(
        (info["data_offsets"][1], name)
        for name, info in header_of(shard)[0].items()
        if name != "__metadata__"
    )[1]

    def find_and_cut(folder: Path) -> dict[str, Entry]:
        entries = find(folder)
        shard.write_bytes(shard.read_bytes()[:-4])
        return entries

    monkeypatch.setattr(finding, "find", find_and_cut)
    error = refused(folder)
    assert last in error.message and "changed while it was read" in error.message


def test_a_shard_that_vanishes_after_its_header_was_read_is_named(
    folder: Path, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_and_remove(folder: Path) -> dict[str, Entry]:
        entries = find(folder)
        shard.unlink()
        return entries

    monkeypatch.setattr(finding, "find", find_and_remove)
    assert "cannot be read" in refused(folder).message


def test_no_file_stays_open_after_a_refusal(folder: Path, shard: Path) -> None:
    entries = find(folder)
    shard.write_bytes(shard.read_bytes()[:-4])
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CheckpointError), reader() as source:
        for name, entry in entries.items():
            source.read(name, entry)
    assert os.listdir("/proc/self/fd") == before


def test_a_reader_reads_tensors_of_two_files_by_turns(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.arange(6.0).view(2, 3) + i for i in range(4)}
    save_file({"t0": tensors["t0"], "t2": tensors["t2"]}, tmp_path / "a.safetensors")
    save_file({"t1": tensors["t1"], "t3": tensors["t3"]}, tmp_path / "b.safetensors")
    entries = find(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with reader() as source:
        for name in ["t0", "t1", "t2", "t3", "t0"]:
            assert torch.equal(source.read(name, entries[name]), tensors[name])
    assert len(os.listdir("/proc/self/fd")) == before


def test_tensors_of_the_models_type_are_read_straight_into_their_place(folder, monkeypatch) -> None:
    copied = []
    real = Reader.read
    monkeypatch.setattr(Reader, "read", lambda *a: copied.append(a[1]) or real(*a))
    load(folder)
    assert copied == []
    load(folder, dtype="bfloat16")
    assert EMBEDDING in copied


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 1, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_reader_reads_every_type_and_shape_to_the_bit(tmp_path, shape, dtype) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file(
        {"before": torch.ones(3), "t": tensor, "z": torch.ones(1)}, tmp_path / "a.safetensors"
    )
    entry = find(tmp_path)["t"]
    assert (entry.dtype, entry.shape) == (dtype, shape)
    with reader() as source:
        found = source.read("t", entry)
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_a_header_with_metadata_and_an_odd_length_is_read(tmp_path: Path) -> None:
    info = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"__metadata__": {"format": "pt"}, "a": info}).encode()
    text += b" " * (1 - len(text) % 2)
    data = torch.tensor([1.5, -2.0]).numpy().tobytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    entries = find(tmp_path)
    assert entries.keys() == {"a"}
    with reader() as source:
        assert source.read("a", entries["a"]).tolist() == [1.5, -2.0]


def test_tensors_may_lie_in_any_order_in_a_file(folder: Path, shard: Path) -> None:
    before = load(folder)
    header, start = header_of(shard)
    data = shard.read_bytes()[start:]
    names = sorted((n for n in header if n != "__metadata__"), key=lambda name: name[::-1])
    names.remove(EMBEDDING)
    moved, pieces, offset = {}, [], 0
    for name in [*names, EMBEDDING]:
        low, high = header[name]["data_offsets"]
        moved[name] = {**header[name], "data_offsets": [offset, offset + high - low]}
        pieces.append(data[low:high])
        offset += high - low
    text = json.dumps(moved).encode()
    text += b" " * (-len(text) % 8)
    shard.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(pieces))
    after = load(folder).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.state_dict().items())
