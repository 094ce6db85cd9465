import errno
import os
from pathlib import Path

import pytest

from expertly.errors import OutputError
from expertly.train import files


def test_a_whole_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_whole(path, b"old")
    files.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.json"
    files.write_whole(path, b"old")
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError) as caught, files.writing(path, hint="make room"):
        files.write_whole(path, b"new")
    assert caught.value.message == f"cannot write {path}: No space left on device"
    assert caught.value.hint == "make room"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_is_no_fault_of_the_disk_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.writing(tmp_path):
        raise KeyError("ours")


def test_a_digest_changes_with_any_bit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    before = files.digest(path)
    assert len(before) == 64
    for bit in range(0, 8000, 997):
        data = bytearray(1000)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert files.digest(path) != before
