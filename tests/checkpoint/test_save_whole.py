"""What is saved loads again to the bit, in any type and cut anyhow; and it is there whole or not
at all."""

import errno
import importlib
import json
import os
import resource
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_checkpoints import (
    GPT_OSS,
    INDEX,
    MIXTRAL,
    TIED,
    change_config,
    header_of,
    tiny_model,
    write_tiny,
)

from expertly.checkpoint import load, save, whole_folder
from expertly.errors import InputError, OutputError
from expertly.families import stored_tensors
from expertly.model import Decoder
from expertly.text import Tokenizer

saving = importlib.import_module("expertly.checkpoint.saving")
streaming = importlib.import_module("expertly.checkpoint.streaming")

FAMILIES = {"mixtral": MIXTRAL, "gpt_oss": GPT_OSS, "tied": TIED}
each_family = pytest.mark.parametrize("name", FAMILIES)


def assert_same(ours: Decoder, theirs: Decoder) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@each_family
@pytest.mark.parametrize("max_shard_bytes", [1, 3000, 20_000, 10**9])
def test_any_cut_into_shards_loads_again(tmp_path: Path, name: str, max_shard_bytes: int) -> None:
    model = write_tiny(tmp_path / "m", FAMILIES[name], max_shard_bytes=max_shard_bytes)
    again = load(tmp_path / "m")
    assert_same(again, model)
    assert again.config == model.config


@each_family
def test_shards_hold_no_more_than_asked_unless_one_tensor_does(tmp_path: Path, name: str) -> None:
    write_tiny(tmp_path / "m", FAMILIES[name], max_shard_bytes=6000)
    files = sorted((tmp_path / "m").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))
    ]
    for file in files:
        tensors = load_file(file)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        assert num_bytes <= 6000 or len(tensors) == 1


def test_the_index_says_where_each_tensor_lies_and_how_many_bytes_there_are(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m", max_shard_bytes=6000)
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    names = {stored.name for stored in stored_tensors(model.config)}
    assert index["weight_map"].keys() == names
    for name, file in index["weight_map"].items():
        assert name in header_of(tmp_path / "m" / file)[0]
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in model.parameters())


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m")
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "m" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@each_family
def test_bfloat16_files_into_float32_and_back_are_exact(tmp_path: Path, name: str) -> None:
    write_tiny(tmp_path / "half", FAMILIES[name], dtype=torch.bfloat16)
    wide = load(tmp_path / "half")
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    save(wide, tmp_path / "again", dtype=torch.bfloat16)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "half" / file).read_bytes()


@each_family
def test_a_bfloat16_model_is_the_rounded_float32_one(tmp_path: Path, name: str) -> None:
    model = write_tiny(tmp_path / "m", FAMILIES[name])
    half = load(tmp_path / "m", dtype="bfloat16")
    assert_same(half, model.bfloat16())
    save(half, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same(load(tmp_path / "half", dtype="bfloat16"), half)


def test_float16_files_are_read_and_written(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m", dtype=torch.float16)
    assert {t.dtype for t in load_file(tmp_path / "m" / "model.safetensors").values()} == {
        torch.float16
    }
    assert_same(load(tmp_path / "m"), model.half().float())


def test_the_config_is_written_as_it_was_read_with_the_saved_type(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**MIXTRAL, "torch_dtype": "float16", "_name_or_path": "x/y"}))
    save(load(tmp_path / "m"), tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again == {**MIXTRAL, "_name_or_path": "x/y", "dtype": "float32"}


def test_a_type_that_is_no_weight_type_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="float64"):
        save(tiny_model(MIXTRAL), tmp_path / "saved", dtype=torch.float64)
    assert not list(tmp_path.iterdir())


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model, tmp_path / "m", dtype=torch.bfloat16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_tokenizer_travels_with_the_model(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m")
    words = {"a": 0, "b": 1, "c": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "m" / "tokenizer.json"))
    model = load(tmp_path / "m")
    assert isinstance(model.tokenizer, Tokenizer)
    save(model, tmp_path / "again")
    assert load(tmp_path / "again").tokenizer.encode("c b") == [2, 1]


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes").write_text("mine")
    with pytest.raises(OutputError, match="m exists already"):
        save(tiny_model(), tmp_path / "m")
    assert left_in(tmp_path) == ["m"]
    assert (tmp_path / "m" / "notes").read_text() == "mine"


def test_a_file_of_that_name_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("mine")
    with pytest.raises(OutputError, match="m exists already"):
        save(tiny_model(), tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"


def test_an_empty_folder_and_missing_parents_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(tiny_model(), tmp_path / "empty")
    save(tiny_model(), tmp_path / "a" / "b" / "c")
    assert_same(load(tmp_path / "empty"), load(tmp_path / "a" / "b" / "c"))


def test_a_place_that_cannot_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save(tiny_model(), tmp_path / "file" / "m")
    assert left_in(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_a_disk_that_fills_up_midway_leaves_nothing(tmp_path, monkeypatch, failing) -> None:
    calls = []
    real = streaming._write_shard

    def fill_up(*args):
        calls.append(1)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(streaming, "_write_shard", fill_up)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        save(tiny_model(), tmp_path / "m", max_shard_bytes=6000)
    assert "space" in caught.value.hint
    assert len(calls) == failing
    assert left_in(tmp_path) == []


def test_a_write_that_the_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    model = tiny_model()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written: .*File too large") as caught:
            save(model, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in caught.value.message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, AssertionError])
def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch, error) -> None:
    real = streaming._write_shard

    def interrupt(*args) -> None:
        assert list(real(*args))
        raise error

    monkeypatch.setattr(streaming, "_write_shard", interrupt)
    with pytest.raises(error):
        save(tiny_model(), tmp_path / "m", max_shard_bytes=6000)
    assert left_in(tmp_path) == []


def test_everything_is_on_disk_before_the_folder_appears(tmp_path: Path, monkeypatch) -> None:
    synced = []
    real_rename, real_sync = Path.rename, saving._sync

    def sync(path: Path) -> None:
        synced.append(path.name)
        real_sync(path)

    def rename(partial: Path, folder: Path) -> Path:
        assert {"config.json", INDEX, partial.name} <= set(synced)
        assert len(synced) == len(list(partial.iterdir())) + 1
        assert not folder.exists()
        return real_rename(partial, folder)

    monkeypatch.setattr(saving, "_sync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    save(tiny_model(), tmp_path / "m", max_shard_bytes=6000)
    assert synced[-1] == tmp_path.name


def test_a_whole_folder_is_open_to_those_who_may_read(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "m") as partial:
        assert partial.parent == tmp_path
        (partial / "a").write_text("b")
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755
    assert left_in(tmp_path / "m") == ["a"]


def test_a_config_changed_after_saving_is_a_different_model(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m")
    first = load(tmp_path / "m")
    change_config(tmp_path / "m", num_experts_per_tok=1)
    second = load(tmp_path / "m")
    assert first.config != second.config
    ids_BS = torch.tensor([[1, 5, 9, 3]])
    with torch.no_grad():
        assert not torch.allclose(first(ids_BS).logits, second(ids_BS).logits)
