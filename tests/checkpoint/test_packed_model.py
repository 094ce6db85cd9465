"""A model packed and loaded again is the model that was quantised as it was read: to the bit."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from packing import (
    DBRX,
    FAMILIES,
    GPT_OSS,
    MIXTRAL,
    WIDE,
    calibrated,
    flip_bit,
    logits_of,
    native_logits,
    pack,
    packed_tiny,
)
from safetensors import safe_open
from tiny_checkpoints import change_config, change_tensors, tiny_model, write_tiny

from expertly import _native
from expertly.checkpoint import load, save
from expertly.checkpoint.packed_loading import load_packed, packed_experts
from expertly.checkpoint.packed_opening import open_packed
from expertly.checkpoint.recipe import Recipe, recipe_of_bits, recipe_of_type
from expertly.errors import CheckpointError, InputError, OutputError
from expertly.families import parameters
from expertly.formats.packed import MANIFEST, expert_key, is_packed, read
from expertly.formats.packed_header import PAGE
from expertly.model.weights import is_matrix, is_router

SHARD = "packed-00001.safetensors"
Q8 = recipe_of_type("q8_0")
each_family = pytest.mark.parametrize("name", FAMILIES)


@each_family
def test_a_model_packed_in_float32_computes_as_its_checkpoint_does(tmp_path, name) -> None:
    packed = packed_tiny(tmp_path, FAMILIES[name], recipe_of_type("f32"))
    expected = logits_of(load(tmp_path / "model", "native", threads=1))
    assert torch.equal(native_logits(packed), expected)


@each_family
def test_a_model_packed_at_8_bits_is_the_one_quantised_as_it_is_read(tmp_path, name) -> None:
    packed = packed_tiny(tmp_path, FAMILIES[name], Q8)
    expected = logits_of(load(tmp_path / "model", "int8", threads=1))
    assert torch.equal(native_logits(packed), expected)


@each_family
def test_vectors_and_routers_come_back_in_full_precision(tmp_path, name) -> None:
    packed = packed_tiny(tmp_path, FAMILIES[name], recipe_of_bits(4))
    config, weights, _ = load_packed(packed)
    model = load(tmp_path / "model")
    for parameter, tensor in model.named_parameters():
        if not is_matrix(parameter):
            assert np.array_equal(weights.vectors[parameter], tensor.detach().numpy()), parameter
        elif is_router(parameter):
            router = weights.matrix(parameter)
            assert router.format == "f32"
            assert np.array_equal(router.unpack(0, router.rows), tensor.detach().numpy())
    assert {p for p in parameters(config) if not is_matrix(p)} == weights.vectors.keys()


def test_any_cut_into_shards_and_any_threads_give_the_same_bytes(tmp_path) -> None:
    write_tiny(tmp_path / "m", GPT_OSS)
    found = []
    for size, threads in ((1, 1), (20_000, 3), (1 << 30, 2)):
        out = tmp_path / f"out-{size}"
        pack(tmp_path / "m", out, recipe_of_bits(4), threads=threads, max_shard_bytes=size)
        found.append({key: blob.checksum for key, blob in read(out).blobs.items()})
        assert torch.equal(native_logits(out), native_logits(tmp_path / "out-1"))
    assert found[0] == found[1] == found[2]
    assert len([*(tmp_path / "out-1").glob("*.safetensors")]) == len(found[0])


def test_an_expert_is_one_run_of_pages_gate_up_and_down_adjacent(tmp_path) -> None:
    packed = packed_tiny(tmp_path, WIDE, recipe_of_bits(4))
    stored = read(packed).blobs[expert_key(1, 3)]
    assert stored.offset % PAGE == 0
    assert [piece.name for piece in stored.blob.pieces] == [
        "w_gate_EFD", "w_up_EFD", "w_down_EDF"
    ]  # fmt: skip
    assert stored.blob.num_bytes == 3 * _native.layout_bytes("i4", 256, 256)
    with safe_open(packed / SHARD, "np") as file:
        assert file.get_tensor(expert_key(1, 3)).shape == (stored.blob.padded_bytes,)


def test_one_expert_is_read_alone_and_is_what_the_whole_model_has(tmp_path) -> None:
    packed = packed_tiny(tmp_path, WIDE, recipe_of_bits(4))
    _, weights, _ = load_packed(packed)
    with packed_experts(packed) as experts:
        size = experts.num_bytes(1, 4)
        buffer = _native.Buffer(2 * size)
        experts.read(1, 4, buffer.array()[size:])
        gate, up, down = experts.matrices(1, 4, buffer, size)
    assert size % PAGE == 0
    for leaf, own in (("w_gate_EFD", gate), ("w_up_EFD", up), ("w_down_EDF", down)):
        whole = weights.matrix(f"layers.1.feed_forward.experts.{leaf}", 4)
        assert np.array_equal(own.unpack(0, own.rows), whole.unpack(0, whole.rows))


def test_all_but_the_experts_can_be_loaded_alone(tmp_path) -> None:
    packed = packed_tiny(tmp_path, WIDE, recipe_of_bits(4))
    _, weights, _ = load_packed(packed, has_experts=False)
    assert weights.vectors and all(expert is None for _, expert in weights.matrices)
    assert ("layers.0.feed_forward.shared.w_up_FD", None) in weights.matrices


def test_formats_are_those_of_the_recipe_and_routers_are_float32(tmp_path) -> None:
    recipe = recipe_of_bits(4, [("layers.0.*", "q5_1"), ("layers.0.*experts.2.*", "f16")])
    packed = packed_tiny(tmp_path, WIDE, recipe)
    _, weights, _ = load_packed(packed)
    gate = "feed_forward.experts.w_gate_EFD"
    assert weights.matrix(f"layers.0.{gate}", 2).format == "f16"
    assert weights.matrix(f"layers.0.{gate}", 1).format == "q5_1"
    assert weights.matrix("layers.0.attention.w_q_HCD").format == "q5_1"
    assert weights.matrix(f"layers.1.{gate}", 2).format == "i4"
    assert weights.matrix("layers.1.attention.w_q_HCD").format == "q8_0"
    assert weights.matrix("layers.0.feed_forward.router.w_ED").format == "f32"


def test_the_report_counts_weights_bytes_and_what_fell_back(tmp_path) -> None:
    write_tiny(tmp_path / "m", MIXTRAL)
    report = pack(tmp_path / "m", tmp_path / "out", recipe_of_type("q4_k"))
    # 2 layers: 4 of attention and 3 of each of 3 experts; embedding and head
    assert report.fell_back == {("q4_k", "q5_0"): 2 * (4 + 9) + 2}
    assert sum(report.weights.values()) == report.num_weights
    assert report.num_weights == sum(p.numel() for p in load(tmp_path / "m").parameters())
    assert report.num_bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    blobs = read(tmp_path / "out").blobs.values()
    assert report.weight_bytes == sum(stored.blob.num_bytes for stored in blobs)
    assert report.bits_per_weight == 8 * report.weight_bytes / report.num_weights


def test_progress_rises_to_all_bytes(tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    packed_tiny(tmp_path, MIXTRAL, Q8, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0
    assert len(seen) == len(read(tmp_path / "packed").blobs)


def test_a_calibration_lowers_the_error_of_the_output(tmp_path) -> None:
    model = tiny_model(WIDE)
    # columns that are next to nothing: errors there cost nothing
    with torch.no_grad():
        for layer in model.layers:
            layer.feed_forward_norm.weight_D[::2] = 1e-3
    save(model, tmp_path / "m")
    recipe = Recipe(experts="i4", others="f32")
    pack(tmp_path / "m", tmp_path / "with", recipe, calibration=calibrated(model))
    pack(tmp_path / "m", tmp_path / "without", recipe)
    exact = logits_of(model)
    errors = [(native_logits(tmp_path / o) - exact).norm() for o in ("with", "without")]
    assert errors[0] < 0.8 * errors[1]


def test_experts_that_the_text_never_reached_stand_in_the_folder(tmp_path) -> None:
    model = write_tiny(tmp_path / "m", WIDE)
    calibration = calibrated(model, num_windows=1, length=1)
    report = pack(tmp_path / "m", tmp_path / "out", recipe_of_bits(4), calibration=calibration)
    # one token chooses 2 of 5 experts in each of 2 layers
    assert len(report.unreached) == 6 and {layer for layer, _ in report.unreached} == {0, 1}
    assert read(tmp_path / "out").manifest.unreached == report.unreached


def test_a_damaged_weight_is_found_while_loading(tmp_path) -> None:
    packed = packed_tiny(tmp_path, MIXTRAL, Q8)
    blobs = read(packed).blobs
    for key in (expert_key(0, 2), "head_VD", "vectors"):
        stored = blobs[key]
        flip_bit(packed / SHARD, stored.offset + stored.blob.num_bytes - 1)
        with pytest.raises(CheckpointError, match=f"the blob {key} is damaged"):
            load_packed(packed, threads=2)
        flip_bit(packed / SHARD, stored.offset + stored.blob.num_bytes - 1)
    load_packed(packed)


def test_a_damaged_expert_is_found_when_it_is_read_alone(tmp_path) -> None:
    packed = packed_tiny(tmp_path, MIXTRAL, Q8)
    flip_bit(packed / SHARD, read(packed).blobs[expert_key(1, 0)].offset)
    with packed_experts(packed) as experts:
        target = np.empty(experts.num_bytes(1, 0), np.uint8)
        with pytest.raises(CheckpointError, match=r"experts\.0 is damaged"):
            experts.read(1, 0, target)
        experts.read(1, 0, target, is_checked=False)
        experts.read(1, 1, np.empty(experts.num_bytes(1, 1), np.uint8))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 38}, "embed_VD of 37 x 24 is where the config asks for embed_VD of 38"),
        ({"num_local_experts": 4}, "lacks layers.0.feed_forward.experts.3, layers.1"),
        ({"num_local_experts": 2}, "holds, beside what its config asks for, layers.0.feed"),
        ({"num_hidden_layers": 1}, "holds, beside what its config asks for, layers.1.attention"),
        ({"tie_word_embeddings": True}, "holds, beside what its config asks for, head_VD"),
        ({"intermediate_size": 15}, "w_gate_EFD of 14 x 24 is where the config asks for"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(tmp_path, changes, said) -> None:
    packed = packed_tiny(tmp_path, MIXTRAL, Q8)
    change_config(packed, **changes)
    with pytest.raises(CheckpointError) as caught:
        open_packed(packed)
    assert said in caught.value.message and "pack the model again" in caught.value.hint


def test_a_folder_is_written_whole_or_not_at_all(tmp_path) -> None:
    write_tiny(tmp_path / "m", MIXTRAL)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "m", tmp_path / "out", Q8, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(tmp_path, monkeypatch) -> None:
    write_tiny(tmp_path / "m", MIXTRAL)
    seen: list[int] = []
    usage = shutil._ntuple_diskusage(10**6, 10**6, 9000)
    monkeypatch.setattr("expertly.checkpoint.packed_saving.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="its disk has 9,000 free"):
        pack(tmp_path / "m", tmp_path / "out", Q8, progress=lambda done, total: seen.append(done))
    assert not seen and not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path) -> None:
    model = write_tiny(tmp_path / "m", MIXTRAL)
    bad = model.layers[1].feed_forward.experts.w_up_EFD[2].detach().clone()
    bad[3, 4] = float("nan")
    change_tensors(tmp_path / "m", model__layers__1__block_sparse_moe__experts__2__w3__weight=bad)
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.experts\.2\.w_up_EFD has"):
        pack(tmp_path / "m", tmp_path / "out", Q8)


def test_a_pattern_that_names_nothing_is_refused_and_nothing_is_written(tmp_path) -> None:
    write_tiny(tmp_path / "m", MIXTRAL)
    for pattern in ("layer.0.*", "*router*"):
        with pytest.raises(InputError, match="no quantised matrix is called"):
            pack(tmp_path / "m", tmp_path / "out", recipe_of_bits(4, [(pattern, "q8_0")]))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_config_and_tokenizer_travel_with_the_weights(tmp_path) -> None:
    write_tiny(tmp_path / "m", MIXTRAL)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "m" / name).write_text("{}" if name.endswith("json") else "{{ messages }}")
    _write_tokenizer(tmp_path / "m")
    pack(tmp_path / "m", tmp_path / "out", Q8)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((tmp_path / "m" / "config.json").read_text())
    _, _, tokenizer = load_packed(tmp_path / "out")
    assert tokenizer is not None and tokenizer.encode("ab") == [0, 1]
    assert is_packed(tmp_path / "out") and not is_packed(tmp_path / "m")


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.save(str(folder / "tokenizer.json"))


def test_a_shard_that_is_not_there_is_named(tmp_path) -> None:
    packed = packed_tiny(tmp_path, DBRX, Q8)
    os.remove(packed / SHARD)
    with pytest.raises(CheckpointError, match=f"{SHARD}: cannot be read"):
        load_packed(packed)
    (packed / MANIFEST).unlink()
    assert not is_packed(packed)
