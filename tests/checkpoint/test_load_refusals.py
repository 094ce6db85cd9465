"""What `load` refuses: each error names the file or the tensor, and says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import (
    EMBEDDING,
    HEAD,
    INDEX,
    MIXTRAL,
    TIED,
    change_config,
    change_tensors,
    tiny_model,
    write_tiny,
)

from expertly.checkpoint import load
from expertly.errors import CheckpointError, ConfigError, InputError

ROUTER = "model.layers.1.block_sparse_moe.gate.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "model", max_shard_bytes=8000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    return tmp_path / "model"


def refused(folder: Path, *parts: str) -> CheckpointError:
    """The one line that `load` refuses the folder with, which holds all the parts."""
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for part in parts:
        assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "config.json")


@pytest.mark.parametrize(
    "text",
    ["", "{", "not json", '{"a": 1,}', "\x00", '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000],
    ids=["empty", "open", "words", "comma", "nul", "deep", "long"],
)
def test_a_config_that_is_not_json_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "not valid JSON")


def test_a_config_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{}")
    refused(folder, "config.json", "not valid JSON")


@pytest.mark.parametrize("text", ["[]", "3", '"mixtral"', "null"])
def test_a_config_that_is_no_object_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "no JSON object")


def test_a_config_that_is_a_folder_cannot_be_read(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    refused(folder, "config.json", "cannot be read")


def test_an_unknown_dtype_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match="'int7'") as caught:
        load(folder, dtype="int7")
    assert "float32" in caught.value.hint and "bfloat16" in caught.value.hint


def test_a_config_key_that_nobody_knows_is_refused(folder: Path) -> None:
    change_config(folder, num_secret_experts=3)
    with pytest.raises(ConfigError, match="num_secret_experts"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), ".safetensors")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refused(sharded, shard.name, "missing")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda index: index.pop("weight_map"), ["no weight_map"]),
        (lambda index: index.update(weight_map={}), ["no weight_map"]),
        (lambda index: index.update(weight_map=["a"]), ["no weight_map"]),
        (lambda index: index["weight_map"].update(a="../model.safetensors"), ["outside"]),
        (lambda index: index["weight_map"].update(a="/etc/passwd"), ["outside"]),
        (lambda index: index["weight_map"].update(a="b/c.safetensors"), ["outside"]),
        (lambda index: index["weight_map"].update(a=".."), [".."]),
        (lambda index: index["weight_map"].update(a=""), ["damaged"]),
        (lambda index: index["weight_map"].update(a="n.safetensors"), ["n.safetensors"]),
        (lambda index: index["weight_map"].update(a="n\0.safetensors"), ["missing"]),
        (lambda index: index["weight_map"].update(a=None), ["None"]),
        (lambda index: index["weight_map"].update(a=["b"]), ["b"]),
    ],
    ids=[
        "none",
        "empty",
        "list",
        "parent",
        "root",
        "below",
        "dots",
        "nameless",
        "absent",
        "nul",
        "null",
        "nested",
    ],
)
def test_an_index_that_points_elsewhere_is_refused(
    sharded: Path, change: Callable, parts: list[str]
) -> None:
    index = json.loads((sharded / INDEX).read_text())
    change(index)
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, *parts)


def test_an_index_that_is_not_json_is_named(sharded: Path) -> None:
    (sharded / INDEX).write_text("{")
    refused(sharded, INDEX, "not valid JSON")


def test_an_index_that_forgets_a_shard_leaves_its_tensors_missing(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    gone = index["weight_map"][EMBEDDING]
    names = {name for name, file in index["weight_map"].items() if file == gone}
    index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != gone}
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, f"lacks {len(names)} tensor", EMBEDDING)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, **{ROUTER.replace(".", "__"): None})
    refused(folder, f"lacks 1 tensor ({ROUTER})")


def test_many_missing_tensors_are_counted_and_a_few_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({EMBEDDING: tensors[EMBEDDING]}, folder / "model.safetensors")
    error = refused(folder, f"lacks {len(tensors) - 1} tensors (", f"and {len(tensors) - 6} more)")
    assert error.message.count(".weight") == 5


def test_a_tensor_that_is_left_over_is_named(folder: Path) -> None:
    change_tensors(folder, model__layers__9__strange=torch.zeros(2))
    refused(folder, "1 tensor (model.layers.9.strange)", "mixtral")


def test_the_experts_of_another_config_are_left_over_or_missing(folder: Path) -> None:
    change_config(folder, num_local_experts=2)
    refused(folder, "experts.2.w1.weight")
    change_config(folder, num_local_experts=4)
    refused(folder, "lacks 6 tensors", "experts.3.w1.weight")


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(folder: Path) -> None:
    change_tensors(folder, **{ROUTER.replace(".", "__"): torch.zeros(24, 3)})
    refused(folder, ROUTER, "model.safetensors", "(24, 3)", "(3, 24)")


def test_a_config_that_asks_for_more_than_any_memory_is_a_wrong_shape(folder: Path) -> None:
    change_config(folder, vocab_size=10**15)
    refused(folder, EMBEDDING, "(37, 24)", "(1000000000000000, 24)")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float64, "F64"), (torch.int64, "I64"), (torch.int8, "I8"), (torch.bool, "BOOL")],
)
def test_a_tensor_of_another_type_is_named_with_its_type(folder, dtype, name) -> None:
    change_tensors(folder, model__norm__weight=torch.ones(24).to(dtype))
    error = refused(folder, "model.norm.weight", "model.safetensors", name)
    assert "BF16" in error.hint


def test_a_name_in_two_files_is_refused_with_both(folder: Path) -> None:
    save_file({ROUTER: torch.zeros(3, 24)}, folder / "more.safetensors")
    refused(folder, ROUTER, "model.safetensors", "more.safetensors")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_computed_angles_in_old_files_are_passed_over(folder: Path, name: str) -> None:
    change_tensors(folder, **{name.replace(".", "__"): torch.ones(3)})
    load(folder)


def test_a_head_of_its_own_is_not_passed_over_when_nothing_is_tied(folder: Path) -> None:
    change_tensors(folder, lm_head__weight=None)
    refused(folder, f"lacks 1 tensor ({HEAD})")


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "tied", TIED)
    assert HEAD not in load_file(tmp_path / "tied" / "model.safetensors")
    return tmp_path / "tied"


def test_a_tied_model_takes_a_head_that_equals_its_embedding(tied: Path) -> None:
    before = load(tied)
    same = load_file(tied / "model.safetensors")[EMBEDDING].clone()
    change_tensors(tied, lm_head__weight=same)
    after = load(tied)
    assert after.head_VD is None
    assert torch.equal(after.embed_VD, before.embed_VD)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_model_refuses_a_head_of_its_own(tied: Path, dtype: str) -> None:
    head = load_file(tied / "model.safetensors")[EMBEDDING].clone()
    head[36, 23] += 0.5
    change_tensors(tied, lm_head__weight=head)
    with pytest.raises(CheckpointError, match=re.escape(HEAD)) as caught:
        load(tied, dtype)
    assert "tie_word_embeddings" in caught.value.hint


def test_a_tied_model_refuses_a_head_of_another_shape(tied: Path) -> None:
    change_tensors(tied, lm_head__weight=torch.zeros(24, 37))
    refused(tied, HEAD)


def test_loading_takes_both_a_string_and_a_path_and_is_ready_to_run(folder: Path) -> None:
    first, second = load(str(folder)), load(folder)
    ids_BS = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(first(ids_BS).logits, second(ids_BS).logits)
    assert not first.training
    assert first.tokenizer is None


def test_every_parameter_is_what_the_file_holds(folder: Path) -> None:
    expected = tiny_model(MIXTRAL).state_dict()
    found = load(folder).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
