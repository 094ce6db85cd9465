"""llama.cpp as the oracle: it loads what is exported, and computes the same.

PEER_PYTHON names an interpreter that has llama-cpp-python, if this one has it not.
"""

import os
import subprocess
import sys
from pathlib import Path

import compare_llama
import pytest
import torch
from exported import WIDE, export, opened
from gguf_configs import ALIKE, OTHERWISE
from small_models import draw_ids, relative_error
from torch import Tensor

from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.locating import bundled
from expertly.formats.blocks import BY_ID

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("PEER_PYTHON", sys.executable)
# a choice between two tokens that float16 activations may turn, in standard deviations
NEARLY_EQUAL = 1e-3


@pytest.fixture(scope="module", autouse=True)
def peer() -> None:
    found = subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{PYTHON} has no llama_cpp")


def theirs(path: Path, ids: list[int]) -> Tensor:
    """With keys and values in float32."""
    return compare_llama.theirs(PYTHON, path, ids, cache="F32")[0]


@pytest.mark.parametrize("name", ALIKE)
def test_it_computes_the_logits_of_a_model_of_which_nothing_is_told(
    tmp_path: Path, name: str
) -> None:
    model, path, report = export(tmp_path, ALIKE[name])
    assert not report.differences
    ids = draw_ids(model.config, 1, 33)
    with torch.inference_mode():
        right = model(ids).logits[0]
    assert relative_error(theirs(path, ids[0].tolist()), right) < 2e-3


@pytest.mark.parametrize("name", OTHERWISE)
def test_it_does_what_is_told_of_it(tmp_path: Path, name: str) -> None:
    model, path, report = export(tmp_path, OTHERWISE[name])
    ids = draw_ids(model.config, 1, 33)
    if any("cannot load it" in line for line in report.differences):
        with pytest.raises(RuntimeError, match="it does not load"):
            theirs(path, ids[0].tolist())
        return
    with torch.inference_mode():
        right = model(ids).logits[0]
    assert relative_error(theirs(path, ids[0].tolist()), right) > 1e-3


@pytest.mark.parametrize("kind", [block.name for block in BY_ID.values()])
def test_it_loads_every_type_and_is_near_us(tmp_path: Path, kind: str) -> None:
    model, path, _ = export(tmp_path, WIDE, kind)
    ids = draw_ids(model.config, 1, 33)
    found = theirs(path, ids[0].tolist())
    ours = opened(path)(ids).logits[0]
    # both round activations, each in its own way, and then choose other experts now and then
    assert (found - ours).std() < 0.3 * ours.std()


def test_what_is_told_of_the_bundled_model_is_its_weights_of_experts(tmp_path: Path) -> None:
    report = save_gguf(bundled(), tmp_path / "own.gguf", "f16")
    (line,) = report.differences
    assert "sum to 1" in line
    assert not compare_llama.export(bundled(), tmp_path / "plain.gguf", "f16").differences


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_the_bundled_model_writes_the_same_200_tokens(tmp_path: Path, kind: str) -> None:
    """As llama.cpp computes its architecture. It rounds activations to float16 for f16: where two
    tokens nearly tie it may take the other, and goes on from there."""
    path = tmp_path / "model.gguf"
    compare_llama.export(bundled(), path, kind)
    rows = compare_llama.compare(PYTHON, path, compare_llama.PROMPTS, 200)
    turned = [row for row in rows if row.same_tokens < 200]
    assert len(turned) <= (kind == "f16")
    assert all(row.lead < NEARLY_EQUAL for row in turned), turned
    assert all(row.logit_error < 0.05 for row in rows)


@pytest.mark.parametrize("name", ALIKE)
def test_tiny_models_of_every_family_go_on_with_the_same_tokens(tmp_path: Path, name: str) -> None:
    model, path, _ = export(tmp_path, ALIKE[name])
    ids = draw_ids(model.config, 1, 9)[0].tolist()
    _, their_new = compare_llama.theirs(PYTHON, path, ids, 20)
    assert compare_llama.ours(opened(path), ids, 20)[1] == their_new
