"""Direct reads, and files that are not what they were."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_hexdigest

from expertly import _native
from expertly.errors import CheckpointError
from expertly.store.disk import PAGE, DirectDisk, Stamp
from expertly.store.source import BlobSource, Extent, read_whole

DATA = np.random.default_rng(0).integers(0, 256, 4 * PAGE, np.uint8)


def room(num_bytes: int = PAGE) -> memoryview:
    """Memory at whole pages."""
    return _native.Buffer(num_bytes).array().data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blobs"
    DATA.tofile(path)
    return path


def disk_of(path: Path) -> DirectDisk:
    status = path.stat()
    return DirectDisk({path: Stamp(status.st_size, status.st_mtime_ns)})


def test_a_range_is_read_and_the_file_closed_afterwards(file) -> None:
    before = len(os.listdir("/proc/self/fd"))
    disk, target = disk_of(file), room(2 * PAGE)
    assert disk.read_at(file, target, PAGE) == 2 * PAGE
    assert bytes(target) == DATA[PAGE : 3 * PAGE].tobytes()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    disk.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_system_that_refuses_direct_reads_gets_plain_ones(file, monkeypatch) -> None:
    opened = os.open

    def refusing(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *rest)

    monkeypatch.setattr("os.open", refusing)
    disk, target = disk_of(file), room()
    assert disk.is_direct and disk.read_at(file, target, 0) == PAGE
    assert not disk.is_direct and bytes(target) == DATA[:PAGE].tobytes()
    disk.close()


def test_a_direct_read_that_is_refused_only_when_it_is_made_becomes_a_plain_one(file) -> None:
    # memory that is not at a page, as a stricter file system would see ours
    disk, target = disk_of(file), room(2 * PAGE)[1 : PAGE + 1]
    assert disk.read_at(file, target, 0) == PAGE
    assert bytes(target) == DATA[:PAGE].tobytes()
    disk.close()


def test_a_read_at_the_end_comes_short(file) -> None:
    disk = disk_of(file)
    assert disk.read_at(file, room(2 * PAGE), 3 * PAGE) == PAGE
    with pytest.raises(CheckpointError, match="4096 bytes came of 8192"):
        read_whole(disk, file, room(2 * PAGE), 3 * PAGE)
    disk.close()


def test_a_file_that_is_cut_or_written_to_is_noticed(file) -> None:
    disk = disk_of(file)
    disk.read_at(file, room(), 0)
    os.truncate(file, 2 * PAGE)
    with pytest.raises(CheckpointError, match="changed while it was read: 16384 bytes then, 8192"):
        disk.read_at(file, room(), 0)
    disk.close()


def test_another_file_in_its_place_is_noticed(file) -> None:
    disk = disk_of(file)
    disk.read_at(file, room(), 0)
    status = file.stat()
    other = file.with_name("other")
    DATA[::-1].tofile(other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, file)
    with pytest.raises(CheckpointError, match="another file stands in its place"):
        disk.read_at(file, room(), 0)
    file.unlink()
    with pytest.raises(CheckpointError, match="another file stands in its place, or none"):
        disk.read_at(file, room(), 0)
    disk.close()


def test_a_folder_is_no_file(tmp_path) -> None:
    disk = DirectDisk({tmp_path: Stamp(1, 1)})
    with pytest.raises((CheckpointError, OSError)):
        disk.read_at(tmp_path, room(), 0)
    disk.close()


class Script:
    """A disk that does one thing after another: bytes to give, or an error to raise."""

    is_direct = True

    def __init__(self, *acts: bytes | OSError) -> None:
        self.acts = list(acts)

    def read_at(self, file: Path, target: memoryview, offset: int) -> int:
        act = self.acts.pop(0)
        if isinstance(act, OSError):
            raise act
        target[: len(act)] = act
        return len(act)

    def close(self) -> None:
        pass


def source_of(*acts: bytes | OSError) -> BlobSource:
    extent = Extent(Path("f"), 0, 8, 4, xxh3_64_hexdigest(b"good"))
    return BlobSource(Script(*acts), {(0, 3): extent}, memoryview(bytearray(24)), slot_bytes=8)


def read(source, key, slot) -> None:
    for part in source.parts(key, slot):
        part()


@pytest.mark.parametrize(
    "acts",
    [
        (b"goodpads",),
        (OSError(errno.EIO, "broken"), b"goodpads"),
        (b"goo", b"", b"goodpads"),
        (b"baadpads", b"goodpads"),
    ],
)
def test_what_goes_wrong_once_or_twice_is_read_again(acts) -> None:
    source = source_of(*acts)
    read(source, (0, 3), 1)
    assert source._memory == bytes(8) + b"goodpads" + bytes(8) and source.disk.acts == []


@pytest.mark.parametrize(
    ("acts", "said"),
    [
        ([OSError(errno.EIO, "broken")] * 3, "f: reading at byte 0 failed: broken"),
        ([b"goodpad"] * 3, "7 bytes came of 8"),
        ([b"baadpads"] * 2, "expert 3 of layer 0 is damaged"),
    ],
)
def test_what_stays_wrong_is_one_error(acts, said) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(source_of(*acts), (0, 3), 0)
