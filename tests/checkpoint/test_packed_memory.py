"""Peak memory of loading a packed folder: the files once, and little else."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import MIXTRAL

from expertly.checkpoint.packed_layout import blob_of, groups, vector_blob
from expertly.checkpoint.recipe import formats_of, recipe_of_type
from expertly.families import read_config
from expertly.formats.packed_writer import Content, write

# 160 MB at 16 bits
LARGE = {
    **MIXTRAL,
    "vocab_size": 8_000,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_local_experts": 8,
}
# threads, and what the headers are read into
SLACK_BYTES = 8_000_000

MEASURE = """
import re, sys
from pathlib import Path
from expertly.checkpoint.packed_loading import load_packed

def peak_bytes():
    # not ru_maxrss, which begins with the memory of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

before = peak_bytes()
_, weights, _ = load_packed(Path(sys.argv[1]), threads=2)
print(sum(m.num_bytes for m in weights.matrices.values()), peak_bytes() - before)
"""


def write_ones(folder: Path) -> int:
    """A packed folder of bytes that are all one; how many there are."""
    config = read_config(LARGE)
    places = [place for group in groups(config).values() for place in group]
    formats = formats_of(recipe_of_type("bf16"), places)
    blobs = [blob_of(key, group, formats) for key, group in groups(config).items()]
    blobs.append(vector_blob(config))
    contents = [Content(blob, lambda n=blob.num_bytes: [b"\1" * n]) for blob in blobs]
    folder.mkdir()
    write(folder, LARGE, contents, bits=16)
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_packed_folder_is_held_once(tmp_path: Path) -> None:
    file_bytes = write_ones(tmp_path / "m")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "m")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, peak = map(int, result.stdout.split())
    assert file_bytes > 140_000_000
    assert 0.95 * weights < peak <= 1.05 * file_bytes + SLACK_BYTES
