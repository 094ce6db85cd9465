"""Whose units each expert holds, layer by layer, and how routers begin."""

from pathlib import Path

import pytest
import torch
from dense_folders import parameters_of, save_dense
from torch import Tensor

import expertly
from expertly.rewrite import Upcycling, upcycle

SIZE = 12


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "dense"
    save_dense(folder)
    return folder


def parts_of(dense: Path, out: Path, **how) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    written = upcycle(dense, out, Upcycling(**how))
    return parameters_of(dense), parameters_of(written.folder)


def units_of(rows_FD: Tensor, of_FD: Tensor) -> list[int]:
    """Which row of the dense matrix each row of an expert is; -1 for one that is drawn anew."""
    same = (rows_FD[:, None] == of_FD[None]).all(-1)
    return [int(row.nonzero()[0]) if row.any() else -1 for row in same]


def test_each_set_of_fine_grained_parts_holds_every_unit_once_in_an_order_of_its_own(
    dense: Path, tmp_path: Path
) -> None:
    source, mixture = parts_of(
        dense, tmp_path / "out", num_experts=9, method="fine-grained", granularity=3, redraw=0.0
    )
    orders = []
    for layer in range(3):
        here = f"layers.{layer}.feed_forward"
        gates_EFD = mixture[f"{here}.experts.w_gate_EFD"]
        for replica in range(3):
            experts = gates_EFD[3 * replica : 3 * replica + 3]
            units = [units_of(rows, source[f"{here}.w_gate_FD"]) for rows in experts]
            assert sorted(unit for part in units for unit in part) == list(range(SIZE))
            orders.append(tuple(map(tuple, units)))
    assert len(set(orders)) == 9


def test_a_fine_grained_expert_has_the_same_units_in_all_its_matrices(
    dense: Path, tmp_path: Path
) -> None:
    source, mixture = parts_of(
        dense, tmp_path / "out", num_experts=8, method="fine-grained", granularity=4, redraw=0.0
    )
    here = "layers.1.feed_forward"
    for expert in range(8):
        units = units_of(mixture[f"{here}.experts.w_gate_EFD"][expert], source[f"{here}.w_gate_FD"])
        up = mixture[f"{here}.experts.w_up_EFD"][expert]
        down = mixture[f"{here}.experts.w_down_EDF"][expert]
        # four parts: twice as much of each of the two, so that four of them make a whole
        assert torch.equal(up, source[f"{here}.w_up_FD"][units] * 2)
        assert torch.equal(down, source[f"{here}.w_down_DF"][:, units] * 2)


def test_the_shared_expert_and_the_routed_parts_share_no_unit(dense: Path, tmp_path: Path) -> None:
    source, mixture = parts_of(
        dense,
        tmp_path / "out",
        num_experts=4,
        method="fine-grained",
        granularity=4,
        shared=2,
        redraw=0.0,
    )
    drawn = set()
    for layer in range(3):
        here = f"layers.{layer}.feed_forward"
        dense_FD = source[f"{here}.w_gate_FD"]
        shared = units_of(mixture[f"{here}.shared.w_gate_FD"], dense_FD)
        assert len(shared) == 6
        drawn.add(tuple(shared))
        for replica in (0, 2):
            experts = mixture[f"{here}.experts.w_gate_EFD"][replica : replica + 2]
            routed = units_of(experts.flatten(0, 1), dense_FD)
            assert sorted(shared + routed) == list(range(SIZE))
        # its gate is half open, and its last matrix makes up for that
        down_DF = source[f"{here}.w_down_DF"][:, shared]
        assert torch.equal(mixture[f"{here}.shared.w_down_DF"], down_DF * 2)
        assert not mixture[f"{here}.w_shared_gate_D"].any()
    # and which units are shared is drawn for each layer
    assert len(drawn) == 3


def test_virtual_groups_repeat_the_same_parts_and_their_routers(
    dense: Path, tmp_path: Path
) -> None:
    source, mixture = parts_of(
        dense, tmp_path / "out", num_experts=6, method="virtual-groups", granularity=2
    )
    for layer in range(3):
        here = f"layers.{layer}.feed_forward"
        gates_EFD = mixture[f"{here}.experts.w_gate_EFD"]
        for replica in range(3):
            pair = gates_EFD[2 * replica : 2 * replica + 2].flatten(0, 1)
            assert torch.equal(pair, source[f"{here}.w_gate_FD"])
        rows_ED = mixture[f"{here}.router.w_ED"]
        assert torch.equal(rows_ED[0::2], rows_ED[1::2])
        assert len(rows_ED.unique(dim=0)) == 3


