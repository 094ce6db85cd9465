"""What a step on many ranks takes: by hand for a small model, and as a user asks for it."""

import json
from dataclasses import replace

import pytest

from expertly.cli.entry import main
from expertly.errors import InputError
from expertly.families import read_config
from expertly.planner import routed_expert_params, total_params
from expertly.planner.devices import DEVICES, device
from expertly.planner.training import (
    Mesh,
    activation_bytes_per_token,
    memory,
    num_exchanges,
    rank_params,
    step_flops_per_token,
    step_time,
    traffic,
)

CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 6,
    "norm_topk_prob": True,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
MODEL = read_config(CONFIG)
EXPERTS = 2 * 4 * 3 * 8 * 6
OTHERS = total_params(MODEL) - EXPERTS


def test_the_hand_counted_experts_are_the_planners() -> None:
    assert routed_expert_params(MODEL) == EXPERTS


@pytest.mark.parametrize(
    ("mesh", "params"),
    [
        (Mesh(), EXPERTS + OTHERS),
        (Mesh(data=4), EXPERTS + OTHERS),
        (Mesh(experts=4), EXPERTS // 4 + OTHERS),
        (Mesh(experts=2, data=2, is_sharded=True), -(-(EXPERTS // 2 + OTHERS) // 2)),
    ],
)
def test_a_rank_has_its_experts_and_all_else_or_a_shard_of_that(mesh, params) -> None:
    assert rank_params(MODEL, mesh) == params
    found = memory(MODEL, mesh, 10, "adamw")
    assert (found.weights, found.gradients, found.moments) == (4 * params, 4 * params, 8 * params)
    assert memory(MODEL, mesh, 10, "muon").moments == 4 * params
    assert found.total == 16 * params + 10 * activation_bytes_per_token(MODEL)


def test_activations_of_a_token_are_what_its_layers_keep() -> None:
    # input, normed input twice; two query heads and answers, a key and a value; gate and up
    layer = 3 * 8 + (2 * 2 + 2 * 1) * 4 + 2 * (2 * 6)
    assert activation_bytes_per_token(MODEL) == 2 * 2 * layer + 8 * 32
    recomputed = activation_bytes_per_token(MODEL, recompute=True)
    assert recomputed == 2 * (2 * 8 + layer) + 8 * 32


def test_operations_of_a_token_are_six_a_weight_and_those_of_attention() -> None:
    idle = 2 * (4 - 2) * 3 * 8 * 6
    products = total_params(MODEL) - idle - 32 * 8
    assert step_flops_per_token(MODEL, 64) == 6 * products + 2 * 6 * 64 * 2 * 4


def test_rows_go_to_experts_and_back_in_both_passes() -> None:
    # 2 layers of 2 chosen, 8 numbers of 2 bytes, four ways, three rows in four to other ranks
    assert traffic(MODEL, Mesh(experts=4), 10).rows == 4 * 10 * 4 * 16 * 3 // 4
    assert traffic(MODEL, Mesh(data=4), 10).rows == 0


def test_gradients_are_summed_over_those_that_hold_the_same_weights() -> None:
    sent = traffic(MODEL, Mesh(experts=2, data=2), 10)
    assert sent.gathers == 0
    assert sent.gradients == 2 * (4 * EXPERTS // 2) // 2 + 2 * 4 * OTHERS * 3 // 4
    shards = traffic(MODEL, Mesh(data=4, is_sharded=True), 10)
    half = 4 * (EXPERTS + OTHERS) * 3 // 4
    assert (shards.gathers, shards.gradients) == (2 * half, half)


def test_a_step_takes_its_operations_and_bytes_at_the_devices_speed() -> None:
    where = replace(device("h100-ndr"), flops=1e6, node_link=1e3, net_link=1e2, devices_a_node=2)
    near = step_time(MODEL, Mesh(experts=2), where, 10, 64, 0.5)
    sent = traffic(MODEL, Mesh(experts=2), 10)
    assert near.compute == pytest.approx(10 * step_flops_per_token(MODEL, 64) / 5e5)
    assert near.rows == pytest.approx(sent.rows / 1e3)
    far = step_time(MODEL, Mesh(experts=4), where, 10, 64, 0.5)
    assert far.rows == pytest.approx(traffic(MODEL, Mesh(experts=4), 10).rows / 1e2)
    begun = num_exchanges(MODEL, Mesh(experts=2)) * where.exchange_seconds
    assert near.together == max(near.compute + near.rows, near.weights) + begun < near.apart


@pytest.mark.parametrize(
    ("mesh", "count"),
    [
        (Mesh(), 0),
        # loads, losses and the norm; all gradients at once
        (Mesh(data=2), 3 + 1),
        # counts, rows and answers, and both again; experts have no other copy
        (Mesh(experts=2), 5 * 2 + 3 + 1),
        (Mesh(experts=2, data=2), 5 * 2 + 3 + 2),
        # two layers and what is outside of them, each gathered twice and summed
        (Mesh(data=2, is_sharded=True), 3 + 3 * 3),
        # and the experts of two layers; what all have in common is summed over expert ranks too
        (Mesh(experts=2, data=2, is_sharded=True), 5 * 2 + 3 + 3 * (3 + 2) + 3),
    ],
)
def test_exchanges_are_counted_whatever_their_size(mesh, count) -> None:
    assert num_exchanges(MODEL, mesh) == count
    where = replace(device("h100-ndr"), exchange_seconds=2.0)
    found = step_time(MODEL, mesh, where, 10, 64, 0.5)
    assert found.exchanges == 2.0 * count
    assert found.together > found.exchanges or not count


def test_experts_that_cannot_be_shared_out_and_machines_unknown_are_refused() -> None:
    with pytest.raises(InputError, match="4 experts on 3 ranks"):
        Mesh(experts=3).check(MODEL)
    with pytest.raises(InputError, match="use one of a100-hdr, h100-ndr"):
        device("abacus")


def test_every_machine_says_where_its_figures_are_from() -> None:
    assert all(found.source and found.net_link < found.node_link for found in DEVICES)


@pytest.fixture
def path(tmp_path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "config.json")


def test_the_command_says_memory_traffic_time_and_what_is_left_out(path, capsys) -> None:
    assert main(["plan", path, "--train", "--ranks", "4", "--expert-ranks", "2"]) == 0
    text = capsys.readouterr().out
    assert "4 ranks on h100-ndr: experts over 2, 2 data ranks" in text
    assert "fits in 80.0 GB" in text and "left out: imbalance" in text


def test_json_has_every_number(path, capsys) -> None:
    arguments = ["--train", "--ranks", "2", "--shard", "--batch-tokens", "8192", "--json"]
    assert main(["plan", path, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    tokens_per_second = 8192 / found["time"]["together"]
    assert found["tokens_per_second"] == pytest.approx(tokens_per_second)
    assert (
        found["memory"]["total"]
        == memory(MODEL, Mesh(data=2, is_sharded=True), 4096, "adamw").total
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "6", "--expert-ranks", "4"], "6 ranks in sets of 4"),
        (["--ranks", "3", "--expert-ranks", "3"], "4 experts on 3 ranks"),
        (["--machine", "abacus"], "'abacus' is no machine"),
        (["--optimiser", "sgd"], "--optimiser sgd"),
        (["--batch-tokens", "1000"], "1,000 tokens a step are no sequences"),
        (["--sequence", "99999"], "sequences of 99,999 tokens, the model's context is"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_a_hint(path, capsys, arguments, said) -> None:
    assert main(["plan", path, "--train", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "hint:" in error and len(error.splitlines()) == 2
