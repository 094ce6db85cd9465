"""Every way in which a packed folder can be wrong: each is one error that names the file."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_packed import change_manifest, head_of, made, shard_of, with_length
from xxhash import xxh3_64_hexdigest

from expertly.errors import CheckpointError
from expertly.formats.packed import (
    LAYOUT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    expert_key,
    parse_manifest,
    read,
    read_head,
)
from expertly.formats.packed_header import MAX_HEAD_BYTES, PAGE, parse_head
from expertly.formats.packed_reader import reader, verify

SHARD = "packed-00001.safetensors"
EXPERT = expert_key(1, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made(tmp_path / "packed")
    return tmp_path / "packed"


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert caught.value.hint and str(folder) in caught.value.message
    return caught.value.message.replace(f"{folder}/", "")


def head_refusal(data: bytes) -> str:
    """What is said of a shard of these bytes, its checksum apart."""
    with pytest.raises(CheckpointError) as caught:
        head = read_head(Path(SHARD), len(data), lambda at, count: data[at : at + count])
        parse_head(Path(SHARD), len(data), head)
    assert caught.value.message.startswith(SHARD)
    return caught.value.message.removeprefix(SHARD)


def manifest_refusal(text: str | bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse_manifest(Path(MANIFEST), text.encode() if isinstance(text, str) else text)
    return caught.value.message.removeprefix(MANIFEST)


def changed_head(folder: Path, key: str, **changes: Any) -> bytes:
    """The shard with other values in safetensors' description of a blob."""
    header, about, data = head_of(folder / SHARD)
    header[key] |= changes
    return shard_of(header, about, data)


def changed_about(folder: Path, key: str, **changes: Any) -> bytes:
    """The shard with other values in our description of a blob."""
    header, about, data = head_of(folder / SHARD)
    about[key] |= changes
    return shard_of(header, about, data)


def changed_piece(folder: Path, index: int, **changes: Any) -> bytes:
    header, about, data = head_of(folder / SHARD)
    about[EXPERT]["pieces"][index] |= changes
    return shard_of(header, about, data)


def test_a_shard_put_together_again_is_accepted(folder: Path) -> None:
    data = shard_of(*head_of(folder / SHARD))
    head = read_head(Path(SHARD), len(data), lambda at, count: data[at : at + count])
    assert parse_head(Path(SHARD), len(data), head)[EXPERT].blob == read(folder).blobs[EXPERT].blob


@pytest.mark.parametrize("layout", [0, LAYOUT - 1, LAYOUT + 1, -1, 10**30])
def test_an_unknown_layout_is_refused_before_anything_else(folder: Path, layout: int) -> None:
    change_manifest(folder, layout=layout, shards="of another kind", more=1)
    assert f"of layout '{layout!s}', known is {LAYOUT}" in refusal(folder)


