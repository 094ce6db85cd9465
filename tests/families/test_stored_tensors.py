"""Names and shapes of checkpoints, held against files that transformers writes."""

import json
import math
from pathlib import Path

import oracle
import pytest
import torch
from hub_configs import EVERY, HUB
from oracle_cases import CASES
from safetensors import safe_open

from expertly.families import parameters, read_config, stored_tensors
from expertly.families.naming import Stored

LETTERS = "VDHGCFEKP1"


def held_by(stored: Stored, tensor: torch.Tensor) -> dict[tuple[str, int | None], torch.Tensor]:
    return {
        (part.parameter, part.expert): tensor if part.view is None else part.view(tensor)
        for part in stored.parts
    }


@pytest.mark.parametrize(
    ("family", "case"), [(f, i) for f, cases in CASES.items() for i in range(len(cases))]
)
def test_names_and_shapes_are_those_that_transformers_writes(family, case, tmp_path: Path) -> None:
    oracle.build(family, case, tmp_path)
    config = read_config(json.loads((tmp_path / "config.json").read_text()))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        written = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    ours = list(stored_tensors(config))
    assert {stored.name: stored.shape for stored in ours} == written
    assert len(ours) == len(written)


@pytest.mark.parametrize(("family", "index"), EVERY)
def test_every_parameter_is_filled_once(family, index) -> None:
    config = read_config(HUB[family][index])
    places = parameters(config)
    filled = dict.fromkeys(places, 0)
    seen = set()
    for stored in stored_tensors(config):
        for (name, expert), held in held_by(stored, torch.empty(stored.shape)).items():
            assert (name, expert) not in seen
            seen.add((name, expert))
            shape = places[name] if expert is None else places[name][1:]
            assert held.shape == shape or all(part.view is None for part in stored.parts)
            filled[name] += held.numel()
    assert filled == {name: math.prod(shape) for name, shape in places.items()}


@pytest.mark.parametrize(("family", "index"), EVERY)
def test_views_share_the_memory_of_the_tensor_and_part_it_out_once(family, index) -> None:
    for stored in stored_tensors(read_config(HUB[family][index])):
        tensor = torch.zeros(stored.shape)
        for held in held_by(stored, tensor).values():
            held.add_(1)
        assert bool((tensor == 1).all())


@pytest.mark.parametrize(("family", "index"), EVERY)
def test_a_parameters_suffix_spells_its_shape(family, index) -> None:
    """Sizes of one letter are one size; F is a layer's own."""
    config = read_config(HUB[family][index])
    sizes: dict[str, set[int]] = {letter: set() for letter in LETTERS}
    for name, shape in parameters(config).items():
        letters = name.rsplit("_", 1)[1]
        assert len(letters) == len(shape), name
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter].add(size)
    assert all(len(found) <= 1 for letter, found in sizes.items() if letter != "F")


def held_of(family: str, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    config = read_config(HUB[family][0])
    (stored,) = [s for s in stored_tensors(config) if s.name == name]
    held = held_by(stored, tensor.expand(stored.shape))
    return {parameter.split(".")[-1]: value for (parameter, _), value in held.items()}


def test_gpt_oss_stores_gate_and_up_columns_by_turns() -> None:
    name = "model.layers.1.mlp.experts.gate_up_proj"
    held = held_of("gpt_oss", name, torch.arange(80))
    assert held["w_gate_EFD"].shape == held["w_up_EFD"].shape == (6, 40, 256)
    assert held["w_gate_EFD"][2, :, 5].tolist() == list(range(0, 80, 2))
    assert held["w_up_EFD"][2, :, 5].tolist() == list(range(1, 80, 2))
    biases = held_of("gpt_oss", name + "_bias", torch.arange(80))
    assert biases["b_gate_EF"][5].tolist() == list(range(0, 80, 2))
    assert biases["b_up_EF"][5].tolist() == list(range(1, 80, 2))


def test_gpt_oss_stores_down_transposed() -> None:
    held = held_of("gpt_oss", "model.layers.0.mlp.experts.down_proj", torch.arange(256))
    assert held["w_down_EDF"].shape == (6, 256, 40)
    assert held["w_down_EDF"][0, :, 7].tolist() == list(range(256))


def test_dbrx_fuses_q_k_and_v_rows_in_this_order() -> None:
    rows = torch.arange(64)[:, None]  # 4 query, 2 key and 2 value heads of width 8
    held = held_of("dbrx", "transformer.blocks.1.norm_attn_norm.attn.Wqkv.weight", rows)
    assert held["w_q_HCD"][3, :, 0].tolist() == list(range(24, 32))
    assert held["w_k_GCD"][1, :, 0].tolist() == list(range(40, 48))
    assert held["w_v_GCD"][0, :, 0].tolist() == list(range(48, 56))


def test_dbrx_packs_experts_one_below_another_and_down_transposed() -> None:
    rows = torch.arange(160)[:, None]  # 4 experts of width 40
    held = held_of("dbrx", "transformer.blocks.0.ffn.experts.mlp.w2", rows)
    assert held["w_down_EDF"].shape == (4, 32, 40)
    assert held["w_down_EDF"][3, 9].tolist() == list(range(120, 160))


def test_experts_kept_apart_name_their_place_in_the_stack() -> None:
    config = read_config(HUB["mixtral"][0])
    by_name = {stored.name: stored for stored in stored_tensors(config)}
    stored = by_name["model.layers.2.block_sparse_moe.experts.4.w3.weight"]
    (part,) = stored.parts
    assert stored.shape == (40, 256)
    assert (part.parameter, part.expert) == ("layers.2.feed_forward.experts.w_up_EFD", 4)


def test_a_tied_head_is_stored_once() -> None:
    untied = {s.name for s in stored_tensors(read_config(HUB["llama"][0]))}
    tied = {
        s.name
        for s in stored_tensors(read_config({**HUB["llama"][0], "tie_word_embeddings": True}))
    }
    assert untied - tied == {"lm_head.weight"}
    assert "head_VD" not in parameters(
        read_config({**HUB["llama"][0], "tie_word_embeddings": True})
    )


def test_deepseeks_shared_experts_are_one_mlp_without_a_gate() -> None:
    names = {s.name: s.shape for s in stored_tensors(read_config(HUB["deepseek"][0]))}
    here = "model.layers.1.mlp"
    assert names[f"{here}.shared_experts.down_proj.weight"] == (256, 24)
    assert names[f"{here}.gate.weight"] == (6, 256)
    assert names["model.layers.0.mlp.gate_proj.weight"] == (40, 256)
    assert f"{here}.shared_experts_gate.weight" not in names
