"""Models with every rule to a folder and back: parameters, steering biases, tables."""

import json
from pathlib import Path

import pytest
import router_rules
import torch
from safetensors.torch import load_file, save_file
from small_models import draw_ids

from expertly.checkpoint import load, save
from expertly.checkpoint.packed_saving import open_folder
from expertly.errors import CheckpointError, ConfigError
from expertly.model import Decoder, initialise


def saved(name: str, folder: Path, **settings) -> Decoder:
    model = Decoder(router_rules.config_of(name))
    initialise(model, 3, std=0.4)
    for key, buffer in model.named_buffers():
        if "b_steer" in key:
            # nothing that bfloat16 could hold
            buffer.copy_(torch.arange(len(buffer)) * 1e-3 + 1)
    save(model.eval(), folder, **settings)
    return model


def damage(folder: Path, name: str, tensor: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), name: tensor}, file)


@pytest.mark.parametrize("name", router_rules.NAMES)
def test_a_model_comes_back_as_it_was_saved(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "m", max_shard_bytes=4000)
    twin = load(tmp_path / "m")
    assert twin.config == model.config
    assert json.loads((tmp_path / "m" / "config.json").read_text())["model_type"] == "expertly"
    ours, theirs = model.state_dict(), twin.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    ids_BS = draw_ids(model.config, 2, 7)
    with torch.no_grad():
        assert torch.equal(model(ids_BS).logits, twin(ids_BS).logits)


def test_an_index_counts_the_bytes_of_tables_as_they_are(tmp_path: Path) -> None:
    saved("deepseek_v4_first", tmp_path / "m", max_shard_bytes=4000, dtype=torch.bfloat16)
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    tensors = [t for f in (tmp_path / "m").glob("*.safetensors") for t in load_file(f).values()]
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in tensors)


@pytest.mark.parametrize("name", ["deepseek_v3", "hash"])
def test_steering_biases_and_tables_keep_their_type_in_half_precision(
    name: str, tmp_path: Path
) -> None:
    model = saved(name, tmp_path / "m", dtype=torch.bfloat16)
    twin = load(tmp_path / "m", "bfloat16")
    buffers = dict(twin.named_buffers())
    assert len(buffers) == 2
    for key, buffer in model.named_buffers():
        assert buffers[key].dtype == buffer.dtype
        assert torch.equal(buffers[key], buffer)
    assert twin.embed_VD.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [6, -1, "twice"])
def test_a_table_that_names_no_expert_or_one_twice_is_refused(bad, tmp_path: Path) -> None:
    model = saved("hash", tmp_path / "m")
    key = "layers.1.feed_forward.router.table_VK"
    table_VK = model.state_dict()[key].clone()
    table_VK[7, 1] = table_VK[7, 0] if bad == "twice" else bad
    damage(tmp_path / "m", key, table_VK)
    with pytest.raises(CheckpointError, match=f"{key} names experts beyond 5 or one twice"):
        load(tmp_path / "m")


def test_a_table_must_be_of_integers_and_a_weight_of_floats(tmp_path: Path) -> None:
    model = saved("hash", tmp_path / "m")
    key = "layers.1.feed_forward.router.table_VK"
    damage(tmp_path / "m", key, model.state_dict()[key].float())
    with pytest.raises(CheckpointError, match=f"{key} in model.safetensors is of type"):
        load(tmp_path / "m")
    damage(tmp_path / "m", key, model.state_dict()[key])
    damage(tmp_path / "m", "embed_VD", model.embed_VD.detach().long())
    with pytest.raises(CheckpointError, match=r"embed_VD in model.safetensors is of type I64"):
        load(tmp_path / "m")


@pytest.mark.parametrize("dtype", ["native", "int8"])
def test_a_router_that_native_kernels_do_not_know_is_refused_in_time(
    dtype: str, tmp_path: Path
) -> None:
    saved("deepseek_v3", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()  # before any weight is read
    with pytest.raises(ConfigError, match="native kernels do not compute") as caught:
        load(tmp_path / "m", dtype)
    assert "float32" in caught.value.hint
    with pytest.raises(ConfigError, match="native kernels"), open_folder(tmp_path / "m"):
        pass


@pytest.mark.parametrize("name", ["softmax", "switch", "sparsemixer"])
def test_a_router_that_they_know_runs_on_them(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "m")
    ids_BS = draw_ids(model.config, 2, 7)
    found = load(tmp_path / "m", "native", threads=1)(ids_BS, routings=True)
    with torch.no_grad():
        expected = model(ids_BS, routings=True)
    torch.testing.assert_close(
        found.logits, expected.logits, rtol=0, atol=0.02
    )  # keys in half precision
    for ours, theirs in zip(found.routings, expected.routings, strict=True):
        assert torch.equal(ours.token_R, theirs.token_R)