@pytest.mark.parametrize("layout", ["1", None, True, 1.0])
def test_a_layout_that_is_no_number_is_damage(folder: Path, layout: object) -> None:
    change_manifest(folder, layout=layout)
    assert f"is no whole number from {LAYOUT} to {LAYOUT}" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 0}, ", bits: '0' is no whole number from 1 to 32"),
        ({"bits": "4"}, ", bits: '4' is no whole number from 1 to 32"),
        ({"more": 1}, ": the name 'more' is not known"),
        ({"shards": []}, ": 0 shards have 0 names"),
        ({"shards": {}}, ", shards: a list belongs here, not '{}'"),
        ({"shards": [7]}, ", shards: a JSON object belongs here, not '7'"),
        ({"unreached": [[1]]}, ", unreached: '[1]' is no pair of layer and expert"),
        ({"unreached": [[1, -2]]}, ", unreached: '-2' is no whole number from 0 to 1048576"),
        ({"unreached": [3]}, ", unreached: a list belongs here, not '3'"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    change_manifest(folder, **changes)
    assert refusal(folder) == MANIFEST + said


@pytest.mark.parametrize("name", ["layout", "bits", "shards", "unreached"])
def test_a_manifest_that_lacks_a_value_is_refused(folder: Path, name: str) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    del document[name]
    assert manifest_refusal(json.dumps(document)) == f": {name} is missing"


@pytest.mark.parametrize(
    "name",
    ["../packed-00001.safetensors", "/etc/passwd", "packed-1.safetensors", "", "packed-00001"],
)
def test_a_shard_of_any_other_name_is_never_opened(folder: Path, name: str) -> None:
    shards = json.loads((folder / MANIFEST).read_text())["shards"]
    change_manifest(folder, shards=[{**shards[0], "name": name}])
    assert refusal(folder) == f"{MANIFEST}, shards, name: {name!r} does not belong here"


def test_a_shard_that_is_named_twice_is_refused(folder: Path) -> None:
    shards = json.loads((folder / MANIFEST).read_text())["shards"]
    change_manifest(folder, shards=shards * 2)
    assert refusal(folder) == f"{MANIFEST}: 2 shards have 1 names"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "this is not valid JSON: 'Expecting value: line 1 column 1 (char 0)'"),
        (b"\xff{}", "this is not valid JSON"),
        (b"[" * 100_000, "this is not valid JSON"),
        (b"[]", "a JSON object belongs here, not '[]'"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1, "a": 2}', "the name 'a' comes twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "this is not valid JSON"),
        ('{"layout": 1}'.encode("utf-16"), "this is not valid JSON"),
    ],
)
def test_a_manifest_that_is_no_document_is_refused(text: bytes, said: str) -> None:
    assert manifest_refusal(text).startswith(f": {said}")


def test_a_manifest_beyond_all_measure_is_not_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    assert "are more than" in refusal(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SHARD).unlink()
    assert refusal(folder) == f"{SHARD}: cannot be read: No such file or directory"


def test_a_folder_in_the_place_of_a_shard_is_refused(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).mkdir()
    assert refusal(folder) == f"{SHARD}: this is not a file"


def test_a_pipe_in_the_place_of_a_shard_does_not_block(folder: Path) -> None:
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)
    assert refusal(folder) == f"{SHARD}: this is not a file"


@pytest.mark.parametrize("change", [-PAGE, -1, 1, PAGE])
def test_a_shard_of_another_size_is_refused(folder: Path, change: int) -> None:
    size = (folder / SHARD).stat().st_size
    os.truncate(folder / SHARD, size + change)
    assert refusal(folder) == f"{SHARD}: {size + change} bytes, where {size} were packed"


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "begin at byte 4100, not at a page"),
        (7, "is not in a file of"),
        (8, "its header is dam"),
        (500, "its header is damaged"),
        (2000, "its header is damaged"),
        (4095, "its header is dam"),
    ],
)
def test_a_flipped_bit_in_a_header_is_seen(folder: Path, at: int, said: str) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[at] ^= 4
    (folder / SHARD).write_bytes(data)
    assert said in refusal(folder)


def test_blobs_of_one_name_in_two_shards_are_refused(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / "packed-00002.safetensors").write_bytes(data)
    shards = json.loads((folder / MANIFEST).read_text())["shards"]
    second = {**shards[0], "name": "packed-00002.safetensors"}
    change_manifest(folder, shards=[*shards, second])
    assert refusal(folder).endswith(f"the blob {EXPERT} is in {SHARD} too")


@pytest.mark.parametrize(
    ("size", "length"),
    [(0, 0), (7, 0), (8, 0), (PAGE, PAGE), (PAGE, PAGE - 7), (PAGE, 1 << 63), (PAGE, 1)],
)
def test_a_header_that_is_not_in_the_file_is_refused(size: int, length: int) -> None:
    data = length.to_bytes(8, "little").ljust(size, b" ")[:size]
    assert "is not in a file of" in head_refusal(data)


def test_a_header_beyond_all_measure_is_not_read() -> None:
    length = MAX_HEAD_BYTES + PAGE - 8
    with pytest.raises(CheckpointError, match="is not in a file of"):
        read_head(Path(SHARD), 1 << 40, lambda at, count: length.to_bytes(8, "little")[:count])


