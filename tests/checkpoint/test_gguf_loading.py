"""GGUF files into native weights: strict both ways, types kept, one clear error for a fault."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import WIDE, export, opened, unpacked, weights_of
from gguf_configs import SAYABLE
from small_models import draw_ids, relative_error

from expertly.checkpoint import load
from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.errors import CheckpointError, ConfigError, InputError
from expertly.formats.blocks import BLOCKS
from expertly.formats.gguf import read
from expertly.formats.gguf_reader import reader
from expertly.formats.gguf_values import Value
from expertly.formats.gguf_writer import Tensor, write

Change = Callable[[dict[str, Value], list[Tensor]], None]


def contents(path: Path) -> tuple[dict[str, Value], list[Tensor]]:
    """A file's metadata and tensors, to be written again."""
    file = read(path)
    tensors: list[Tensor] = []
    with reader(file) as source:
        for tensor in file.tensors.values():
            data = source.read(tensor)
            tensors.append((tensor.name, tensor.block, tensor.shape, lambda data=data: [data]))
    return dict(file.metadata), tensors


def changed(path: Path, change: Change) -> Path:
    metadata, tensors = contents(path)
    change(metadata, tensors)
    other = path.with_name("changed.gguf")
    write(other, metadata, tensors)
    return other


def f32(name: str, *shape: int) -> Tensor:
    data = np.ones(shape, np.float32).view(np.uint8)
    return name, BLOCKS["f32"], shape, lambda: [data]


def without(tensors: list[Tensor], *names: str) -> None:
    tensors[:] = [tensor for tensor in tensors if tensor[0] not in names]


def test_blocks_stay_in_their_type_the_embedding_too(tmp_path: Path) -> None:
    _, path, _ = export(tmp_path, WIDE, "q5_k")
    weights = weights_of(path)
    assert weights.matrix("embed_VD").format == "q5_k"
    assert weights.matrix("head_VD").format == "q6_k"
    assert weights.matrix("layers.0.feed_forward.experts.w_down_EDF", 3).format == "q5_k"
    assert weights.matrix("layers.0.feed_forward.router.w_ED").format == "f32"
    assert all(vector.dtype == np.float32 for vector in weights.vectors.values())


@pytest.mark.parametrize(
    ("dtype", "format_name", "bound"), [("int8", "q8_0", 0.05), ("int4", "i4", 0.7)]
)
def test_blocks_are_quantised_anew_if_that_is_asked(
    tmp_path: Path, dtype: str, format_name: str, bound: float
) -> None:
    model, path, _ = export(tmp_path, WIDE, "f16")
    weights = weights_of(path, dtype)
    here = "layers.0.feed_forward"
    assert weights.matrix(f"{here}.router.w_ED").format == "f32"
    for part in ("w_gate_EFD", "w_up_EFD", "w_down_EDF"):
        assert weights.matrix(f"{here}.experts.{part}", 3).format == format_name
    for name in ("embed_VD", "head_VD", "layers.0.attention.w_o_DHC"):
        assert weights.matrix(name).format == "q8_0"
    for name, found in unpacked(model, weights).items():
        right = model.get_parameter(name).detach().numpy()
        assert np.abs(found - right).max() <= bound * right.std(), name


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "bf16"])
def test_rows_of_any_block_type_are_put_back_into_halves(tmp_path: Path, kind: str) -> None:
    """Quantising and pairing rows commute: a row keeps its blocks."""
    hf = {**SAYABLE["mixtral"], "hidden_size": 64, "num_key_value_heads": 1, "head_dim": 24}
    model, path, _ = export(tmp_path, hf, kind)
    found = unpacked(model, weights_of(path))
    for name in ("layers.1.attention.w_q_HCD", "layers.1.attention.w_k_GCD"):
        right = model.get_parameter(name).detach().numpy()
        assert np.abs(found[name] - right).max() < 0.7 * right.std(), name


