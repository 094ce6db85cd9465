"""Models into GGUF files: all of them, in any type, or nothing at all."""

import math
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from exported import WIDE, export, opened, unpacked, weights_of, write_with_tokenizer
from gguf_configs import SAYABLE
from small_models import draw_ids, relative_error
from tiny_checkpoints import EMBEDDING, change_config, change_tensors, write_tiny

from expertly import _native
from expertly.checkpoint import load
from expertly.checkpoint.gguf_loading import open_gguf
from expertly.checkpoint.gguf_saving import save_gguf
from expertly.errors import CheckpointError, ConfigError, InputError, OutputError
from expertly.text import Tokenizer

CHAT = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}{% endfor %}"
# the largest error of a weight that rounding to a type may leave, in standard deviations
BOUNDS = {
    "f32": 0.0,
    "f16": 2e-3,
    "bf16": 2e-2,
    "q8_0": 0.03,
    "q6_k": 0.15,
    "q5_k": 0.25,
    "q5_1": 0.25,
    "q5_0": 0.3,
    "q4_k": 0.5,
    "q4_1": 0.5,
    "q4_0": 0.7,
    "iq4_nl": 0.7,
    "mxfp4": 1.0,
    "q3_k": 1.0,
    "q2_k": 1.6,
}


@pytest.mark.parametrize("name", SAYABLE)
def test_every_parameter_comes_back(tmp_path: Path, name: str) -> None:
    model, path, _ = export(tmp_path, SAYABLE[name])
    weights = weights_of(path)
    found = unpacked(model, weights)
    for parameter, right in model.named_parameters():
        np.testing.assert_array_equal(found.pop(parameter), right.detach().numpy(), parameter)
    assert not found


@pytest.mark.parametrize("name", SAYABLE)
def test_the_file_computes_what_the_folder_does(tmp_path: Path, name: str) -> None:
    model, path, _ = export(tmp_path, SAYABLE[name])
    ids = draw_ids(model.config, 2, 17)
    folder = load(tmp_path / "model", "native", threads=1)
    assert relative_error(opened(path)(ids).logits, folder(ids).logits) < 1e-4


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_type_is_that_of_all_matrices_but_routers(tmp_path: Path, kind: str) -> None:
    _, path, report = export(tmp_path, WIDE, kind)
    tensors = gguf.GGUFReader(path).tensors
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in tensors}
    is_mx, is_whole = kind == "mxfp4", BOUNDS[kind] < 0.1
    assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["blk.0.attn_norm.weight"] == "f32"
    assert kinds["blk.0.ffn_down_exps.weight"] == kind
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == ("q8_0" if is_mx else kind)
    head = kind if is_whole else "q8_0" if is_mx else "q6_k"
    assert kinds["output.weight"] == head
    assert all(kinds[name] == "f32" for name in kinds if name.endswith(".bias"))
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[kinds[tensor.name]] += math.prod(tensor.shape.tolist())
    assert report.weights == counts and not report.fell_back
    assert report.num_bytes == path.stat().st_size