def test_data_that_do_not_begin_at_a_page_are_refused() -> None:
    assert head_refusal((100).to_bytes(8, "little") + b" " * 8192) == (
        ": its data begin at byte 108, not at a page"
    )


def test_a_header_that_ends_early_is_refused() -> None:
    said = (PAGE - 8).to_bytes(8, "little")
    with pytest.raises(CheckpointError, match="ends inside its header"):
        read_head(Path(SHARD), 2 * PAGE, lambda at, count: said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{}", ": its header has no __metadata__"),
        ("[]", ": its header has no __metadata__"),
        ('{"__metadata__": {}}', ", __metadata__: expertly is missing"),
        ('{"__metadata__": {"expertly": 1}}', ", expertly: a text belongs here, not '1'"),
        ('{"__metadata__": {"expertly": "[]"}}', ", expertly: a JSON object belongs here"),
        ('{"__metadata__": {"expertly": "{}", "x": ""}}', ", __metadata__: the name 'x' is not"),
        ('{"__metadata__": {"expertly": "{\\"a b\\": 1}"}}', ", expertly: 'a b' is no name of"),
        ('{"__metadata__": {"expertly": "{\\"a\\": 1}"}}', ": the blob 'a' is only half"),
        ('{"__metadata__": {"expertly": "{}"}, "b": 1}', ": the blob 'b' is only half described"),
    ],
)
def test_a_header_without_its_document_is_refused(header: str, said: str) -> None:
    assert head_refusal(with_length(header.encode(), b"")).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "F32"}, "dtype: 'F32' does not belong here"),
        ({"shape": [2, PAGE]}, "are no whole pages"),
        ({"shape": [PAGE]}, "are no whole pages"),
        ({"shape": []}, "are no whole pages"),
        ({"data_offsets": [0]}, "are no whole pages"),
        ({"data_offsets": [0, 2 * PAGE, 3 * PAGE]}, "are no whole pages"),
        ({"data_offsets": [-PAGE, PAGE]}, "'-4096' is no whole number"),
        ({"data_offsets": [0.0, 2.0 * PAGE]}, "'0.0' is no whole number"),
        ({"shape": [100], "data_offsets": [0, 100]}, "are no whole pages"),
        ({"data_offsets": [PAGE, 3 * PAGE]}, "begins at 4096, where 0 bytes are taken"),
        ({"shape": [PAGE], "data_offsets": [0, PAGE]}, "begins at 8192, where 4096 bytes"),
        ({"shape": [3 * PAGE], "data_offsets": [0, 3 * PAGE]}, "begins at 8192, where 12288"),
        ({"more": 1}, "the name 'more' is not known"),
    ],
)
def test_blobs_that_overlap_leave_holes_or_are_no_pages_are_refused(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    assert said in head_refusal(changed_head(folder, EXPERT, **changes))


@pytest.mark.parametrize("pages", [-1, 1])
def test_blobs_that_do_not_fill_the_file_are_refused(folder: Path, pages: int) -> None:
    header, about, data = head_of(folder / SHARD)
    data = data[:-PAGE] if pages < 0 else data + bytes(PAGE)
    assert head_refusal(shard_of(header, about, data)).startswith(": its blobs take 32768 bytes of")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_bytes": 2 * PAGE + 1}, "num_bytes: '8193' is no whole number from 4097 to 8192"),
        ({"num_bytes": PAGE}, "num_bytes: '4096' is no whole number from 4097 to 8192"),
        ({"num_bytes": 4353}, "its matrices end at 4352, the blob at 4353"),
        ({"checksum": "0" * 15}, "checksum: '000000000000000' does not belong here"),
        ({"checksum": "G" * 16}, "does not belong here"),
        ({"pieces": []}, "its matrices end at 0, the blob at 4352"),
        ({"pieces": None}, "pieces: a list belongs here, not 'None'"),
        ({"more": 1}, "the name 'more' is not known"),
    ],
)
def test_a_blob_that_is_wrongly_described_is_refused(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    assert said in head_refusal(changed_about(folder, EXPERT, **changes))


@pytest.mark.parametrize(
    ("index", "changes", "said"),
    [
        (0, {"format": "q9"}, "format: 'q9' does not belong here"),
        (0, {"name": "a/b"}, "name: 'a/b' does not belong here"),
        (0, {"name": "up"}, "two of its matrices have one name"),
        (0, {"rows": 0}, "rows: '0' is no whole number"),
        (0, {"columns": True}, "columns: 'True' is no whole number"),
        (0, {"rows": 1 << 40}, "1099511627776 x 64 weights are not in 1088 bytes"),
        (1, {"offset": 1024}, "up begins at 1024, unaligned or before 1088"),
        (1, {"offset": 1096}, "up begins at 1096, unaligned or before 1088"),
        (1, {"num_bytes": 1200}, "down begins at 2240, unaligned or before 2288"),
        (2, {"num_bytes": 2113}, "its matrices end at 4353, the blob at 4352"),
        (2, {"offset": 1 << 47}, "its matrices end at"),
        (2, {"offset": -64}, "offset: '-64' is no whole number"),
        (2, {"more": 1}, "the name 'more' is not known"),
    ],
)
def test_matrices_outside_their_blob_are_refused(
    folder: Path, index: int, changes: dict[str, object], said: str
) -> None:
    assert said in head_refusal(changed_piece(folder, index, **changes))


def test_a_flipped_bit_in_a_blob_is_seen_by_its_checksum(folder: Path) -> None:
    stored = read(folder).blobs[EXPERT]
    data = bytearray((folder / SHARD).read_bytes())
    data[stored.offset + 4000] ^= 1
    (folder / SHARD).write_bytes(data)
    packed = read(folder)
    with reader(packed) as source, pytest.raises(CheckpointError) as caught:
        verify(stored, source.read(packed.blobs[EXPERT]))
    assert f"the blob {EXPERT} is damaged" in caught.value.message
    assert stored.checksum in caught.value.message


def test_a_blob_that_is_too_short_is_not_verified(folder: Path) -> None:
    stored = read(folder).blobs["head_VD"]
    with pytest.raises(CheckpointError, match="is damaged"):
        verify(stored, np.zeros(10, np.uint8))


def test_a_shard_that_is_cut_while_it_is_read_is_an_error(folder: Path) -> None:
    packed = read(folder)
    last = packed.blobs["norm.scale_D"]
    with reader(packed) as source:
        source.read(last)
        os.truncate(folder / SHARD, last.offset)
        with pytest.raises(CheckpointError, match=r"ends inside norm\.scale_D") as caught:
            source.read(last)
    assert "load the model again" in caught.value.hint


def test_a_shard_that_is_written_while_it_is_read_is_an_error(folder: Path) -> None:
    packed = read(folder)
    with reader(packed) as source:
        source.read(packed.blobs[EXPERT])
        os.utime(folder / SHARD, ns=(1, 1))
        with pytest.raises(CheckpointError, match="changed while it was read"):
            source.read(packed.blobs[EXPERT])


def test_a_shard_that_was_replaced_before_its_first_read_is_an_error(folder: Path) -> None:
    packed = read(folder)
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).unlink()
    (folder / SHARD).write_bytes(data + bytes(PAGE))
    with reader(packed) as source, pytest.raises(CheckpointError, match="changed while"):
        source.read(packed.blobs[EXPERT])


def test_long_values_are_cut_in_messages(folder: Path) -> None:
    said = head_refusal(changed_head(folder, EXPERT, dtype="F" * 10_000))
    assert len(said) < 200 and said.isascii()


def test_the_checksum_of_a_header_covers_its_length_too(folder: Path) -> None:
    shard = read(folder).manifest.shards[0]
    data = (folder / SHARD).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert shard.head_checksum == xxh3_64_hexdigest(data[: 8 + length])
