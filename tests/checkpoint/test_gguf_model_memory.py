"""Peak memory: loading holds a GGUF file or a folder of safetensors once, writing a chunk of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import MIXTRAL

from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.saving import save
from expertly.families import read_config, stored_tensors
from expertly.model import Decoder

# 80 MB at 16 bits
LARGE = {
    **MIXTRAL,
    "vocab_size": 4_000,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_local_experts": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
# threads, and what the head is read into
SLACK_BYTES = 8_000_000
# a chunk of float32 weights, its source and its blocks
CHUNK_BYTES = 40_000_000

PEAK = """
import re, sys
from pathlib import Path
from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.gguf_saving import save_gguf

def peak_bytes():
    # not ru_maxrss, which begins with the memory of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(re.search("VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

before = peak_bytes()
"""
LOAD = """
file, config = open_gguf(Path(sys.argv[1]))
weights = load_gguf(file, config, "native", 2)
print(sum(matrix.num_bytes for matrix in weights.matrices.values()), peak_bytes() - before)
"""
LOAD_FOLDER = """
from expertly.checkpoint import load
before = peak_bytes()
model = load(sys.argv[1], dtype="native")
print(Path(sys.argv[1], "model.safetensors").stat().st_size, peak_bytes() - before)
"""
# the second of two files: what libraries take when they are first used is none of a file's
SAVE = """
save_gguf(Path(sys.argv[1]), Path(sys.argv[2]).with_name("first.gguf"), "q8_0", threads=2)
Path("/proc/self/clear_refs").write_text("5")
before = peak_bytes()
report = save_gguf(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0", threads=2)
print(report.num_bytes, peak_bytes() - before)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def measured(program: str, *arguments: Path) -> tuple[int, int]:
    command = [sys.executable, "-c", PEAK + program, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    size, peak = map(int, result.stdout.split())
    return size, peak


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ones."""
    path = tmp_path_factory.mktemp("large") / "model"
    config = read_config(LARGE)
    tiny = {**LARGE, "hidden_size": 64, "vocab_size": 10, "intermediate_size": 8}
    save(Decoder(read_config(tiny)), path)
    tensors = {
        stored.name: torch.ones(stored.shape, dtype=torch.bfloat16)
        for stored in stored_tensors(config)
    }
    save_file(tensors, path / "model.safetensors")
    text = (path / "config.json").read_text()
    for name in ("hidden_size", "vocab_size", "intermediate_size"):
        text = re.sub(f'"{name}": \\d+', f'"{name}": {LARGE[name]}', text)
    (path / "config.json").write_text(text)
    return path


def test_a_file_is_held_once_while_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    save_gguf(folder, path, "bf16", threads=2)
    weights, peak = measured(LOAD, path)
    file_bytes = path.stat().st_size
    assert file_bytes > 70_000_000
    assert 0.95 * weights < peak <= 1.05 * file_bytes + SLACK_BYTES


def test_a_folder_of_safetensors_is_held_once_on_the_native_kernels(folder: Path) -> None:
    file_bytes, peak = measured(LOAD_FOLDER, folder)
    assert file_bytes > 70_000_000
    assert 0.95 * file_bytes < peak <= 1.05 * file_bytes + SLACK_BYTES


def test_a_chunk_is_held_while_a_file_is_written(folder: Path, tmp_path: Path) -> None:
    num_bytes, peak = measured(SAVE, folder, tmp_path / "m.gguf")
    assert num_bytes > 40_000_000
    assert peak <= CHUNK_BYTES
