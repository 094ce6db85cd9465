"""Several dense models in one mixture: whose weights go where, and what does not go together."""

import json
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from dense_folders import LLAMA, parameters_of, save_dense
from dense_models import EXACT, errors
from small_models import build

import expertly
from expertly.errors import InputError, OutputError, RecipeError
from expertly.families import read_config
from expertly.rewrite import MergeExpert, MergeRecipe, merge


def recipe_of(*folders: Path, **changes) -> MergeRecipe:
    experts = tuple(MergeExpert(source=str(folder)) for folder in folders)
    return MergeRecipe(experts=experts, **changes)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dense")
    for seed, name in enumerate("abc"):
        save_dense(folder / name, seed)
    return [folder / name for name in "abc"]


@pytest.mark.parametrize(
    ("family", "case"), [("llama", 0), ("mistral", 1), ("qwen2", 1), ("qwen3", 0)]
)
def test_copies_of_one_model_merge_into_what_it_computes(
    family: str, case: int, tmp_path: Path
) -> None:
    source = oracle.build(family, case, tmp_path / "dense")
    written = merge(recipe_of(*[source.folder] * 3), tmp_path / "out")
    assert max(errors(source, written)) < EXACT


def test_each_models_feed_forward_becomes_an_expert(three: list[Path], tmp_path: Path) -> None:
    merged = parameters_of(merge(recipe_of(*three), tmp_path / "out").folder)
    for expert, folder in enumerate(three):
        dense = parameters_of(folder)
        for layer in range(3):
            here = f"layers.{layer}.feed_forward"
            for kind, suffix in (("gate", "FD"), ("up", "FD"), ("down", "DF")):
                stack = merged[f"{here}.experts.w_{kind}_E{suffix}"]
                assert torch.equal(stack[expert], dense[f"{here}.w_{kind}_{suffix}"])


def test_all_other_tensors_are_the_mean_of_the_experts(three: list[Path], tmp_path: Path) -> None:
    written = merge(recipe_of(*three[:2], base=str(three[2])), tmp_path / "out")
    merged, one, other = (parameters_of(folder) for folder in (written.folder, *three[:2]))
    shared = [name for name in merged if "feed_forward." not in name]
    assert {"embed_VD", "head_VD", "norm.weight_D"} < set(shared)
    for name in shared:
        torch.testing.assert_close(merged[name], (one[name] + other[name]) / 2)


def test_all_other_tensors_can_be_the_bases(three: list[Path], tmp_path: Path) -> None:
    recipe = recipe_of(*three[:2], base=str(three[2]), others="base")
    merged, base = parameters_of(merge(recipe, tmp_path / "out").folder), parameters_of(three[2])
    for name in (name for name in merged if "feed_forward." not in name):
        assert torch.equal(merged[name], base[name])


def test_two_experts_of_equal_weight_are_one_feed_forward_of_twice_the_width(
    three: list[Path], tmp_path: Path
) -> None:
    recipe = recipe_of(*three[:2], base=str(three[2]), others="base")
    mixture = expertly.load(merge(recipe, tmp_path / "out").folder)
    wide = build(read_config({**LLAMA, "intermediate_size": 24}))
    parts = [parameters_of(folder) for folder in three]
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            if ".feed_forward.w_" not in name:
                parameter.copy_(parts[2][name])
                continue
            dim, scale = (1, 0.5) if name.endswith("_DF") else (0, 1.0)
            parameter.copy_(torch.cat([parts[0][name], parts[1][name]], dim) * scale)
        for layer in mixture.layers:
            layer.feed_forward.router.w_ED.zero_()
        ids_BS = torch.arange(20)[None]
        assert oracle.relative_error(mixture(ids_BS).logits, wide(ids_BS).logits) < EXACT