def test_heads_that_lie_in_two_pieces_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 16 rows, heads of 24."""
    monkeypatch.setattr("expertly.checkpoint.filling._CHUNK_BYTES", 1)
    hf = {**SAYABLE["mixtral"], "head_dim": 24}
    model, path, _ = export(tmp_path, hf)
    found = unpacked(model, weights_of(path))
    for parameter, right in model.named_parameters():
        np.testing.assert_array_equal(found[parameter], right.detach().numpy(), parameter)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _, t: without(t, "blk.1.attn_q.weight"), r"lacks blk\.1\.attn_q\.weight"),
        (
            lambda _, t: without(t, *(name for name, *_ in t if "blk.1" in name)),
            "and 5 more",
        ),
        (lambda _, t: t.append(f32("blk.1.extra.weight", 4)), r"no place for blk\.1\.extra"),
        (lambda _, t: t.append(f32("blk.2.attn_q.weight", 4)), r"no place for blk\.2\.attn_q"),
        (
            lambda _, t: t.__setitem__(
                slice(None),
                [f32(n, 6, 32) if n == "blk.0.ffn_gate_inp.weight" else (n, *r) for n, *r in t],
            ),
            r"ffn_gate_inp\.weight has the shape \[6, 32\], its metadata ask for \[5, 32\]",
        ),
        (lambda m, _: m.__setitem__("llama.expert_count", 6), "has the shape"),
        (lambda m, _: m.__setitem__("llama.expert_count", (1 << 31)), "has the shape"),
        (lambda m, _: m.__setitem__("llama.block_count", 3), r"lacks blk\.2\."),
        (lambda m, _: m.__setitem__("llama.block_count", 1), r"no place for blk\.1\."),
    ],
)
def test_tensors_and_metadata_must_agree(tmp_path: Path, change: Change, said: str) -> None:
    _, path, _ = export(tmp_path, SAYABLE["mixtral"])
    other = changed(path, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(other)
    assert caught.value.hint


def test_keys_that_nobody_knows_are_refused_by_name(tmp_path: Path) -> None:
    _, path, _ = export(tmp_path, SAYABLE["mixtral"])
    other = changed(path, lambda m, _: m.__setitem__("llama.attention.novel_scale", 2.0))
    with pytest.raises(ConfigError, match=r"llama\.attention\.novel_scale"):
        load(other)


def test_computed_frequencies_and_rows_told_as_matrices_are_harmless(tmp_path: Path) -> None:
    model, path, _ = export(tmp_path, SAYABLE["llama"])

    def change(_: dict[str, Value], tensors: list[Tensor]) -> None:
        norm = next(tensor for tensor in tensors if tensor[0] == "output_norm.weight")
        tensors.remove(norm)
        tensors.append((norm[0], norm[1], (1, 32), norm[3]))

    ids = draw_ids(model.config, 1, 9)
    found = opened(changed(path, change))(ids).logits
    assert relative_error(found, opened(path)(ids).logits) == 0.0


def test_factors_of_rope_must_be_plain_numbers(tmp_path: Path) -> None:
    _, path, _ = export(tmp_path, SAYABLE["llama3"])

    def change(_: dict[str, Value], tensors: list[Tensor]) -> None:
        without(tensors, "rope_freqs.weight")
        tensors.append(("rope_freqs.weight", BLOCKS["f16"], (5,), lambda: [bytes(10)]))

    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight is f16"):
        load(changed(path, change))


def test_split_files_are_one_model(tmp_path: Path) -> None:
    model, path, _ = export(tmp_path, SAYABLE["qwen3_moe"])
    metadata, tensors = contents(path)
    half = len(tensors) // 2
    for number, part in enumerate((tensors[:half], tensors[half:])):
        split = {
            "split.no": number,
            "split.count": 2,
            "split.tensors.count": len(tensors),
        }
        kept = metadata if number == 0 else {}
        write(tmp_path / f"m-{number + 1:05}-of-00002.gguf", {**kept, **split}, part)
    ids = draw_ids(model.config, 1, 9)
    found = opened(tmp_path / "m-00001-of-00002.gguf")(ids).logits
    assert relative_error(found, opened(path)(ids).logits) == 0.0


def merge_qkv(metadata: dict[str, Value], tensors: list[Tensor]) -> None:
    """Queries, keys and values, and what is added to them, each as one tensor a layer."""
    own = {tensor[0]: tensor for tensor in tensors}
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [own.get(f"blk.{layer}.attn_{letter}.{kind}") for letter in "qkv"]
            present = [part for part in parts if part is not None]
            if not present:
                continue
            data = np.concatenate([np.concatenate(list(part[3]())) for part in present])
            shape = (sum(part[2][0] for part in present), *present[0][2][1:])
            without(tensors, *(part[0] for part in present))
            merged = f"blk.{layer}.attn_qkv.{kind}"
            tensors.append((merged, present[0][1], shape, lambda data=data: [data]))


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2", "qwen2_moe", "qwen3_moe"])
def test_queries_keys_and_values_may_be_one_tensor(tmp_path: Path, family: str) -> None:
    _, path, _ = export(tmp_path, SAYABLE[family])
    merged = changed(path, merge_qkv)
    assert "blk.0.attn_qkv.weight" in read(merged).tensors
    apart, together = opened(path), opened(merged)
    ids_BS = draw_ids(apart.config, 2, 9)
    assert together.config == apart.config
    assert torch.equal(together(ids_BS).logits, apart(ids_BS).logits)


def test_experts_that_are_a_tensor_each_are_named_as_what_they_are(tmp_path: Path) -> None:
    def part(metadata: dict[str, Value], tensors: list[Tensor]) -> None:
        without(tensors, "blk.0.ffn_gate_exps.weight")
        tensors.append(f32("blk.0.ffn_gate.0.weight", 8, 8))

    _, path, _ = export(tmp_path, SAYABLE["mixtral"])
    with pytest.raises(CheckpointError, match="a tensor of its own") as caught:
        weights_of(changed(path, part))
    assert "newer conversion" in caught.value.hint


@pytest.mark.parametrize("damage", ["cut", "touched", "gone"])
def test_a_file_that_changes_between_its_head_and_its_tensors_is_one_clear_error(
    tmp_path: Path, damage: str
) -> None:
    _, path, _ = export(tmp_path, SAYABLE["mixtral"])
    file, config = open_gguf(path)
    if damage == "cut":
        os.truncate(path, file.size // 2)
    elif damage == "touched":
        os.utime(path, ns=(0, file.mtime_ns + 10**9))
    else:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_gguf(file, config, "native", 2)
    assert str(path) in caught.value.message


def test_a_file_runs_on_the_native_kernels_alone(tmp_path: Path) -> None:
    _, path, _ = export(tmp_path, SAYABLE["llama"])
    with pytest.raises(InputError, match="native kernels"):
        load(path, dtype="bfloat16")


def test_threads_change_nothing(tmp_path: Path) -> None:
    model, path, _ = export(tmp_path, WIDE, "q4_k")
    file, config = open_gguf(path)
    one, many = (unpacked(model, load_gguf(file, config, "native", n)) for n in (1, 7))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])
