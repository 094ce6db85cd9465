"""Mixtures that compute what the dense model computes, run by transformers and by us."""

import json
from pathlib import Path

import oracle
import pytest
import torch
from dense_models import DENSE, EXACT, errors, our_logits, with_width
from oracle_cases import CASES

from expertly.rewrite import Upcycling, upcycle

TARGETS = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}


def case_name(key: object) -> str:
    return "".join(map(str, key)) if isinstance(key, tuple) else str(key)


@pytest.mark.parametrize("key", DENSE, ids=case_name)
def test_copies_compute_what_the_dense_model_computes(key: tuple[str, int], tmp_path: Path) -> None:
    source = oracle.build(*key, tmp_path / "dense")
    written = upcycle(source.folder, tmp_path / "out", Upcycling(num_experts=5, num_chosen=3))
    assert written.is_exact
    assert written.config.family == TARGETS[key[0]]
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize("key", with_width(2), ids=case_name)
def test_virtual_groups_of_halves_compute_what_the_dense_model_computes(
    key: tuple[str, int], tmp_path: Path
) -> None:
    source = oracle.build(*key, tmp_path / "dense")
    how = Upcycling(num_experts=6, num_chosen=4, method="virtual-groups", granularity=2)
    written = upcycle(source.folder, tmp_path / "out", how)
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize(
    ("granularity", "num_experts", "num_chosen"), [(4, 4, 4), (4, 12, 4), (7, 14, 7), (14, 28, 28)]
)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_virtual_groups_are_exact_for_any_cut_and_any_number_of_groups(
    family: str, granularity: int, num_experts: int, num_chosen: int, tmp_path: Path
) -> None:
    source = oracle.build(family, 0, tmp_path / "dense")
    how = Upcycling(
        num_experts=num_experts,
        num_chosen=num_chosen,
        method="virtual-groups",
        granularity=granularity,
    )
    assert max(errors(source, upcycle(source.folder, tmp_path / "out", how))) < EXACT


@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_virtual_groups_beside_shared_parts_are_exact(
    family: str, shared: int, tmp_path: Path
) -> None:
    source = oracle.build(family, 0, tmp_path / "dense")
    parts = 4 - shared
    how = Upcycling(
        num_experts=parts * 3,
        num_chosen=max(2, parts),
        method="virtual-groups",
        granularity=4,
        shared=shared,
    )
    written = upcycle(source.folder, tmp_path / "out", how)
    assert written.config.family == "qwen2_moe"
    assert written.mixture.shared_size == shared * 7
    assert max(errors(source, written)) < EXACT


def test_copies_beside_a_shared_copy_are_exact(tmp_path: Path) -> None:
    source = oracle.build("qwen2", 0, tmp_path / "dense")
    how = Upcycling(num_experts=4, num_chosen=2, shared=1)
    assert max(errors(source, upcycle(source.folder, tmp_path / "out", how))) < EXACT


@pytest.mark.parametrize(("family", "case"), [("qwen2", 1), ("qwen3", 0)])
def test_with_every_second_layer_a_mixture_the_others_stay_dense(
    family: str, case: int, tmp_path: Path
) -> None:
    source = oracle.build(family, case, tmp_path / "dense")
    how = Upcycling(num_experts=4, num_chosen=2, every=2)
    written = upcycle(source.folder, tmp_path / "out", how)
    assert written.config.mixture_layers == (1,)
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_family_that_is_asked_for_is_taken_instead_of_the_first(
    family: str, tmp_path: Path
) -> None:
    source = oracle.build(family, 1 if family == "mistral" else 0, tmp_path / "dense")
    how = Upcycling(num_experts=4, num_chosen=2, family="qwen2_moe")
    written = upcycle(source.folder, tmp_path / "out", how)
    assert written.config.family == "qwen2_moe"
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_config_spelled_as_older_files_are_gives_the_same_mixture(
    family: str, tmp_path: Path
) -> None:
    source = oracle.build(family, 2, tmp_path / "dense")
    oracle.spell_as_hub(source.folder)
    written = upcycle(source.folder, tmp_path / "out", Upcycling(num_experts=4))
    assert max(errors(source, written)) < EXACT


def test_keys_left_to_the_dense_familys_defaults_do_not_fall_to_the_mixtures(
    tmp_path: Path,
) -> None:
    source = oracle.build("llama", 0, tmp_path / "dense")
    path = source.folder / "config.json"
    hf = json.loads(path.read_text())
    for name in ("rope_parameters", "rms_norm_eps", "hidden_act", "head_dim", "bos_token_id"):
        del hf[name]
    path.write_text(json.dumps(hf))
    written = upcycle(source.folder, tmp_path / "out", Upcycling(num_experts=4))
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": 0.5},
        {"method": "drop"},
        {"method": "fine-grained", "granularity": 2},
        {"method": "virtual-groups", "granularity": 2, "redraw": 0.5},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_what_changes_weights_changes_logits_and_says_so(changes: dict, tmp_path: Path) -> None:
    source = oracle.build("llama", 0, tmp_path / "dense")
    written = upcycle(source.folder, tmp_path / "out", Upcycling(num_experts=4, **changes))
    theirs, ours = errors(source, written)
    assert not written.is_exact
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_without_the_scale_of_its_parts_a_mixture_would_be_off(tmp_path: Path) -> None:
    # the tests above must be able to fail
    source = oracle.build("llama", 0, tmp_path / "dense")
    how = Upcycling(num_experts=4, num_chosen=2, method="virtual-groups", granularity=2)
    written = upcycle(source.folder, tmp_path / "out", how)
    model = oracle.open_folder(written.folder, "mixtral")
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "experts.down_proj" in name:
                parameter.mul_(0.5)
    ids_BS, mask_BS = oracle.ragged(CASES["llama"][0]["vocab_size"], seed=7)
    ours = our_logits(written.folder)(ids_BS, mask_BS)
    assert oracle.relative_error(model.logits(ids_BS, mask_BS), ours) > 0.05
