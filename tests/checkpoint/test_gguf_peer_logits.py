"""llama.cpp as the oracle: it loads what is exported, and computes the same.

PEER_PYTHON names an interpreter that has llama-cpp-python, if this one has it not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import WIDE, export, opened
from gguf_configs import ALIKE, OTHERWISE
from small_models import draw_ids, relative_error
from tiny_checkpoints import change_config
from torch import Tensor

from expertly.checkpoint import load
from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.locating import bundled
from expertly.families import read_config
from expertly.families.gguf_saying import say
from expertly.formats.blocks import BY_ID

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
# logits of one sequence, and greedy tokens after it; keys and values in float32
CHILD = """
import json, sys
import numpy as np
import llama_cpp as lib

ids, num_new = json.loads(sys.argv[2]), int(sys.argv[3])
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
if not model:
    sys.exit("it does not load")
settings = lib.llama_context_default_params()
settings.n_ctx, settings.n_threads, settings.n_threads_batch = 256, 1, 1
settings.type_k = settings.type_v = lib.GGML_TYPE_F32
settings.flash_attn_type = 0
context = lib.llama_init_from_model(model, settings)
size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
batch = lib.llama_batch_init(len(ids), 0, 1)

def logits_of(tokens, first):
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i] = token, first + i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
    assert lib.llama_decode(context, batch) == 0
    rows = [lib.llama_get_logits_ith(context, i) for i in range(len(tokens))]
    return np.stack([np.ctypeslib.as_array(row, (size,)).copy() for row in rows])

found = logits_of(ids, 0)
np.save(sys.argv[4], found)
new, last = [], found[-1]
for step in range(num_new):
    new.append(int(last.argmax()))
    last = logits_of(new[-1:], len(ids) + step)[-1]
print(json.dumps(new))
"""


@pytest.fixture(scope="module", autouse=True)
def peer() -> None:
    found = subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{PYTHON} has no llama_cpp")


def theirs(path: Path, ids: list[int], num_new: int = 0) -> tuple[Tensor, list[int]]:
    out = path.with_suffix(".npy")
    command = [PYTHON, "-c", CHILD, str(path), json.dumps(ids), str(num_new), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.from_numpy(np.load(out)), json.loads(done.stdout)


@pytest.mark.parametrize("name", ALIKE)
def test_it_computes_the_logits_of_a_model_of_which_nothing_is_told(
    tmp_path: Path, name: str
) -> None:
    model, path, report = export(tmp_path, ALIKE[name])
    assert not report.differences
    ids = draw_ids(model.config, 1, 33)
    with torch.inference_mode():
        right = model(ids).logits[0]
    assert relative_error(theirs(path, ids[0].tolist())[0], right) < 2e-3


@pytest.mark.parametrize("name", OTHERWISE)
def test_it_does_what_is_told_of_it(tmp_path: Path, name: str) -> None:
    model, path, report = export(tmp_path, OTHERWISE[name])
    ids = draw_ids(model.config, 1, 33)
    if any("cannot load it" in line for line in report.differences):
        with pytest.raises(AssertionError, match="it does not load"):
            theirs(path, ids[0].tolist())
        return
    with torch.inference_mode():
        right = model(ids).logits[0]
    assert relative_error(theirs(path, ids[0].tolist())[0], right) > 1e-3


@pytest.mark.parametrize("kind", [block.name for block in BY_ID.values()])
def test_it_loads_every_type_and_is_near_us(tmp_path: Path, kind: str) -> None:
    model, path, _ = export(tmp_path, WIDE, kind)
    ids = draw_ids(model.config, 1, 33)
    found, _ = theirs(path, ids[0].tolist())
    ours = opened(path)(ids).logits[0]
    # both round activations, each in its own way, and then choose other experts now and then
    assert (found - ours).std() < 0.3 * ours.std()


def test_the_bundled_model_in_f16_writes_the_same_text(tmp_path: Path) -> None:
    """As llama.cpp computes its architecture: it does not make the weights of experts sum to 1."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in bundled().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    report = save_gguf(folder, tmp_path / "own.gguf", "f16")
    told = say(read_config(json.loads((folder / "config.json").read_text()))).differences
    assert report.differences == told and "sum to 1" in told[0]
    change_config(folder, norm_topk_prob=False)
    path = tmp_path / "plain.gguf"
    assert not save_gguf(folder, path, "f16").differences
    model = load(path, threads=1)
    assert model.tokenizer is not None
    for text in ("def main():\n    ", "The city of ", "ROMEO: "):
        ids = model.tokenizer.encode(text)
        logits, new = theirs(path, ids, 48)
        ours = model(torch.tensor([ids])).logits[0]
        assert relative_error(logits, ours) < 0.05
        assert greedy(model, ids, 48) == new


def greedy(model, ids: list[int], num_new: int) -> list[int]:
    cache, new = model.new_cache(), []
    step = torch.tensor([ids])
    for _ in range(num_new):
        new.append(int(model(step, cache=cache, logits="last").logits.argmax()))
        step = torch.tensor([new[-1:]])
    return new
