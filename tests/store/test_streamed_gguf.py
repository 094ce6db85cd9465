"""A GGUF file streamed as it is: no packing first, the same logits to the bit."""

import os
from pathlib import Path

import pytest
import torch
from store_models import decoded

from expertly.checkpoint import load
from expertly.checkpoint.apart import gguf_apart
from expertly.checkpoint.gguf_saving import save_gguf
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.streamed_loading import stream
from expertly.errors import CheckpointError, InputError
from expertly.store.disk import PAGE

IDS = [1 + 37 * i % 4000 for i in range(24)]


@pytest.fixture(scope="module", params=["bf16", "q8_0", "q4_0"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    save_gguf(bundled(), out, request.param)
    return out


@pytest.mark.parametrize("num_slots", [3, 32, 64, 96, 128])
def test_logits_are_the_resident_ones_to_the_bit_at_every_budget(path, num_slots) -> None:
    model = stream(gguf_apart(path, threads=1), num_slots, threads=1)
    wanted = decoded(load(path, "native", threads=1), IDS, prompt=10)
    assert torch.equal(decoded(model, IDS, prompt=10), wanted)
    model.store.close()


def test_an_expert_is_three_ranges_and_little_more_is_read_than_it_has(path) -> None:
    apart = gguf_apart(path, threads=1)
    model = stream(apart, 8, threads=1)
    list(model.store.get(1, [5]))
    file = {matrix.place.parameter: matrix.format for matrix in apart.experts.pieces[1, 5]}
    assert len(file) == 3
    block_bytes = {"bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}[path.stem]
    weights = 3 * 64 * 192 * block_bytes
    # at most a page before and a page after each range
    assert weights <= model.store.tally.read_bytes <= weights + 3 * 2 * PAGE
    model.store.close()


def test_a_budget_for_all_leaves_nothing_to_stream(path) -> None:
    model = load(path, memory="4GB", threads=1)
    assert model.store is None and model.budget.endswith("128 of 128 experts: all fit")
    wanted = decoded(load(path, "native", threads=1), IDS, prompt=10)
    assert torch.equal(decoded(model, IDS, prompt=10), wanted)


def test_a_file_that_is_cut_while_it_is_streamed_is_one_error(tmp_path) -> None:
    path = tmp_path / "m.gguf"
    save_gguf(bundled(), path, "q8_0")
    model = stream(gguf_apart(path, threads=1), 32, threads=1)
    decoded(model, IDS[:4], prompt=2)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        decoded(model, IDS, prompt=10)
    model.store.close()


def test_a_quantising_dtype_and_a_budget_exclude_each_other(path) -> None:
    with pytest.raises(InputError, match="experts are read as they are stored") as caught:
        load(path, "int4", memory="4GB")
    assert "expertly pack" in caught.value.hint
