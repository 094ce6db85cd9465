"""Copies of a mixture's experts: which keep the function, and how the others differ."""

import json
from pathlib import Path

import oracle
import pytest
import torch
from dense_models import EXACT, error_of, errors, our_logits
from oracle_cases import CASES
from small_models import build

import expertly
from expertly.checkpoint import locate
from expertly.errors import CheckpointError, InputError
from expertly.families import read_config
from expertly.rewrite import Duplication, upcycle

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "dbrx", "gpt_oss")
MIXTURES = [(family, case) for family in FAMILIES for case in range(len(CASES[family]))]
DEEPSEEK = {
    "model_type": "deepseek",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 20,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(("family", "case"), MIXTURES)
def test_all_copies_of_the_chosen_experts_compute_what_they_did(
    family: str, case: int, tmp_path: Path
) -> None:
    source = oracle.build(family, case, tmp_path / "source")
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2))
    assert written.is_exact
    assert max(errors(source, written)) < EXACT


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "dbrx"])
def test_three_copies_are_as_exact_as_two(family: str, tmp_path: Path) -> None:
    source = oracle.build(family, 0, tmp_path / "source")
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=3))
    before = getattr(source.model.config, "num_local_experts", None)
    assert before is None or written.mixture.num_experts == 3 * before
    assert max(errors(source, written)) < EXACT


def test_a_config_spelled_as_older_files_are_grows_under_its_own_keys(tmp_path: Path) -> None:
    source = oracle.build("dbrx", 2, tmp_path / "source")
    oracle.spell_as_hub(source.folder)
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2))
    hf = json.loads((written.folder / "config.json").read_text())
    assert hf["ffn_config"]["moe_num_experts"] == 10
    assert hf["ffn_config"]["moe_top_k"] == 8
    # transformers does not read the base of rope where that spelling has it
    assert error_of(source, our_logits(written.folder)) < EXACT


def test_both_spellings_of_the_number_of_experts_grow_together(tmp_path: Path) -> None:
    source = oracle.build("qwen3_moe", 0, tmp_path / "source")
    path = source.folder / "config.json"
    hf = json.loads(path.read_text())
    path.write_text(json.dumps({**hf, "num_experts": 6, "num_local_experts": 6}))
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2))
    hf = json.loads((written.folder / "config.json").read_text())
    assert (hf["num_experts"], hf["num_local_experts"]) == (12, 12)


def test_softmax_over_twice_the_experts_halves_each_share(tmp_path: Path) -> None:
    # olmoe's first case does not renormalise: two copies of p/2 are what makes p
    source = oracle.build("olmoe", 0, tmp_path / "source")
    upcycle(source.folder, tmp_path / "out", Duplication(copies=2))
    ids_BS = torch.arange(9)[None]
    before = expertly.load(source.folder)(ids_BS, routings=True).routings[0]
    after = expertly.load(tmp_path / "out")(ids_BS, routings=True).routings[0]
    torch.testing.assert_close(after.probs_TE[:, 0::2], before.probs_TE / 2)
    torch.testing.assert_close(after.probs_TE[:, 1::2], before.probs_TE / 2)
    torch.testing.assert_close(after.counts_E, before.counts_E.repeat_interleave(2))


@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_with_as_many_chosen_as_before_the_function_changes_and_is_said_to(
    family: str, tmp_path: Path
) -> None:
    source = oracle.build(family, 0, tmp_path / "source")
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2, num_chosen=2))
    theirs, ours = errors(source, written)
    assert not written.is_exact
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=1e-2)


def test_choosing_copies_of_one_expert_less_is_the_model_that_chooses_one_less(
    tmp_path: Path,
) -> None:
    source = oracle.build("mixtral", 1, tmp_path / "source")  # 3 of 8
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2, num_chosen=4))
    path = source.folder / "config.json"
    hf = json.loads(path.read_text())
    path.write_text(json.dumps({**hf, "num_experts_per_tok": 2}))
    assert (
        error_of(oracle.open_folder(source.folder, "mixtral"), our_logits(written.folder)) < EXACT
    )