def test_a_dropped_unit_is_dropped_in_one_expert_of_one_layer(dense: Path, tmp_path: Path) -> None:
    source, mixture = parts_of(dense, tmp_path / "out", num_experts=4, method="drop", redraw=0.25)
    kept = set()
    for layer in range(3):
        here = f"layers.{layer}.feed_forward"
        for expert in range(4):
            gate = mixture[f"{here}.experts.w_gate_EFD"][expert]
            units = units_of(gate, source[f"{here}.w_gate_FD"])
            down = mixture[f"{here}.experts.w_down_EDF"][expert]
            assert units.count(-1) == 3
            # the others stay where they are, in every matrix
            assert all(unit in (place, -1) for place, unit in enumerate(units))
            assert units == units_of(down.T, source[f"{here}.w_down_DF"].T)
            kept.add(tuple(units))
    assert len(kept) > 8


def test_a_silent_shared_expert_adds_nothing_and_can_learn(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", model_type="qwen2", intermediate_size=300)
    _, mixture = parts_of(tmp_path / "dense", tmp_path / "out", num_experts=2)
    assert mixture["layers.0.feed_forward.shared.w_down_DF"].shape == (16, 256)
    for layer in range(3):
        here = f"layers.{layer}.feed_forward.shared"
        assert not mixture[f"{here}.w_down_DF"].any()
        assert float(mixture[f"{here}.w_gate_FD"].std()) == pytest.approx(0.02, rel=0.1)
        assert float(mixture[f"{here}.w_up_FD"].std()) == pytest.approx(0.02, rel=0.1)


def test_routers_begin_small_random_and_unlike_in_each_layer(dense: Path, tmp_path: Path) -> None:
    _, mixture = parts_of(dense, tmp_path / "out", num_experts=64)
    rows = [mixture[f"layers.{layer}.feed_forward.router.w_ED"] for layer in range(3)]
    for rows_ED in rows:
        assert float(rows_ED.std()) == pytest.approx(0.02, rel=0.1)
        assert abs(float(rows_ED.mean())) < 0.002
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("how", "learns"),
    [({}, False), ({"noise": 0.05}, True), ({"method": "drop"}, True)],
    ids=["copy", "noise", "drop"],
)
def test_routers_of_copies_learn_only_when_the_copies_differ(
    how: dict, learns: bool, dense: Path, tmp_path: Path
) -> None:
    written = upcycle(dense, tmp_path / "out", Upcycling(num_experts=4, **how))
    model = expertly.load(written.folder, "float32")
    ids_BS = torch.arange(20)[None]
    logits_SV = model(ids_BS).logits[0]
    torch.nn.functional.cross_entropy(logits_SV[:-1], ids_BS[0, 1:]).backward()
    layer = model.layers[1].feed_forward
    router, gate = layer.router.w_ED.grad.abs().max(), layer.experts.w_gate_EFD.grad.abs().max()
    assert (float(router / gate) > 1e-2) is learns
    assert float(gate) > 0


@pytest.mark.parametrize(
    "how",
    [{"method": "drop"}, {"method": "fine-grained", "granularity": 4}, {"noise": 0.1}],
    ids=["drop", "fine-grained", "noise"],
)
def test_a_seed_gives_the_same_mixture_and_another_seed_another(
    how: dict, dense: Path, tmp_path: Path
) -> None:
    written = [
        upcycle(dense, tmp_path / name, Upcycling(num_experts=4, seed=seed, **how))
        for name, seed in (("one", 5), ("again", 5), ("other", 6))
    ]
    one, again, other = ((w.folder / "model.safetensors").read_bytes() for w in written)
    assert one == again
    assert one != other


def test_what_is_drawn_does_not_depend_on_how_files_are_cut(dense: Path, tmp_path: Path) -> None:
    how = Upcycling(num_experts=4, method="drop")
    upcycle(dense, tmp_path / "one", how)
    upcycle(dense, tmp_path / "many", how, max_shard_bytes=3000)
    assert len([*(tmp_path / "many").glob("*.safetensors")]) > 5
    one, many = parameters_of(tmp_path / "one"), parameters_of(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)
