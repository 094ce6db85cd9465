"""Peak memory of a load: the weights once, one tensor, and little else."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import INDEX, MIXTRAL, write_header

from expertly.families import read_config, stored_tensors

# 325 MB of float32 in six shards; the embedding is the largest tensor
LARGE = {
    **MIXTRAL,
    "vocab_size": 12_000,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_local_experts": 8,
}
NUM_SHARDS = 6
SLACK_BYTES = 64_000_000

MEASURE = """
import re, sys
from pathlib import Path
import torch
from expertly.checkpoint import load

def peak_bytes():
    # not ru_maxrss, which begins with the memory of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

torch.set_num_threads(1)
torch.zeros(1000).bfloat16().float().sum()
before = peak_bytes()
model = load(sys.argv[1])
weights = sum(p.nbytes for p in model.parameters())
# touched, or the pages would not count
assert all(p.detach().flatten()[0] == 0 for p in model.parameters())
print(weights, peak_bytes() - before)
"""


def write_holes(folder: Path, dtype: str, itemsize: int) -> int:
    """A checkpoint of zeros that takes no room on disk; the bytes of its largest tensor."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LARGE))
    tensors = list(stored_tensors(read_config(LARGE)))
    weight_map = {}
    for number in range(NUM_SHARDS):
        file = f"model-{number}.safetensors"
        header, offset = {}, 0
        for stored in tensors[number::NUM_SHARDS]:
            end = offset + math.prod(stored.shape) * itemsize
            header[stored.name] = {
                "dtype": dtype,
                "shape": list(stored.shape),
                "data_offsets": [offset, end],
            }
            weight_map[stored.name] = file
            offset = end
        write_header(folder / file, header, offset)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return max(math.prod(stored.shape) for stored in tensors) * itemsize


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "itemsize"), [("F32", 4), ("BF16", 2)])
def test_a_load_holds_the_weights_once_and_one_tensor(tmp_path, dtype, itemsize) -> None:
    largest = write_holes(tmp_path / "m", dtype, itemsize)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "m")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, peak = map(int, result.stdout.split())
    assert weights > 290_000_000
    assert weights * 0.8 < peak <= weights + largest + SLACK_BYTES