@pytest.mark.parametrize("kind", BOUNDS)
def test_weights_of_a_type_are_near_and_read_as_the_public_package_reads_them(
    tmp_path: Path, kind: str
) -> None:
    model, path, _ = export(tmp_path, WIDE, kind)
    found = unpacked(model, weights_of(path))
    theirs = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }
    for name, stored in (
        ("layers.0.feed_forward.experts.w_up_EFD", "blk.0.ffn_up_exps.weight"),
        ("layers.0.attention.w_k_GCD", "blk.0.attn_k.weight"),
        ("embed_VD", "token_embd.weight"),
        ("head_VD", "output.weight"),
    ):
        ours, right = found[name], model.get_parameter(name).detach().numpy()
        np.testing.assert_allclose(
            ours, theirs[stored].reshape(ours.shape), rtol=1e-6, atol=1e-7, err_msg=name
        )
        assert np.abs(ours - right).max() <= BOUNDS[kind] * right.std(), name


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    _, path, _ = export(tmp_path, WIDE, "q4_k")
    fields = gguf.GGUFReader(path).fields
    said = {name: field.contents() for name, field in fields.items()}
    assert said["general.architecture"] == "qwen2moe" and said["general.name"] == "model"
    assert said["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_S
    assert said["general.quantization_version"] == 2
    assert said["tokenizer.ggml.model"] == "no_vocab"
    for name in ("expert_count", "context_length", "attention.key_length"):
        assert fields[f"qwen2moe.{name}"].types == [gguf.GGUFValueType.UINT32]


def test_types_that_rows_do_not_fit_give_way_and_it_is_said(tmp_path: Path) -> None:
    # rows of 32, 64 and (shared) 24
    _, path, report = export(tmp_path, SAYABLE["qwen2_moe"], "q4_k")
    tensors = open_gguf(path)[0].tensors
    assert tensors["blk.0.ffn_up_exps.weight"].block.name == "q5_0"
    assert tensors["blk.0.ffn_down_exps.weight"].block.name == "f16"  # rows of 40
    assert tensors["output.weight"].block.name == "q8_0"
    # of two layers: q, k, v, o, two experts' stacks, two shared, and the embedding
    assert report.fell_back == {
        ("q4_k", "q5_0"): 2 * (4 + 2 + 2) + 1,
        ("q4_k", "f16"): 2 * 2,
        ("q6_k", "q8_0"): 1,
    }


def test_bits_a_weight_count_the_scales_of_blocks(tmp_path: Path) -> None:
    _, path, report = export(tmp_path, WIDE, "q4_k")
    tensors = open_gguf(path)[0].tensors.values()
    num_bytes = sum(tensor.num_bytes for tensor in tensors)
    num_weights = sum(math.prod(tensor.shape) for tensor in tensors)
    assert report.bits_per_weight == 8 * num_bytes / num_weights
    assert 4.5 < report.bits_per_weight < 4.8  # 144 bytes for 256 weights, and what is larger


@pytest.mark.parametrize("name", ["llama3", "dbrx"])
def test_progress_goes_chunk_by_chunk_to_all_the_bytes_of_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Chunks of one head; a tensor of factors, and one of three parts."""
    monkeypatch.setattr("expertly.checkpoint.gguf_saving._CHUNK_WEIGHTS", 1)
    write_tiny(tmp_path / "model", SAYABLE[name])
    told: list[tuple[int, int]] = []
    path = tmp_path / "m.gguf"
    save_gguf(tmp_path / "model", path, "q8_0", progress=lambda *now: told.append(now))
    done, totals = [now[0] for now in told], {now[1] for now in told}
    tensors = open_gguf(path)[0].tensors.values()
    assert totals == {sum(tensor.num_bytes for tensor in tensors)}
    assert done == sorted(set(done)) and done[-1] in totals and len(done) > 2 * len(tensors)


def test_importance_steers_the_rounding_of_the_tensors_it_names(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", WIDE)
    name = "layers.0.feed_forward.experts.w_up_EFD"
    importance = np.random.default_rng(0).exponential(size=(4, 256)).astype(np.float32) ** 4
    plain, steered = tmp_path / "plain.gguf", tmp_path / "steered.gguf"
    save_gguf(tmp_path / "model", plain, "q4_k")
    save_gguf(tmp_path / "model", steered, "q4_k", {name: importance}, threads=2)
    right = model.get_parameter(name).detach().numpy()
    one, other = (unpacked(model, weights_of(path)) for path in (plain, steered))
    for expert in range(4):
        blocks = _native.quantise("q4_k", right[expert].copy(), importance[expert], 1)
        matrix = _native.Matrix("q4_k", 256, 256)
        matrix.pack(blocks.reshape(-1))
        np.testing.assert_array_equal(other[name][expert], matrix.unpack(0, 256))
    errors = [((found[name] - right) ** 2 * importance[:, None]).sum() for found in (one, other)]
    assert errors[1] < errors[0]
    for parameter in set(one) - {name}:
        np.testing.assert_array_equal(one[parameter], other[parameter])


def test_halves_of_heads_become_neighbours_for_llama(tmp_path: Path) -> None:
    model, path, _ = export(tmp_path, SAYABLE["llama_biased"])
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    q_HCD = model.get_parameter("layers.0.attention.w_q_HCD").detach().numpy()
    b_GC = model.get_parameter("layers.0.attention.b_k_GC").detach().numpy()
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    np.testing.assert_array_equal(stored["blk.0.attn_q.weight"], q_HCD[:, order].reshape(32, 32))
    np.testing.assert_array_equal(stored["blk.0.attn_k.bias"], b_GC[:, order].reshape(-1))


def test_the_tokenizer_and_its_template_go_along(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_with_tokenizer(folder, template=CHAT)
    save_gguf(folder, tmp_path / "model.gguf", "q8_0")
    model = load(tmp_path / "model.gguf", threads=1)
    theirs = Tokenizer.open(folder)
    assert model.tokenizer is not None and model.config.eos_ids == (256,)
    text = "Ünïcödé: 漢字 1234, it's\n\n  fine"
    assert model.tokenizer.encode(text) == theirs.encode(text)
    chat = [{"role": "user", "content": text}]
    assert model.tokenizer.chat(chat) == theirs.chat(chat)


def test_coded_experts_stay_the_numbers_they_are(tmp_path: Path) -> None:
    """gpt-oss in MXFP4, made of codes at random."""
    rng = np.random.default_rng(0)
    hf = {**SAYABLE["gpt_oss"], "intermediate_size": 64}
    write_tiny(tmp_path / "model", hf)
    changes: dict[str, torch.Tensor | None] = {}
    for layer in range(2):
        for name, rows, columns in (("gate_up_proj", 128, 32), ("down_proj", 32, 64)):
            stem = f"model__layers__{layer}__mlp__experts__{name}"
            shape = (4, rows, columns // 32)
            codes = rng.integers(0, 256, (*shape, 16), np.uint8)
            scales = rng.integers(120, 126, shape).astype(np.uint8)
            changes |= {
                stem: None,
                f"{stem}_blocks": torch.from_numpy(codes),
                f"{stem}_scales": torch.from_numpy(scales),
            }
    change_tensors(tmp_path / "model", **changes)
    change_config(tmp_path / "model", quantization_config={"quant_method": "mxfp4"})
    model = load(tmp_path / "model", "float32")
    report = save_gguf(tmp_path / "model", tmp_path / "m.gguf", "mxfp4")
    found = unpacked(model, weights_of(tmp_path / "m.gguf"))
    for part in ("w_gate_EFD", "w_up_EFD", "w_down_EDF"):
        name = f"layers.1.feed_forward.experts.{part}"
        np.testing.assert_array_equal(found[name], model.get_parameter(name).detach().numpy())
    assert report.weights["mxfp4"] == 2 * 3 * 4 * 64 * 32


@pytest.mark.parametrize("kind", ["i4", "q4_k_m", "Q4", ""])
def test_types_that_files_do_not_have_are_refused(tmp_path: Path, kind: str) -> None:
    write_tiny(tmp_path / "model")
    with pytest.raises(InputError):
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_and_nothing_is_left(
    tmp_path: Path, value: float
) -> None:
    write_tiny(tmp_path / "model")
    embedding = torch.zeros(37, 24)
    embedding[30, 5] = value
    change_tensors(tmp_path / "model", **{EMBEDDING: embedding})
    with pytest.raises(CheckpointError, match=r"token_embd\.weight would hold weights that"):
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", "q8_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_weights_beyond_f16_are_refused_rather_than_made_infinite(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model")
    change_tensors(tmp_path / "model", **{EMBEDDING: torch.full((37, 24), 70000.0)})
    with pytest.raises(InputError, match="beyond f16's 65504") as caught:
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", "f16")
    assert "bf16" in caught.value.hint
    save_gguf(tmp_path / "model", tmp_path / "m.gguf", "bf16")


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model")
    (tmp_path / "m.gguf").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", "q8_0")
    assert (tmp_path / "m.gguf").read_bytes() == b"mine"


def test_a_model_that_files_cannot_describe_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    write_tiny(tmp_path / "model", {**SAYABLE["llama"], "hidden_act": "gelu"})
    with pytest.raises(ConfigError, match="activation is gelu, only silu"):
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", "f16")
    assert not (tmp_path / "m.gguf").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    write_with_tokenizer(tmp_path / "model", "<tool>", "<end>")
    with pytest.raises(InputError, match="the tokenizer has 259 tokens, the model 257"):
        save_gguf(tmp_path / "model", tmp_path / "m.gguf", "f16")
