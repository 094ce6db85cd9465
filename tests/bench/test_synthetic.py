import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.synthetic import SHAPES, Shape, metadata, tensors, write_random
from expertly.formats import gguf
from expertly.formats.dequantise import dequantise

SMALL = Shape(
    arch="qwen3moe",
    layers=2,
    width=256,
    heads=4,
    kv_heads=2,
    head_size=64,
    experts=3,
    chosen=2,
    expert_size=256,
    vocabulary=70,
    context=128,
    eps=1e-6,
    rope_base=1e4,
    has_head_norm=True,
)
KINDS = ["q4_0", "q4_k", "q8_0", "bf16"]


def values(name: str, kind: str, seed: int = 0) -> np.ndarray:
    """A tensor's weights, as its blocks decode."""
    block, shape, chunks = next(
        rest for found, *rest in tensors(SMALL, kind, seed) if found == name
    )
    raw = b"".join(bytes(chunk) for chunk in chunks())
    return dequantise(block, raw, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_file_holds_what_was_drawn(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "small.gguf"
    write_random(SMALL, kind, path)
    found = gguf.read(path)
    drawn = {name: (block, shape) for name, block, shape, _ in tensors(SMALL, kind)}
    assert {n: (t.block, t.shape) for n, t in found.tensors.items()} == drawn
    assert found.metadata["qwen3moe.expert_count"] == 3
    assert found.metadata["tokenizer.ggml.model"] == "no_vocab"
    data = path.read_bytes()
    for name, block, _, chunks in tensors(SMALL, kind):
        tensor = found.tensors[name]
        assert tensor.block == block
        raw = b"".join(bytes(chunk) for chunk in chunks())
        assert data[tensor.offset : tensor.offset + tensor.num_bytes] == raw


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_small_centred_and_all_finite(kind: str) -> None:
    w = values("blk.0.ffn_up_exps.weight", kind)
    assert np.isfinite(w).all() and 0.008 < w.std() < 0.03
    # weights that lean to one side would send all tokens the same way
    assert abs(w.mean()) < 0.02 * w.std()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_as_large_as_normed_activations(kind: str) -> None:
    assert 0.6 < values("token_embd.weight", kind).std() < 2.4


def test_norms_are_about_one_and_routers_in_float() -> None:
    norm = values("blk.1.attn_norm.weight", "q4_0")
    assert abs(norm.mean() - 1) < 0.05 and 0.05 < norm.std() < 0.15
    blocks = {name: block.name for name, block, _, _ in tensors(SMALL, "q4_0")}
    assert blocks["blk.1.ffn_gate_inp.weight"] == "f32"
    assert set(blocks.values()) == {"f32", "q4_0"}


def test_the_seed_decides_and_tensors_differ() -> None:
    up, again = (values("blk.0.ffn_up_exps.weight", "q8_0") for _ in range(2))
    assert np.array_equal(up, again)
    assert not np.array_equal(up, values("blk.0.ffn_up_exps.weight", "q8_0", seed=1))
    assert not np.array_equal(up, values("blk.0.ffn_gate_exps.weight", "q8_0"))


@pytest.mark.parametrize(("name", "gib"), [("qwen3", 4.25), ("olmoe", 3.63)])
def test_whole_shapes_have_the_sizes_that_they_should(name: str, gib: float) -> None:
    sizes = [np.prod(shape) / block.size * block.num_bytes for _, block, shape, _
             in tensors(SHAPES[name], "q4_0")]  # fmt: skip
    assert sum(sizes) / 2**30 == pytest.approx(gib, abs=0.01)


def test_norms_of_queries_are_a_head_s_or_the_projection_s() -> None:
    whole = dataclasses.replace(SMALL, has_head_norm=False)
    for shape, wanted in ((SMALL, [(64,), (64,)]), (whole, [(256,), (128,)])):
        sizes = {name: size for name, _, size, _ in tensors(shape, "q8_0")}
        assert [sizes[f"blk.0.attn_{part}_norm.weight"] for part in "qk"] == wanted
    assert metadata(whole, "q8_0")["general.file_type"] == 7