def test_noise_makes_copies_differ_and_leaves_routers_alike(tmp_path: Path) -> None:
    source = oracle.build("mixtral", 0, tmp_path / "source")
    written = upcycle(source.folder, tmp_path / "out", Duplication(copies=2, noise=0.1))
    assert not written.is_exact
    layer = expertly.load(written.folder).layers[0].feed_forward
    original = expertly.load(source.folder).layers[0].feed_forward
    assert torch.equal(layer.router.w_ED[0::2], original.router.w_ED)
    assert torch.equal(layer.router.w_ED[1::2], original.router.w_ED)
    for name in ("w_gate_EFD", "w_up_EFD", "w_down_EDF"):
        copies = getattr(layer.experts, name).detach()
        one = getattr(original.experts, name).detach()
        change = copies[0::2] - one
        assert not torch.equal(copies[0::2], copies[1::2])
        assert float(change.std() / one.std()) == pytest.approx(0.1, rel=0.1)


def test_a_deepseek_keeps_its_dense_layers_and_shared_experts(tmp_path: Path) -> None:
    expertly.save(build(read_config(DEEPSEEK)), tmp_path / "source")
    written = upcycle(tmp_path / "source", tmp_path / "out", Duplication(copies=2))
    assert written.config.mixture_layers == (1,)
    ids_BS = torch.arange(12)[None]
    before = expertly.load(tmp_path / "source")(ids_BS).logits
    after = expertly.load(tmp_path / "out")(ids_BS).logits
    assert oracle.relative_error(after, before) < EXACT


def test_the_bundled_model_with_twice_its_experts_writes_the_same_text(tmp_path: Path) -> None:
    source = locate(None)
    upcycle(source, tmp_path / "out", Duplication(copies=2))
    texts = []
    for folder in (source, tmp_path / "out"):
        with expertly.Engine(expertly.load(folder, "native")) as engine:
            pieces = engine.stream("def area", expertly.Sampling(temperature=0.0, max_tokens=24))
            texts.append("".join(piece.text for piece in pieces))
    assert texts[0] == texts[1] != ""


def test_a_rule_that_takes_two_experts_at_most_is_refused(tmp_path: Path) -> None:
    source = oracle.build("phimoe", 0, tmp_path / "source")
    with pytest.raises(
        InputError, match=r"experts of a phimoe cannot be copied: .* no more than 2"
    ):
        upcycle(source.folder, tmp_path / "out", Duplication())


def test_a_dense_model_has_no_experts_to_copy(tmp_path: Path) -> None:
    source = oracle.build("llama", 0, tmp_path / "source")
    with pytest.raises(InputError, match="this llama has no experts") as caught:
        upcycle(source.folder, tmp_path / "out", Duplication())
    assert "--experts" in caught.value.hint


def test_more_chosen_than_there_are_copies_is_refused_by_their_numbers(tmp_path: Path) -> None:
    source = oracle.build("mixtral", 0, tmp_path / "source")
    with pytest.raises(ValueError, match="9 experts chosen out of 8"):
        upcycle(source.folder, tmp_path / "out", Duplication(copies=2, num_chosen=9))


def test_experts_that_are_kept_as_codes_are_refused(tmp_path: Path) -> None:
    source = oracle.build("gpt_oss", 0, tmp_path / "source")
    path = source.folder / "config.json"
    hf = json.loads(path.read_text())
    hf["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    path.write_text(json.dumps(hf))
    with pytest.raises(CheckpointError, match="MXFP4 codes"):
        upcycle(source.folder, tmp_path / "out", Duplication())


@pytest.mark.parametrize(
    "wrong", [{"copies": 1}, {"num_chosen": 0}, {"noise": -0.1}, {"noise": float("nan")}]
)
def test_an_impossible_duplication_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Duplication(**wrong)