def test_routers_are_random_small_and_belong_to_the_seed(three: list[Path], tmp_path: Path) -> None:
    rows = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        written = merge(recipe_of(*three, seed=seed), tmp_path / name)
        rows.append(parameters_of(written.folder)["layers.1.feed_forward.router.w_ED"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert 0.01 < rows[0].std() < 0.03


def test_the_mixture_keeps_the_bases_tokenizer(three: list[Path], tmp_path: Path) -> None:
    out = merge(recipe_of(*three), tmp_path / "out").folder
    assert (out / "tokenizer.json").read_bytes() == (three[0] / "tokenizer.json").read_bytes()
    assert expertly.load(out).tokenizer.decode([40, 41]) != ""


def test_weights_keep_the_type_that_they_are_stored_in(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save_dense(tmp_path / name, seed, dtype=torch.bfloat16)
    written = merge(recipe_of(tmp_path / "a", tmp_path / "b"), tmp_path / "out")
    kinds = {entry.dtype for entry in expertly.checkpoint.shards.find(written.folder).values()}
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": 24}, "hidden_size"),
        ({"intermediate_size": 13}, "layers.feed_forward.size (13 instead of 12)"),
        ({"num_hidden_layers": 2}, "layers (2 instead of 3)"),
        ({"vocab_size": 258}, "vocab_size (258 instead of 257)"),
        ({"rope_theta": 500.0}, "layers.attention.rope.base (500.0 instead of 10000.0)"),
        ({"tie_word_embeddings": True}, "is_tied"),
        ({"rms_norm_eps": 0.1}, "norm.eps"),
        ({"model_type": "mistral", "sliding_window": 9}, "layers.attention.window"),
    ],
)
def test_a_model_of_another_shape_is_refused_by_name_and_by_what_differs(
    changes: dict, told: str, three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "stranger", **changes)
    with pytest.raises(InputError, match="stranger is not a model of the base's shape") as caught:
        merge(recipe_of(three[0], tmp_path / "stranger"), tmp_path / "out")
    assert told in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_longer_context_and_other_ends_are_no_other_shape(
    three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "b", max_position_embeddings=128, eos_token_id=3)
    written = merge(recipe_of(three[0], tmp_path / "b"), tmp_path / "out")
    assert (written.config.max_context, written.config.eos_ids) == (64, (256,))


def test_a_model_with_another_tokenizer_is_refused_by_name(
    three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "stranger", end="<end>")
    with pytest.raises(InputError, match="stranger has another tokenizer"):
        merge(recipe_of(three[0], tmp_path / "stranger"), tmp_path / "out")


def test_a_tokenizer_that_gives_two_tokens_each_others_ids_is_another(
    three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "stranger")
    path = tmp_path / "stranger" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="stranger has another tokenizer"):
        merge(recipe_of(three[0], tmp_path / "stranger"), tmp_path / "out")


def test_a_tokenizer_that_is_only_spelled_otherwise_is_the_same(
    three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "b")
    path = tmp_path / "b" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "truncation": None}, indent=3, sort_keys=True))
    assert merge(recipe_of(three[0], tmp_path / "b"), tmp_path / "out").mixture.num_experts == 2


def test_a_model_without_a_tokenizer_can_be_an_expert(three: list[Path], tmp_path: Path) -> None:
    save_dense(tmp_path / "b", has_tokenizer=False)
    assert merge(recipe_of(three[0], tmp_path / "b"), tmp_path / "out").mixture.num_experts == 2


def test_a_model_stored_in_another_type_is_refused_by_name(
    three: list[Path], tmp_path: Path
) -> None:
    save_dense(tmp_path / "half", dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"half stores embed_VD as torch\.bfloat16"):
        merge(recipe_of(three[0], tmp_path / "half"), tmp_path / "out")


def test_a_mixture_cannot_be_merged(three: list[Path], tmp_path: Path) -> None:
    merge(recipe_of(*three), tmp_path / "mixture")
    with pytest.raises(InputError, match="this mixtral is a mixture already"):
        merge(recipe_of(tmp_path / "mixture", tmp_path / "mixture"), tmp_path / "out")


def test_a_folder_that_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    with pytest.raises(OutputError, match="out exists already"):
        merge(recipe_of(tmp_path / "no", tmp_path / "model"), tmp_path / "out")


def test_an_expert_alone_makes_no_mixture(three: list[Path]) -> None:
    with pytest.raises(RecipeError, match="2 experts chosen out of 1"):
        recipe_of(three[0])


def test_the_base_is_the_first_expert_unless_it_is_named(three: list[Path]) -> None:
    recipe = recipe_of(*three)
    assert recipe.base_source == str(three[0])
    assert replace(recipe, base="elsewhere").base_source == "elsewhere"
